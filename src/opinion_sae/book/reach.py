"""What a notebook or module can reach by its imports, and a hash of just that: what a chapter is rerun for."""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from opinion_sae.book.paths import ROOT
from opinion_sae.book.recorded import read_cells

PACKAGES = {"opinion_sae": "src/opinion_sae", "benchmarks": "benchmarks"}  # ours, and where they lie in the repository
MADE = "published"  # in there, what the default run leaves for `predict`: a result, and no input
DATA = "data"  # the folder of files in the package; whoever names it reads them


def reach(start: Path, root: Path = ROOT) -> set[Path]:
    """The files of our packages that are imported from `start` on, imports inside functions included.

    `start` is a notebook or a module and is itself left out. A package stands for its `__init__.py`, which is run with
    any module in it. A name of the front door (`opinion_sae.PLACES`) leads to its module and to no other. Imports for
    type checkers alone count for nothing. A module that names the folder `data` reaches all files in there but what a
    run has left.
    """
    found: set[Path] = set()
    todo = list(imported(source_of(start), root))
    while todo:
        path = todo.pop()
        if path not in found:
            found.add(path)
            text = path.read_text(encoding="utf-8")
            todo += imported(text, root)
            if f'"{DATA}"' in text:
                folder = root / PACKAGES["opinion_sae"] / DATA
                found |= {file for file in folder.rglob("*") if file.is_file() and MADE not in file.parts}
    return found


def code_hash(start: Path, root: Path = ROOT) -> str:
    """16 hex digits over the names and contents of what `start` reaches."""
    digest = hashlib.sha256()
    for path in sorted(reach(start, root)):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def source_of(path: Path) -> str:
    """The code of a module, or of a notebook's cells one after another."""
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    return "\n".join(cell["source"] for cell in read_cells(path) if cell["cell_type"] == "code")


def imported(code: str, root: Path = ROOT) -> Iterator[Path]:
    """Our files that a piece of code imports itself."""
    front = places((root / PACKAGES["opinion_sae"] / "__init__.py").read_text(encoding="utf-8"))
    door = {f"opinion_sae.{name}": place for name, place in front.items()}
    for name in _names(code):
        if name not in door:  # a name of the front door has its module's place alone
            yield from _files(name, root)
        else:
            yield from _files(door[name], root)


@cache
def _names(code: str) -> tuple[str, ...]:
    """The dotted names of ours that a piece of code imports; `from a import b` gives a and a.b."""
    found = []
    for node in _statements(ast.parse(code)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(name for name in found if name.split(".")[0] in PACKAGES)


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """All statements but those under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.stmt | ast.excepthandler | ast.match_case):
            yield node
            yield from _statements(node)


def _files(name: str, root: Path) -> Iterator[Path]:
    """The file of a module of ours, and the `__init__.py` of each package around it."""
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        place = (root / PACKAGES[parts[0]]).joinpath(*parts[1:depth])
        for path in (place / "__init__.py", place.with_suffix(".py")):
            if path.is_file():
                yield path


@cache
def places(code: str) -> dict[str, str]:
    """The front door's table in `opinion_sae/__init__.py`, read without running it: name -> module."""
    for node in ast.parse(code).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "PLACES":
            return ast.literal_eval(node.value)
    return {}
