"""Build the html book of a run, or the committed one.

Sphinx reads a staged copy, `_build/<run>/book`: the prose of `book/`, the executed chapters, the
figures. The html is moved into place, and the default run published, only if nothing is wrong.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml

from opinion_sae.artifacts import check_fields, read_json, replacing
from opinion_sae.book.api import api_page
from opinion_sae.book.cards import FILE as CARDS_FILE
from opinion_sae.book.cards import complete, pages, places, read_cards
from opinion_sae.book.clusters import clusters_page
from opinion_sae.book.execute import SELDOM
from opinion_sae.book.faults import faults_page
from opinion_sae.book.front import make_front
from opinion_sae.book.latent_pages import FOLDER, addresses, latent_pages
from opinion_sae.book.paths import ROOT, Run, check_made, claim, mark, relative, remove_made
from opinion_sae.book.plan import plan_page
from opinion_sae.book.recorded import read_cells, read_fields
from opinion_sae.book.terminal import tell

KEPT = ROOT / "src" / "opinion_sae" / "data" / "published"
PROSE = ROOT / "book"
MADE = ("chapters", "figures")  # the run's own; in book/ they are the published copies
EXPLORER = Path("_extra", "explorer", "data.js")
LATENTS = Path("_extra", FOLDER)
PUBLISHES_BOOK = "default"

# as its script does, whose first line does not stand spaces in the path
JUPYTER_BOOK = f"{SELDOM}; import sys; from jupyter_book.cli.main import main; sys.exit(main())"

# What a browser fetches by itself; `link` only for these relations.
FETCHED = {
    "audio": "src",
    "embed": "src",
    "iframe": "src",
    "img": "src",
    "input": "src",
    "link": "href",
    "object": "data",
    "script": "src",
    "source": "src",
    "track": "src",
    "video": "src",
}
RELATIONS = {"stylesheet", "icon", "preload", "prefetch", "modulepreload", "preconnect", "dns-prefetch", "manifest"}
IN_STYLE = re.compile(r"""(?:@import\s+|url\()\s*(?:url\()?['"]?((?:https?:)?//[^'")\s]+)""")


class BookError(ValueError):
    """The book has a fault; the message lists each one."""


def stage(run: Run) -> None:
    """Make `_build/<run>/book` the prose of `book/` around the run's own chapters and figures.

    The run `published` has none of its own and takes those of `book/` too. Empties only what a run made (`claim`).
    """
    claim(run)
    run.book.mkdir(parents=True, exist_ok=True)
    own = () if run.name == "published" else MADE
    for path in run.book.iterdir():
        if path.name not in own:
            remove_made(path) if path.is_dir() else path.unlink()
    for path in PROSE.iterdir():
        if path.name in own or path.name.startswith("."):
            continue
        if path.is_dir():
            shutil.copytree(path, run.book / path.name)
        else:
            shutil.copy2(path, run.book)
        _let_write(run.book / path.name)
    data, found = run.results / "explorer.json", complete(run.results)
    (run.book / EXPLORER).parent.mkdir(parents=True, exist_ok=True)
    (run.book / EXPLORER).write_text(explorer_script(data), encoding="utf-8")
    (run.book / LATENTS).mkdir(parents=True, exist_ok=True)
    for name, text in latent_pages(found["cards"], places(found["cards"]), explored(data)).items():
        (run.book / LATENTS / name).write_text(text, encoding="utf-8")
    made = {"api": api_page(), "faults": faults_page(), "clusters": clusters_page(), "plan": plan_page()}
    for name, text in (made | pages(found)).items():
        (run.book / f"{name}.md").parent.mkdir(exist_ok=True)
        (run.book / f"{name}.md").write_text(text, encoding="utf-8")
    for path in set(run.chapters.glob("*.ipynb")) - set(_chapters(run)):
        path.unlink()  # of a notebook that has another name now


def _let_write(path: Path) -> None:
    """Let the owner write to a copy, and to all in it: it has the modes of what was copied, perhaps read-only."""
    for one in (path, *path.rglob("*")):
        one.chmod(one.stat().st_mode | (0o700 if one.is_dir() else 0o200))


def explorer_script(path: Path) -> str:
    """The explorer's data as a script, since a page that is read from disk may fetch nothing; null if there is none.

    To the data come `cards` and, if there are any, `labels`, from the file of cards beside it: for each latent that has
    one the address of its page, and its label.
    """
    found = read_fields(path, {"latents": dict}) if path.is_file() else None
    beside = path.with_name(CARDS_FILE)
    if found is not None and beside.is_file():
        made = read_cards(beside)["cards"]
        at = {str(latent): page for (_, latent), page in addresses(made).items()}
        said = {str(card["latent"]): card.get("label") for card in made}
        found["cards"] = {latent: at[latent] for latent in found["latents"] if latent in at}
        labels = {latent: said[latent] for latent in found["cards"] if said[latent]}
        found |= {"labels": labels} if labels else {}
    return f"globalThis.explorerData = {json.dumps(found, ensure_ascii=False, separators=(',', ':'))};\n"


def explored(path: Path) -> dict[int, str]:
    """Of each latent that the explorer's data lists, the key of the first question at which they do; none without data.
    ValueError for a question that has no key or lists anything else."""
    questions = read_fields(path, {"questions": list})["questions"] if os.path.lexists(path) else []
    for n, question in enumerate(questions):
        where = f"{path}: questions: {n}"
        check_fields(question, {"key": str, "latents": list}, where, more=True)
        if not all(type(latent) is int for latent in question["latents"]):
            raise ValueError(f"{where}: latents {question['latents']} are not whole numbers")
    return {latent: question["key"] for question in reversed(questions) for latent in question["latents"]}


def _chapters(run: Run) -> list[Path]:
    """The chapters that the table of contents names."""
    contents = yaml.safe_load((run.book / "_toc.yml").read_text(encoding="utf-8"))
    entries = [entry for part in contents["parts"] for entry in part["chapters"]]
    names = [one.get("file", "") for entry in entries for one in (entry, *entry.get("sections", []))]
    return [run.book / f"{name}.ipynb" for name in names if name.startswith("chapters/")]


def configure(run: Run) -> Path:
    """Write `_build/<run>/_config.yml`: ours, the run's numbers and first page, and a link to `$REPOSITORY_URL`."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    numbers = run.results / "numbers.json"
    if numbers.exists():
        config["parse"]["myst_substitutions"] = read_json(numbers, dict) | make_front(run.results, run.figures)
    if "REPOSITORY_URL" in os.environ:  # of the copy that is published, which may be a fork's
        config["repository"] = {"url": os.environ["REPOSITORY_URL"]}
        config["html"]["use_repository_button"] = True
    target = run.build / "_config.yml"
    with replacing(target) as side:
        side.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    return target


def chapter_faults(run: Run) -> Iterator[str]:
    """Chapters of the table of contents that are missing, not executed, or hold an error."""
    for path in _chapters(run):
        name = f"chapters/{path.stem}"
        if not path.exists():
            yield f"{name}: not there; run its notebook first"
            continue
        for number, cell in enumerate(read_cells(path)):
            if cell["cell_type"] != "code":
                continue
            for output in cell["outputs"]:
                if output["output_type"] == "error":
                    yield f"{name}: cell {number} raised {output.get('ename')}: {output.get('evalue')}"
            if cell["execution_count"] is None and cell["source"].strip():
                yield f"{name}: cell {number} was not run"


class _Page(HTMLParser):
    """Collects what a browser would fetch for a page, and the text of its style elements."""

    def __init__(self, text: str):
        super().__init__()
        self.fetched: list[str] = []
        self.style = ""
        self.in_style = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.in_style = tag == "style"
        self.style += (values.get("style") or "") + "\n"
        address = values.get(FETCHED.get(tag, ""))
        if address and (tag != "link" or RELATIONS & set((values.get("rel") or "").split())):
            self.fetched.append(address)
        for part in (values.get("srcset") or "").split(","):
            self.fetched += part.split()[:1]

    def handle_endtag(self, tag):
        self.in_style = False

    def handle_data(self, data):
        self.style += data if self.in_style else ""


def html_faults(html: Path) -> Iterator[str]:
    """Files that the pages need and that are not there, and anything fetched from elsewhere."""
    for path in sorted(html.rglob("*.css")):
        for address in IN_STYLE.findall(path.read_text(encoding="utf-8")):
            yield f"{path.relative_to(html)}: fetches {address}"
    pages = (path for path in html.rglob("*.html") if "_static" not in path.parts)  # templates
    for path in sorted(pages):
        page = _Page(path.read_text(encoding="utf-8"))
        name = path.relative_to(html)
        for address in IN_STYLE.findall(page.style):
            yield f"{name}: fetches {address}"
        for address in page.fetched:
            parts = urlsplit(address)
            if parts.netloc or parts.scheme in ("http", "https"):
                yield f"{name}: fetches {address}"
            elif parts.scheme != "data" and not (path.parent / unquote(parts.path)).is_file():
                yield f"{name}: {address} is not there"


def build(run: Run) -> Path:
    """Build `run.html`. Raises BookError, and keeps the html of before, if anything is wrong."""
    check_made(run.html)
    stage(run)
    _refuse(chapter_faults(run))
    made = run.build / "sphinx"
    remove_made(made)
    command = [sys.executable, "-c", JUPYTER_BOOK, "build", str(run.book)]
    command += ["--config", str(configure(run)), "--path-output", str(made)]
    command += ["--all", "-W", "-n", "--keep-going", "-q"]
    tell(f"{time.strftime('%H:%M:%S')}  Sphinx reads {relative(run.book)}")
    run.logs.mkdir(exist_ok=True)
    log = run.logs / "sphinx.log"
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=file, check=False, env=os.environ | {"NO_COLOR": "1"}
        )
    if done.returncode:
        said = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
        raise BookError("\n  ".join([f"Sphinx warned or failed, all of it in {relative(log)}:", *said[:6]]))
    html = made / "_build" / "html"
    _refuse(html_faults(html))
    mark(html)
    with replacing(run.html) as side:
        shutil.move(html, side)
    remove_made(made)
    return run.html


def publish(run: Run) -> None:
    """Copy the executed chapters and the figures to `book/`, where they are committed, and what `opinion-sae predict`
    needs into the package; of the default run alone."""
    if run.results.resolve() != ROOT / "results" / PUBLISHES_BOOK:
        return
    for name in MADE:
        with replacing(PROSE / name, own=("*",)) as side:  # all of it is a run's
            shutil.copytree(run.book / name, side, ignore=shutil.ignore_patterns(".*"))
    if (run.work / KEPT.name).is_dir():  # not of a run whose SAE is too large to be kept
        with replacing(KEPT, own=("*",)) as side:
            shutil.copytree(run.work / KEPT.name, side)


def _refuse(faults: Iterator[str]) -> None:
    found = list(faults)
    if found:
        raise BookError("\n  ".join([f"{len(found)} faults in the book:", *found]))
