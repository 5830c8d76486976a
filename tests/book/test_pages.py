"""The finished book as a browser draws it: `_build/smoke/html` after `make test` made it, or the folder `$HTML`.

Every page is opened once, from disk, and looked at on a phone, on a screen in both themes, and on paper; of the
pages of latents, which are many of one kind, the first, the last and one with both roles. The others are parsed.
"""

import asyncio
import math
import os
import re
import shutil
from collections import Counter
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, unquote, urldefrag, urljoin, urlsplit

import axe_playwright_python
import pytest
from playwright.async_api import async_playwright

from opinion_sae.artifacts import read_json
from opinion_sae.book.cards import places
from opinion_sae.book.latent_pages import addresses
from opinion_sae.book.paths import ROOT

HTML = Path(os.environ.get("HTML", ROOT / "_build" / "smoke" / "html")).resolve()
RESULTS = ROOT / "results" / ("smoke" if HTML.parent.name == "smoke" else "default")
SMALLEST = 8.0  # points
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
AT_ONCE = 2  # pages
PHONE, SCREEN, PAPER = (
    {"width": 390, "height": 844},
    {"width": 1280, "height": 800},
    {"width": 717, "height": 1000},  # A4 less Chromium's margins, at 96 dots per inch
)
SCRIPTS = Path(axe_playwright_python.__file__).with_name("axe.min.js"), Path(__file__).with_name("page.js")


@cache
def cards():
    """Those of the run, which its book shows."""
    return read_json(RESULTS / "cards.json")["cards"] if (RESULTS / "cards.json").is_file() else []


def opened(path):
    """Whether a browser looks at a page: of those of latents at the first, the last and one with both roles."""
    if path.parent != HTML / "latents":
        return 'http-equiv="Refresh"' not in path.read_text(encoding="utf-8")
    order = [card["latent"] for card in cards()]
    return int(path.stem) in {order[0], order[-1], *[one for one, n in Counter(order).items() if n > 1][:1]}


class Parsed(HTMLParser):
    """What `pageOf.facts` says of a page that no browser opens."""

    def __init__(self, path):
        super().__init__()
        self.url, self.inside = path.as_uri(), ""
        self.facts = {"url": self.url, "title": "", "lang": "", "metas": {}, "ids": [], "links": []}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values, self.inside = dict(attrs), tag
        self.facts["ids"] += [values["id"]] if "id" in values else []
        if tag == "html":
            self.facts["lang"] = values.get("lang", "")
        if tag == "meta" and "name" in values:
            self.facts["metas"][values["name"]] = values.get("content", "")
        if tag == "a" and "href" in values:
            self.facts["links"].append(urljoin(self.url, values["href"]))

    def handle_data(self, data):
        self.facts["title"] += data if self.inside == "title" else ""

    def handle_endtag(self, tag):
        self.inside = ""


def smallest_text(picture):
    """Of an SVG, in units of its width: its smallest letters; none where it has no words."""
    text = picture.read_text(encoding="utf-8")
    sizes = [float(size) for size in re.findall(r"font(?:-size)?:[^;\"]*?([\d.]+)px", text)]
    return min(sizes, default=math.inf) / float(re.search(r'viewBox="0 0 ([\d.]+)', text).group(1))


def too_small(figures):
    """Those of a page's figures, (address, width in pixels), whose smallest letters have less than 8 points."""
    for address, width in figures:
        path = Path(unquote(urlsplit(address).path))
        points = (
            0.75 * width * smallest_text(path) if path.suffix == ".svg" else 0
        )  # only an SVG has letters to measure
        if points < SMALLEST:
            yield f"{path.name}: {points:.1f} points at a width of {width:.0f} pixels"


