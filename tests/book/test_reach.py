"""A chapter's code hash changes with what its notebook can reach, and with nothing else."""

import ast
import json
import shutil

import pytest

from opinion_sae.book.paths import ROOT
from opinion_sae.book.reach import code_hash, imported, reach

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture
def package(tmp_path):
    """A package of a few modules, with a front door, a room and data."""
    for name, text in {
        "__init__.py": "from typing import TYPE_CHECKING\n"
        'PLACES = {"fit": "opinion_sae.fits.fit", "draw": "opinion_sae.plots"}\n'
        "if TYPE_CHECKING:\n    from opinion_sae.plots import draw\n",
        "fits/__init__.py": '"""A room."""',
        "fits/fit.py": "import torch\n\ndef fit():\n    from opinion_sae.read import rows\n    return rows",
        "read.py": 'from pathlib import Path\nrows = Path("data")',
        "plots.py": "import opinion_sae.style",
        "style.py": "",
        "data/rows.csv": "1",
    }.items():
        path = tmp_path / "src" / "opinion_sae" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def names(files, root):
    return sorted(str(path.relative_to(root / "src/opinion_sae")) for path in files)


def test_the_walk_by_hand(package):
    notebook = package / "a.ipynb"

    def reached(code):
        cells = [{"cell_type": "markdown", "source": "import opinion_sae.plots"}, {"cell_type": "code", "source": code}]
        notebook.write_text(json.dumps({"cells": cells}))
        return names(reach(notebook, package), package)

    assert reached(["import numpy\n", "1"]) == []
    assert reached("import opinion_sae") == ["__init__.py"]
    assert reached("from opinion_sae import draw") == ["__init__.py", "plots.py", "style.py"]
    assert reached("from opinion_sae import fits") == ["__init__.py", "fits/__init__.py"]
    all_of_fit = ["__init__.py", "data/rows.csv", "fits/__init__.py", "fits/fit.py", "read.py"]
    assert reached("from opinion_sae import fit") == all_of_fit
    assert reached("from opinion_sae.fits import fit") == reached("import opinion_sae.fits.fit") == all_of_fit


def test_the_hash_follows_what_is_reached(package):
    start = package / "a.py"
    start.write_text("from opinion_sae import draw")
    first = code_hash(start, package)
    for name, same in {"read.py": True, "data/rows.csv": True, "fits/fit.py": True, "style.py": False}.items():
        path = package / "src" / "opinion_sae" / name
        path.write_text(path.read_text() + "\n# another comment\n")
        assert (code_hash(start, package) == first) is same


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    root = tmp_path_factory.mktemp("repository")
    for name in ("src", "benchmarks"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    return root


FIGURES = sorted(path.name for path in (ROOT / "src/opinion_sae/book/figures").glob("[a-z]*.py"))


@pytest.mark.parametrize("name", FIGURES)
def test_a_changed_docstring_in_a_plotting_module_reruns_only_the_chapters_that_plot_with_it(copied, name):
    module = copied / "src/opinion_sae/book/figures" / name
    before = {notebook: code_hash(notebook, copied) for notebook in NOTEBOOKS}
    old = module.read_text()
    module.write_text(old.replace('"""', '"""Better said. ', 1))
    try:
        rerun = {notebook.stem for notebook in NOTEBOOKS if code_hash(notebook, copied) != before[notebook]}
    finally:
        module.write_text(old)
    plotted = {notebook.stem for notebook in NOTEBOOKS if module in reach(notebook, copied)}
    assert rerun == plotted
    if name != "style.py":
        assert len(rerun) < len(NOTEBOOKS) / 2
        assert rerun == {notebook.stem for notebook in NOTEBOOKS if named_in(notebook, name.removesuffix(".py"))}


def named_in(notebook, module):
    source, room = notebook.read_text(), "opinion_sae.book.figures"
    return f"{room}.{module} import" in source or f"{room} import {module}" in source


def test_no_module_uses_an_import_that_the_walk_does_not_see():
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: a relative import"
    assert list(imported("import numpy as np")) == []
