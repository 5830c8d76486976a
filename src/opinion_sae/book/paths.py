"""Where every file lives: the one module that knows the folders, and the only one that empties them.

Runs write below `home()`: the repository, or $OPINION_SAE_HOME where that may not be written to.
"""

import errno
import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from opinion_sae.artifacts import MARKER

ROOT = Path(__file__).resolve().parents[3]
# the only runs that write to committed files
PUBLISHED = ("default", "opinionqa", "opinionqa-qwen", "opinionqa-qwen-1.5b", "gss-qwen", "gss-qwen-1.5b")
RESERVED = ("html", "published", "model", "benchmarks", "studies")  # names that other things have
LONGEST = 255  # bytes in one part of a path


def home() -> Path:
    """What holds `_build/`, `results/` and snakemake's own folder: $OPINION_SAE_HOME, else the repository.

    Raises ValueError if the variable is not the path of a folder from the root on.
    """
    chosen = os.environ.get("OPINION_SAE_HOME")
    folder = Path(chosen).expanduser() if chosen else ROOT
    if not folder.is_absolute():
        raise ValueError(f"OPINION_SAE_HOME must be a path from the root on, not {chosen!r}")
    return folder.resolve()


def studies_of(results: Path) -> Path:
    """Where the tables of a run's studies lie: results/studies for the default run, else among the run's own."""
    return home() / "results" / "studies" if results == ROOT / "results" / "default" else results / "studies"


@dataclass(frozen=True)
class Run:
    """The folders of one run of the book, named after the last part of its results folder."""

    name: str
    results: Path  # small tables: CSV and JSON

    @property
    def build(self) -> Path:
        """Everything that is made on the way and never committed."""
        return home() / "_build" / self.name

    @property
    def work(self) -> Path:
        """What one notebook leaves for another: activations, SAE, offsets (safetensors)."""
        return self.build / "work"

    @property
    def logs(self) -> Path:
        """Progress bars, wall times and peak memory of each notebook."""
        return self.build / "logs"

    @property
    def book(self) -> Path:
        """The source that Sphinx reads: prose, executed chapters and figures."""
        return self.build / "book"

    @property
    def prompts(self) -> Path:
        """What `AnswerPath` keeps of the survey's prompts: made by the chapter that asks first, anew when needed."""
        return self.work / "prompts.safetensors"

    @property
    def shards(self) -> Path:
        """What `opinion-sae extract` keeps for chapter 03: texts, and the activations in shards."""
        return self.work / "shards"

    @property
    def chapters(self) -> Path:
        """Executed notebooks."""
        return self.book / "chapters"

    @property
    def figures(self) -> Path:
        """SVG files."""
        return self.book / "figures"

    @property
    def html(self) -> Path:
        """The finished book; the default profile's, published or new, has the short address."""
        return home() / "_build" / "html" if self.name in ("default", "published") else self.build / "html"


def run_at(output: str | Path) -> Run:
    """The run whose tables go to `output` (relative to `home()`); makes nothing.

    Its last part names the folder in `_build/` that the run may empty, so ValueError unless that is a plain name.
    """
    text = str(output)
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ValueError(f"output must hold no control character: {text!r}")
    if "{" in text or "}" in text:
        raise ValueError(f"output must hold no braces, which snakemake takes for wildcards: {text!r}")
    name = text.rpartition("/")[2]
    if name.startswith(".") or not name:
        raise ValueError(
            f"output must end in the name of a folder, which starts with no dot, not in {name!r}: {text!r}"
        )
    for part in text.split("/"):
        if len(part.encode(errors="surrogateescape")) > LONGEST:
            raise ValueError(f"output must have no part of more than {LONGEST} bytes, as {part[:40]!r}... is")
    if name in RESERVED:
        raise ValueError(f"output must not end in {name}, which names something else: {text!r}")
    return Run(name, home() / Path(text).expanduser())


def open_run(output: str | Path) -> Run:
    """As `run_at`, and makes the folders that notebooks write to. Raises ValueError as `claim` does."""
    run = run_at(output)
    claim(run)
    new = not run.results.is_dir() or not any(run.results.iterdir())
    for folder in (run.results, run.work, run.chapters, run.figures):
        folder.mkdir(parents=True, exist_ok=True)
    if new and run.results.parent == home() / "results" and run.name not in PUBLISHED:
        mark(run.results)  # so that `clean` may remove it
    return run


def published() -> Run:
    """The book as it is committed: the published tables, and a folder to stage it in."""
    return Run("published", ROOT / "results" / "default")


def claim(run: Run) -> None:
    """Mark `run.build` as the run's own. Raises ValueError if something else, or another run, is in it, and if it may
    not be made."""
    place = relative(run.results.resolve())
    if not (run.build / MARKER).is_file():
        try:
            run.build.mkdir(parents=True, exist_ok=True)
            others = [path.name for path in run.build.iterdir() if path.name != MARKER]
            if others and not (run.build / MARKER).is_file():  # looked at again: two chapters may start at once
                raise ValueError(_not_made(run.build, place))
            mark(run.build, place)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            raise ValueError(f"{error}: set OPINION_SAE_HOME to a folder of your own") from error
    owner = (run.build / MARKER).read_text(encoding="utf-8").strip()
    if owner and owner != place:
        raise ValueError(
            f"{run.build} belongs to the run with tables in {owner}, not in {place}; name one of them anew"
        )


def mark(folder: Path, place: str = "") -> None:
    """Say that a run made this folder, so that a run may empty it."""
    side = folder / f"{MARKER}.{os.getpid()}"
    side.write_text(f"{place}\n", encoding="utf-8")
    os.replace(side, folder / MARKER)


def check_made(folder: Path) -> None:
    """Raise ValueError for a folder that is there, has something in it, and was not made by a run."""
    if folder.is_dir() and not (folder / MARKER).is_file() and any(folder.iterdir()):
        raise ValueError(_not_made(folder))


def remove_made(folder: Path) -> None:
    """Remove a folder that lies in one that a run made, or is one. Raises ValueError for any other."""
    if not folder.is_dir():
        return
    within = [place for place in (folder, *folder.parents) if (place / MARKER).is_file()]
    if not within:
        raise ValueError(_not_made(folder))
    shutil.rmtree(folder)


def clean() -> None:
    """Remove what runs left in `_build/` and `results/`, published results and all that no run made excepted."""
    place = home()
    for marker in sorted(place.glob(f"_build/*/{MARKER}")) + sorted(place.glob(f"results/*/{MARKER}")):
        shutil.rmtree(marker.parent)
    if (place / "_build").is_dir() and not any((place / "_build").iterdir()):
        (place / "_build").rmdir()


def relative(path: Path) -> str:
    """A path from `home()` on, where it lies there: short, and the same for snakemake wherever that is."""
    return str(path.relative_to(home()) if path.is_relative_to(home()) else path)


def _not_made(folder: Path, place: str = "") -> str:
    return (
        f"{folder} was not made by a run of this version (it holds no {MARKER}), so nothing in it is touched; move it "
        f"away, or if an earlier version made it: echo {shlex.quote(place)} > {shlex.quote(str(folder / MARKER))}"
    )
