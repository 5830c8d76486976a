"""The page that lists the library: rooms, modules and what is public in them, from the docstrings, none imported."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from opinion_sae.book.paths import ROOT
from opinion_sae.book.reach import places

ROOMS = ("survey", "score", "model", "sae", "delta", "methods", "effects", "use", "studies", "book")  # in order
SPECIAL = re.compile(r"([\\$<>*_\[\]{}#|])")
Public = ast.FunctionDef | ast.ClassDef

HEAD = """# The library

What is public, room by room in the order of the data; a room imports only from those before it.
Made from the docstrings. The shapes in the signatures are jaxtyping's, and are checked while the tests run.

## The front door

`from opinion_sae import ...` gives these, and imports what they need when they are first used.
"""


def api_page(root: Path = ROOT) -> str:
    """The page in MyST Markdown. Raises ValueError for a module or a public name without a docstring."""
    package = root / "src" / "opinion_sae"
    lines = [HEAD]
    for name, place in places((package / "__init__.py").read_text(encoding="utf-8")).items():
        module = package.joinpath(*place.split(".")[1:])
        path = (
            module.with_suffix(".py") if module.with_suffix(".py").is_file() else module / f"{name_of_room(place)}.py"
        )
        lines += _entry(next(node for node in _public(path) if node.name == name), path)
    grounds = sorted(path for path in package.glob("*.py") if not path.stem.startswith("__"))
    lines += ["## The ground\n", *(line for path in grounds for line in _module(path, package))]
    for room in ROOMS:
        lines += [f"## {room}\n", _text(_docstring(package / room / "__init__.py")), ""]
        for path in sorted((package / room).rglob("*.py")):
            if path != package / room / "__init__.py":
                lines += _module(path, package)
    return "\n".join(lines) + "\n"


def name_of_room(place: str) -> str:
    """The module of a room that is called like a function: of `opinion_sae.score`, the measures."""
    return {"opinion_sae.score": "metrics"}[place]


def _module(path: Path, package: Path) -> Iterator[str]:
    name = ".".join(path.relative_to(package).with_suffix("").parts).removesuffix(".__init__")
    yield f"### {name}\n"
    yield _text(_docstring(path)) + "\n"
    for node in _public(path):
        yield from _entry(node, path)


def _public(path: Path) -> list[Public]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in tree.body if isinstance(node, Public) and not node.name.startswith("_")]


def _docstring(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if not text:
        raise ValueError(f"{path}: no docstring")
    return text


def _entry(node: Public, path: Path) -> Iterator[str]:
    """Signature and docstring; of a class also those of its public methods that have one."""
    yield f"```python\n{signature(node)}\n```\n"
    text = ast.get_docstring(node)
    yield f"{_text(text)}\n" if text else ""
    if isinstance(node, ast.ClassDef):
        for inner in node.body:
            if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_") and ast.get_docstring(inner):
                yield f"`.{inner.name}({_arguments(inner)})`: {_text(ast.get_docstring(inner) or '')}\n"


def signature(node: Public) -> str:
    """One line, or a line for each parameter where that would be too long."""
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        fields = [f"    {ast.unparse(one)}" for one in node.body if isinstance(one, ast.AnnAssign)]
        return "\n".join([f"class {node.name}({bases})" if bases else f"class {node.name}", *fields])
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"{node.name}({ast.unparse(node.args)}){returns}"
    if len(line) <= 100:
        return line
    parts = re.split(r", (?=\*?\*?\w+(?::|=|$|,))", ast.unparse(node.args))
    return f"{node.name}(\n    " + ",\n    ".join(parts) + f",\n){returns}"


def _arguments(node: ast.FunctionDef) -> str:
    names = [one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return ", ".join(name for name in names if name not in ("self", "cls"))


def _text(docstring: str) -> str:
    """A docstring as Markdown: words as they are, what stands in backticks as code."""
    return "".join(
        part if part.startswith("`") else SPECIAL.sub(r"\\\1", part) for part in re.split(r"(`[^`]+`)", docstring)
    )
