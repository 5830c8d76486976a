"""The book is staged, built and published whole, or the one of before stays."""

import re
from html import unescape

import nbformat
import pytest
import yaml

from opinion_sae.artifacts import write_json
from opinion_sae.book import build as book
from opinion_sae.book import paths
from opinion_sae.book.build import BookError, build, chapter_faults, configure, html_faults, publish, stage
from opinion_sae.book.paths import ROOT, open_run

TOC = """format: jb-book
root: intro
parts:
  - caption: Results
    chapters:
      - file: chapters/01_try
"""
INTRO = "# Opinion SAE\n\nKL is {{ kl }}, see {doc}`chapters/01_try`; $x^2$ and {cite:t}`one2020`.\n"
REFERENCE = "@misc{one2020, author={One, A.}, title={Title}, year={2020}}\n"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A small repository: one prose page, and a run of one chapter and one figure."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(book, "ROOT", tmp_path)
    monkeypatch.setattr(book, "PROSE", tmp_path / "book")
    (tmp_path / "_config.yml").write_text((ROOT / "_config.yml").read_text())
    for name, text in {
        "_toc.yml": TOC,
        "intro.md": INTRO + "\n```{bibliography}\n```\n",
        "references.bib": REFERENCE,
        "_extra/mathjax/tex-mml-chtml.js": "",
        "_static/style.css": "p { color: black }",
        "chapters/01_try.ipynb": "published before",
        "figures/gone.svg": "<svg/>",
    }.items():
        (tmp_path / "book" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "book" / name).write_text(text)
    run = open_run(tmp_path / "results" / "default")
    (run.figures / "kl.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    write_json(run.results / "numbers.json", {"kl": "0.331"})
    chapter(run)
    return run


def chapter(run, text="![](../figures/kl.svg)", **output):
    made = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell(f"# Try\n\n{text}"), nbformat.v4.new_code_cell("1")]
    )
    made.metadata.language_info = {"name": "python", "pygments_lexer": "ipython3"}
    made.cells[1].execution_count = 1
    if output:
        made.cells[1].outputs = [nbformat.v4.new_output(**output)]
    nbformat.write(made, run.chapters / "01_try.ipynb")


def test_the_staged_book_is_todays_prose_around_the_runs_own_chapters(run):
    stage(run)
    (book.PROSE / "_static" / "style.css").unlink()
    stage(run)
    assert (run.book / "intro.md").is_file()
    assert not (run.book / "_static" / "style.css").exists()
    assert (run.chapters / "01_try.ipynb").read_text() != "published before"
    assert [path.name for path in run.figures.iterdir()] == ["kl.svg"]


def test_a_chapter_that_the_contents_no_longer_name_is_not_published(run):
    (run.chapters / "07_old.ipynb").write_text("{}")
    stage(run)
    assert [path.name for path in run.chapters.iterdir()] == ["01_try.ipynb"]


def test_numbers_become_substitutions(run, monkeypatch):
    monkeypatch.delenv("REPOSITORY_URL", raising=False)
    config = yaml.safe_load(configure(run).read_text())
    assert config["parse"].pop("myst_substitutions") == {"kl": "0.331"}
    assert config == yaml.safe_load((ROOT / "_config.yml").read_text())


def test_a_book_is_built_and_published(run, monkeypatch):
    monkeypatch.setenv("REPOSITORY_URL", "https://github.com/someone/opinion-sae")
    html = build(run)
    assert html == paths.ROOT / "_build" / "html"
    intro = (html / "intro.html").read_text()
    assert "KL is 0.331" in intro and "mathjax/tex-mml-chtml.js" in intro and "style.css" in intro
    assert 'href="https://github.com/someone/opinion-sae"' in intro
    assert not (run.build / "sphinx").exists()
    publish(run)
    assert (book.PROSE / "chapters" / "01_try.ipynb").read_bytes() == (run.chapters / "01_try.ipynb").read_bytes()
    assert [path.name for path in (book.PROSE / "figures").iterdir()] == ["kl.svg"]


