"""Where every file lives: the one module that knows the folders."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Run:
    """The folders of one run of the book, named after the last part of its results folder."""

    name: str
    results: Path  # small tables: CSV and JSON

    @property
    def build(self) -> Path:
        """Everything that is made on the way and never committed."""
        return ROOT / "_build" / self.name

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
    def chapters(self) -> Path:
        """Executed notebooks."""
        return self.book / "chapters"

    @property
    def figures(self) -> Path:
        """SVG files."""
        return self.book / "figures"

    @property
    def html(self) -> Path:
        """The finished book; the default profile's has the short address."""
        return ROOT / "_build" / "html" if self.name == "default" else self.build / "html"


def run_at(output: str | Path) -> Run:
    """The run whose tables go to `output` (relative to the repository root); makes nothing."""
    results = ROOT / output
    return Run(results.name, results)


def open_run(output: str | Path) -> Run:
    """As `run_at`, and makes the folders that notebooks write to."""
    run = run_at(output)
    for folder in (run.results, run.work, run.chapters, run.figures):
        folder.mkdir(parents=True, exist_ok=True)
    return run
