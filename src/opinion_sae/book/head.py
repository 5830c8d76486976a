"""A Sphinx extension: what a page says of itself to search engines, to those who cite it and to screen readers.

Without it a page has neither description nor author, the first one's title says the same twice, and the references
are a list whose entries are not marked as its items.
"""

import re
from html import escape, unescape

import yaml

from opinion_sae.book.paths import ROOT

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


def setup(app) -> dict:
    app.connect("html-page-context", add)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