def test_a_page_says_what_it_is_and_whom_to_cite(run):
    chapter(run, "A *short* sentence on α < 1.\n\nAnother one.")
    html = build(run)
    intro, page = (
        dict(re.findall('<meta name="(description|citation_[a-z_]+)" content="(.*?)"', (html / name).read_text()))
        for name in ("intro.html", "chapters/01_try.html")
    )
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert unescape(intro["citation_title"]) == unescape(page["citation_inbook_title"]) == cited["title"]
    assert (page["citation_title"], page["description"]) == ("Try", "A short sentence on α &lt; 1.")
    assert intro["description"].startswith("KL is 0.331, see Try;")
    assert intro["citation_author"] == page["citation_author"] == cited["authors"][0]["name"]
    title = re.search("<title>(.*)</title>", (html / "intro.html").read_text()).group(1)
    assert title.count("Opinion SAE") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{doc}`nowhere`", "unknown document: 'nowhere'"),
        ("{{ kl_of_nothing }}", "'kl_of_nothing' is undefined"),
        ("![](../figures/gone.svg)", "figures/gone.svg"),
        ('<img src="../figures/kl.svg">', "chapters/01_try.html: ../figures/kl.svg is not there"),
        ('<img src="https://example.org/a.png">', "chapters/01_try.html: fetches https://example.org/a.png"),
    ],
)
def test_a_fault_stops_the_build_and_the_old_html_stays(run, text, message, capfd):
    run.html.mkdir(parents=True)
    (run.html / "index.html").write_text("old")
    paths.mark(run.html)
    chapter(run, text)
    with pytest.raises(BookError) as error:
        build(run)
    assert message in str(error.value) + capfd.readouterr().err
    assert (run.html / "index.html").read_text() == "old"


def test_chapters_that_are_missing_failed_or_not_run_are_named(run):
    stage(run)
    assert list(chapter_faults(run)) == []
    chapter(run, output_type="error", ename="ValueError", evalue="bad", traceback=[])
    assert list(chapter_faults(run)) == ["chapters/01_try: cell 1 raised ValueError: bad"]
    made = nbformat.read(run.chapters / "01_try.ipynb", as_version=4)
    made.cells[1].update(outputs=[], execution_count=None)
    nbformat.write(made, run.chapters / "01_try.ipynb")
    assert list(chapter_faults(run)) == ["chapters/01_try: cell 1 was not run"]
    (run.chapters / "01_try.ipynb").unlink()
    assert list(chapter_faults(run)) == ["chapters/01_try: not there; run its notebook first"]


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        ('<img src="here.png?v=1"><a href="https://example.org">link</a>', None),
        ('<img src="data:image/png;base64,AAAA">', None),
        ('<link rel="canonical" href="https://example.org/">', None),
        ("<p style=\"background: url('here.png')\">", None),
        ('<img src="there.png">', "there.png is not there"),
        ('<img src="sub%20folder/there.png">', "sub%20folder/there.png is not there"),
        ('<script src="//example.org/a.js"></script>', "fetches //example.org/a.js"),
        ('<link rel="stylesheet" href="http://example.org/a.css">', "fetches http://example.org/a.css"),
        ('<link rel="preload" as="font" href="https://example.org/a.woff2">', "fetches https://example.org/a.woff2"),
        ('<img srcset="here.png 1x, https://example.org/b.png 2x">', "fetches https://example.org/b.png"),
        ("<style>@import 'https://example.org/a.css';</style>", "fetches https://example.org/a.css"),
        ('<p style="background: url(https://example.org/a.png)">', "fetches https://example.org/a.png"),
        ('<iframe src="https://example.org/"></iframe>', "fetches https://example.org/"),
    ],
)
def test_what_a_page_fetches_must_be_in_the_book(tmp_path, page, fault):
    (tmp_path / "here.png").touch()
    (tmp_path / "page.html").write_text(f"<html><body>{page}</body></html>")
    assert list(html_faults(tmp_path)) == ([f"page.html: {fault}"] if fault else [])


def test_a_style_sheet_fetches_nothing_from_elsewhere(tmp_path):
    (tmp_path / "a.css").write_text(
        "/* see https://example.org */ @font-face { src: url(a.woff2) }\n"
        '@import url("https://example.org/b.css");\np { background: url(//example.org/c.png) }'
    )
    assert list(html_faults(tmp_path)) == [
        "a.css: fetches https://example.org/b.css",
        "a.css: fetches //example.org/c.png",
    ]


def test_mathjax_is_vendored_with_its_licence_and_fonts():
    folder = ROOT / "book" / "_extra" / "mathjax"
    assert "Apache License" in (folder / "LICENSE").read_text()
    assert (folder / "tex-mml-chtml.js").stat().st_size > 1_000_000
    assert len(list((folder / "output" / "chtml" / "fonts" / "woff-v2").glob("*.woff"))) > 20
