"""Copies of the repository, for tests that run the command there."""

import os
import shutil
import subprocess
import sys

import pytest

from opinion_sae.book.paths import ROOT

PARTS = (
    "src",
    "notebooks",
    "profiles",
    "book",
    "benchmarks",
    "results/default",
    "results/studies",
    "Snakefile",
    "sweep.smk",
    "_config.yml",
    "CITATION.cff",
)


@pytest.fixture(scope="session")
def copy_of_repository():
    """A function that puts what a run needs of the repository into a new folder."""

    def copy(root):
        root.mkdir()
        for name in PARTS:
            if (ROOT / name).is_file():
                shutil.copy(ROOT / name, root / name)
            else:
                shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        return root

    return copy


@pytest.fixture(scope="session")
def opinion_sae():
    """A function that runs the command of a repository: `opinion_sae(root, "book", "smoke")`."""

    def run(root, *arguments, before=(), **environment):
        environment = {**os.environ, "PYTHONPATH": str(root / "src"), **environment}
        call = [*before, sys.executable, "-m", "opinion_sae", *map(str, arguments)]
        return subprocess.run(call, cwd=root, env=environment, capture_output=True, text=True, check=False)

    return run
