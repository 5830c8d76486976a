"""What CONTRIBUTING says about size: files, functions, parameters, and what lies at the top of the package."""

import ast

import pytest

from opinion_sae.book.paths import ROOT

PACKAGE = ROOT / "src" / "opinion_sae"
FILES = sorted(PACKAGE.rglob("*.py"))
MORE = {"train_sae": 10}  # the front door's: sizes and schedule by name, as in the README; nothing is added here
Function = ast.FunctionDef | ast.AsyncFunctionDef


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_function_or_list_of_parameters_is_too_long(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, Function):
            assert (node.end_lineno or 0) - node.lineno + 1 <= 50, f"{node.name} has more than 50 lines"
            given = node.args
            names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
            names += [one.arg for one in (given.vararg, given.kwarg) if one is not None]
            taken = len([name for name in names if name not in ("self", "cls")])
            assert taken <= MORE.get(node.name, 8), f"{node.name} takes too much"


def test_few_files_lie_at_the_top():
    assert len([path for path in PACKAGE.iterdir() if path.is_file()]) <= 8


def test_every_room_says_what_is_in_it():
    rooms = [path for path in PACKAGE.iterdir() if path.is_dir() and list(path.glob("*.py"))]
    assert rooms
    for room in rooms:
        assert ast.get_docstring(ast.parse((room / "__init__.py").read_text())), f"{room.name}: no docstring"