async def look(page, path):
    """What there is to say of one page: facts, and a list of findings by rule."""
    name, said = path.relative_to(HTML).as_posix(), []
    page.on("console", lambda line: said.append(line.text) if line.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    asked = []
    await page.set_viewport_size(SCREEN)
    await page.emulate_media(reduced_motion="reduce")  # or colours are measured while they turn
    await page.goto(path.as_uri())
    await page.evaluate("document.fonts.ready.then(() => window.MathJax?.startup?.promise).then(() => null)")
    for script in SCRIPTS:
        await page.evaluate(script.read_text(encoding="utf-8"))
    seen = {"name": name, "url": path.as_uri(), **await page.evaluate("pageOf.facts()"), "axe": []}
    seen |= {"ends": await page.evaluate("pageOf.ends()"), "contents": await page.evaluate("pageOf.sidebar()")}
    seen["words"] = await page.evaluate("pageOf.broken()")
    await page.evaluate("pageOf.thin()")
    seen["axe"] += await page.evaluate("pageOf.rest()")
    for theme in ("light", "dark"):
        await page.emulate_media(color_scheme=theme)
        await page.wait_for_function(
            "theme => [theme, undefined].includes(document.documentElement.dataset.theme)", arg=theme
        )
        seen["axe"] += [f"{theme}: {one}" for one in await page.evaluate("pageOf.contrast()")]
    await page.set_viewport_size(PHONE)
    await page.evaluate("pageOf.settled()")
    seen["phone"] = await page.evaluate("pageOf.wide()")
    seen["words"] += [f"phone: {one}" for one in await page.evaluate("pageOf.broken()")]
    seen["letters"] = [*too_small(await page.evaluate("pageOf.figures()"))]
    seen["ends on a phone"] = await page.evaluate("pageOf.ends()")
    seen["axe"] += [f"phone: {one}" for one in await page.evaluate("pageOf.scrollable()")]
    await page.set_viewport_size(PAPER)
    await page.emulate_media(media="print")
    seen["paper"] = await page.evaluate("pageOf.cut()")
    seen["console"] = said
    seen["foreign"] = [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
    return seen


async def search(page, words):
    """The pages that the book's search finds."""
    await page.goto(f"{(HTML / 'search.html').as_uri()}?q={quote(words)}")
    await page.get_by_text("Search finished").wait_for()
    return await page.eval_on_selector_all("#search-results ul.search li a", "links => links.map(link => link.href)")


async def visit(browser_path):
    """All pages, each in a window of its own; the middle one's address, and those that a search for its title finds."""
    free = asyncio.Semaphore(AT_ONCE)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=browser_path)

        async def one(see, *given):
            async with free:
                context = await browser.new_context()
                found = await see(await context.new_page(), *given)
                await context.close()
                return found

        paths = sorted(path for path in HTML.rglob("*.html") if "_static" not in path.parts)
        pages = [path for path in paths if opened(path)]
        seen = await asyncio.gather(*(one(look, path) for path in pages))
        order = seen[0]["sidebar"]
        sought = order[len(order) // 2]
        title = {page["url"]: page["title"] for page in seen}[sought]
        found = await one(search, re.sub(r"^[\d.]+ | — .*$", "", title))
        await browser.close()
    return {page["name"]: page for page in seen}, sought, found


@pytest.fixture(scope="module")
def visited():
    if not HTML.is_dir():
        pytest.skip(f"{HTML} is not there: make test builds it")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None and not os.environ.get("CI"):
        pytest.skip(f"none of {', '.join(BROWSERS)} is on the PATH")
    assert browser, f"none of {', '.join(BROWSERS)} is on the PATH"
    return asyncio.run(visit(browser))


@pytest.fixture(scope="module")
def pages(visited):
    return visited[0]


@pytest.fixture(scope="module")
def every(pages):
    """The pages that were opened, and of the latents' pages that were not what `Parsed` finds."""
    found = {path.relative_to(HTML).as_posix(): path for path in (HTML / "latents").glob("*.html")}
    return pages | {name: Parsed(path).facts for name, path in found.items() if name not in pages}


@pytest.mark.parametrize(
    "rule", ["console", "foreign", "images", "tables", "phone", "words", "letters", "paper", "axe"]
)
def test_no_page_has_a_finding(pages, rule):
    found = [f"{name}: {rule}: {one}" for name, page in pages.items() for one in page[rule]]
    assert not found, "\n".join(["", *found])


def test_the_first_page_says_it_all_on_the_first_screen(pages):
    """Sentences, picture and six rows on a screen; on a phone the first two of them on one, the rows on the second."""
    first = pages["intro.html"]
    assert max(first["ends"].values()) <= SCREEN["height"], first["ends"]
    phone = first["ends on a phone"]
    assert max(phone["sentences"], phone["picture"]) <= PHONE["height"], phone
    assert phone["table"] <= 2 * PHONE["height"], phone


def test_the_sidebar_fits(pages):
    for name, page in pages.items():
        if name.startswith("latents/"):  # outside of it
            assert not page["contents"]
            continue
        assert page["contents"]["entries"] <= 13, name  # the first page and twelve more
        assert page["contents"]["over"] <= 0, f"{name}: the sidebar is {page['contents']['over']} pixels too long"


def test_three_kinds_of_reader_have_each_a_path_of_at_most_three_pages(pages):
    links = pages["intro.html"]["paths"]
    assert len(links) == 3 and all(1 <= len(set(path)) <= 3 for path in links), links


def test_every_latents_page_is_reached_from_the_offset_that_uses_it(pages, every):
    """From the chapter of the offset to that of its latents, to the page of an axis, or to the first page of what is
    written and from there to the others; there the latent has its name and a link to its page, which leads back."""
    found = cards()
    of = {name: {urldefrag(link)[0] for link in page["own"]} for name, page in pages.items()}
    assert pages["chapters/09_latents.html"]["url"] in of["chapters/17_reading.html"]
    own = addresses(found)
    assert {name for name in every if name.startswith("latents/")} == {
        page.removeprefix("../") for page in own.values()
    }
    for key, place in places(found).items():
        name, anchor = place.split("#")
        page, over = pages[f"cards/{name}"], "cards/written.html" if name.startswith("written-") else ""
        assert not over or pages[over]["url"] in of["chapters/09_latents.html"]
        assert page["url"] in of[over or "chapters/09_latents.html"] and page["ids"].count(anchor) == 1
        latent = every[own[key].removeprefix("../")]
        assert latent["url"] in of[f"cards/{name}"] and f"{page['url']}#{anchor}" in latent["links"]


def test_every_link_leads_somewhere(every):
    """Within the book: to a file that is there, and to something of that name on its page, or in the explorer to a
    question that it has."""
    ids = {page["url"]: {"", *page["ids"]} for page in every.values()}
    data = RESULTS / "explorer.json"
    questions = read_json(data)["questions"] if data.is_file() else []
    ids[(HTML / "chapters" / "20_explorer.html").as_uri()] |= {f"question={one['key']}" for one in questions}
    there, broken = {str(path) for path in HTML.rglob("*") if path.is_file()}, []
    for name, page in every.items():
        for link in page["links"]:
            url, anchor = urldefrag(link)
            if not url.startswith("file:"):
                continue
            path = unquote(url.removeprefix("file://")).partition("?")[0]
            if path not in there:
                broken.append(f"{name}: link: {path} is not in the book")
            elif unquote(anchor) not in ids.get(url, {"", anchor}):
                broken.append(f"{name}: link: nothing on {Path(path).name} is named {anchor}")
    assert not broken, "\n".join(["", *broken])


def test_every_page_says_what_it_is(every):
    cited = {"citation_title", "citation_author", "citation_publication_date"}  # of a page of the book, not of a latent
    found = [f"{name}: lang: {page['lang']!r}" for name, page in every.items() if page["lang"] != "en"]
    titles = Counter(page["title"] for page in every.values())
    for name, page in every.items():
        wanted = {"description", *(() if name.startswith("latents/") else cited)}
        parts = page["title"].split(" — ")
        if len(set(parts)) < len(parts) or titles[page["title"]] > 1 or not parts[0].strip():
            found.append(f"{name}: title: {page['title']}")
        found += [f"{name}: meta: no {meta}" for meta in sorted(wanted) if not page["metas"].get(meta)]
    assert not found, "\n".join(["", *found])


def test_every_page_leads_to_the_one_before_and_after_it(pages):
    order = list(dict.fromkeys(pages["search.html"]["sidebar"]))
    assert len(order) > 10
    for before, link, after in zip([None, *order], order, [*order[1:], None], strict=False):
        name = Path(link.removeprefix("file://")).relative_to(HTML).as_posix()
        assert pages[name]["turns"] == [before, after], f"{name}: previous and next: {pages[name]['turns']}"


def test_every_page_links_to_the_repository_where_one_is_named(pages):
    address = os.environ.get("REPOSITORY_URL")
    if not address:
        pytest.skip("REPOSITORY_URL is not set")
    of_book = {name: page for name, page in pages.items() if not name.startswith("latents/")}
    assert not [name for name, page in of_book.items() if address not in page["links"]]


def test_the_search_finds_a_page_by_its_title(visited):
    _, sought, found = visited
    assert sought in [urldefrag(link)[0].partition("?")[0] for link in found]
