"""A Sphinx extension: what a page says of itself to search engines, to those who cite it and to screen readers.

Without it a page has neither description nor author, the first one's title says the same twice, and the references
are a list whose entries are not marked as its items.
"""

import re
from html import escape, unescape
from pathlib import Path

import yaml

from opinion_sae.book.paths import ROOT

UNNAMED = '<summary><span class="toctree-toggle"'
TOGGLE = "Show or hide the pages of this section"
LENGTH = 160  # characters of a description that search engines show
MARKUP = re.compile(r'<span class="section-number">.*?</span>|<[^>]+>')


def describe(doctree, otherwise: str) -> str:
    """The page's first paragraph in plain words, cut at a word to `LENGTH` characters, or `otherwise`."""
    paragraphs = doctree.findall(lambda node: node.tagname == "paragraph") if doctree else ()
    text = next((" ".join(node.astext().split()) for node in paragraphs), otherwise)
    return text if len(text) <= LENGTH else text[: LENGTH - 1].rsplit(" ", 1)[0] + "…"


def add(app, page: str, template: str, context: dict, doctree) -> None:
    """At `html-page-context`: description and citation into the head, as CITATION.cff has them."""
    book = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    first = page == app.config.root_doc
    title = unescape(MARKUP.sub("", context.get("title") or context["docstitle"]))
    names = {
        "description": describe(doctree, book["abstract"]),
        "citation_title": book["title"] if first else title,
        **({} if first else {"citation_inbook_title": book["title"]}),
        "citation_author": book["authors"][0]["name"],
        "citation_publication_date": str(book["date-released"]).replace("-", "/"),
    }
    tags = [f'<meta name="{name}" content="{escape(value)}" />' for name, value in names.items()]
    context["metatags"] = "\n".join([context.get("metatags", ""), *tags])
    if first and title == context["docstitle"]:  # which the theme puts after it
        about = book["title"].partition(": ")[2]
        context["title"] = about[:1].upper() + about[1:]
    if "body" in context:
        body = context["body"].replace('<div role="list" class="citation-list">', '<div class="citation-list">')
        context["body"] = body.replace(' role="doc-biblioentry"', "")


def name_toggles(app, exception: Exception | None) -> None:
    """At `build-finished`: the arrows that open a part of the sidebar, which the theme leaves without a name."""
    for path in [] if exception else Path(app.outdir).rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        named = text.replace(UNNAMED, UNNAMED.replace(">", f' aria-label="{TOGGLE}">', 1))
        if named != text:
            path.write_text(named, encoding="utf-8")


def setup(app) -> dict:
    app.connect("html-page-context", add)
    app.connect("build-finished", name_toggles)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
