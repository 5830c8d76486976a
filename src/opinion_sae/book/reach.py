"""What a notebook or module can reach by its imports, and a hash of just that: what a chapter is rerun for."""

import ast
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from opinion_sae.book.paths import ROOT

PACKAGES = {"opinion_sae": "src/opinion_sae", "benchmarks": "benchmarks"}  # ours, and where they lie in the repository
DATA = "data"  # the folder of files in the package; whoever names it reads them


def reach(start: Path, root: Path = ROOT) -> set[Path]:
    """The files of our packages that are imported from `start` on, imports inside functions included.

    `start` is a notebook or a module and is itself left out. A package stands for its `__init__.py`, which is run with
    any module in it. A name of the front door (`opinion_sae.PLACES`) leads to its module and to no other. Imports for
    type checkers alone count for nothing. A module that names the folder `data` reaches all files in there.
    """
    found: set[Path] = set()
    todo = list(imported(source_of(start), root))
    while todo:
        path = todo.pop()
        if path not in found:
            found.add(path)
            text = path.read_text(encoding="utf-8")
            todo += imported(text, root)
            if _names_data(text):
                folder = root / PACKAGES["opinion_sae"] / DATA
                found |= {file for file in folder.rglob("*") if file.is_file()}
    return found


def code_hash(start: Path, root: Path = ROOT) -> str:
    """16 hex digits over the names and contents of what `start` reaches."""
    digest = hashlib.sha256()
    for path in sorted(reach(start, root)):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def source_of(path: Path) -> str:
    """The code of a module, or of a notebook's cells one after another."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    return "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code")


def imported(code: str, root: Path = ROOT) -> Iterator[Path]:
    """Our files that a piece of code imports itself."""
    for node in _nodes(ast.parse(code)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(alias.name, root)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from _files(node.module, root)
            for alias in node.names:  # a module of that package, or a name of the front door
                place = _places(root).get(alias.name) if node.module == "opinion_sae" else None
                yield from _files(place or f"{node.module}.{alias.name}", root)


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from _nodes(node)


def _files(name: str, root: Path) -> Iterator[Path]:
    """The file of a module of ours, and the `__init__.py` of each package around it; none for other names."""
    parts = name.split(".")
    if parts[0] not in PACKAGES:
        return
    for depth in range(1, len(parts) + 1):
        place = (root / PACKAGES[parts[0]]).joinpath(*parts[1:depth])
        for path in (place / "__init__.py", place.with_suffix(".py")):
            if path.is_file():
                yield path


def _places(root: Path) -> dict[str, str]:
    """The front door's table from names to modules, read without running it."""
    path = root / PACKAGES["opinion_sae"] / "__init__.py"
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and target.id == "PLACES":
                return ast.literal_eval(node.value)
    return {}


def _names_data(code: str) -> bool:
    return any(isinstance(node, ast.Constant) and node.value == DATA for node in ast.walk(ast.parse(code)))
