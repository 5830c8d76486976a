"""pyproject.toml, constraints.txt, environment.yml and the code name the same packages."""

import ast
import importlib.metadata
import re
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from opinion_sae.book.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#")
PROVIDERS = importlib.metadata.packages_distributions()
BUILD_SIDE = {"execute.py", "build.py", "typeset.py"}  # these run only where the book extra is installed


def names(requirements):
    return {canonicalize_name(Requirement(text).name) for text in requirements}


RUNTIME = names(PROJECT["dependencies"])
BOOK, TEST = (names(PROJECT["optional-dependencies"][extra]) for extra in ("book", "test"))


def third_party(path):
    """The distributions that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
    return {canonicalize_name(PROVIDERS[name][0]) for name in found - {"opinion_sae", *sys.stdlib_module_names}}


def test_every_direct_dependency_is_pinned_exactly_once():
    assert RUNTIME | BOOK | TEST <= set(PINS)
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#"]
    assert len(lines) == len(PINS) and list(PINS) == sorted(PINS)
    assert not any(mark in version for version in PINS.values() for mark in "+*<>~")


def test_the_tests_run_with_the_pinned_versions():
    for name, version in PINS.items():
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # pinned for another platform
        assert installed.partition("+")[0] == version, name


def test_what_the_project_installs_is_pinned_to_the_last_dependency():
    todo, seen = [PROJECT["name"]], set()
    while todo:
        name = todo.pop()
        seen.add(name)
        for text in importlib.metadata.requires(name) or []:
            requirement = Requirement(text)
            extra = "all" if name == PROJECT["name"] else ""
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                todo += {canonicalize_name(requirement.name)} - seen
    assert seen - {PROJECT["name"]} <= set(PINS)


def test_the_conda_environment_has_the_same_packages():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    lines = environment[-1]["pip"]
    assert lines[0] == "-c constraints.txt" and lines[-1] == "-e ."
    assert dict(line.split("==") for line in lines[1:-1]) == {name: PINS[name] for name in RUNTIME | BOOK | TEST}
    python = next(line for line in environment if str(line).startswith("python="))
    assert PROJECT["requires-python"] == f">={python.removeprefix('python=')}"


@pytest.mark.parametrize("path", sorted((ROOT / "src").rglob("*.py")), ids=lambda path: path.stem)
def test_the_library_imports_only_what_it_declares(path):
    assert third_party(path) <= RUNTIME | (BOOK if path.name in BUILD_SIDE else set())


def test_the_library_declares_only_what_it_imports():
    used = set().union(*(third_party(path) for path in (ROOT / "src").rglob("*.py")))
    assert RUNTIME - used == {"accelerate"}  # transformers imports it to spread a model over GPUs


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: path.stem)
def test_the_tests_import_only_what_is_installed_for_them(path):
    assert third_party(path) <= RUNTIME | BOOK | TEST


def test_a_room_imports_only_from_those_before_it():
    """The list is the first indented block of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    order = re.search(r"\n\n((?: {4}[a-z_ ]+\n)+)", text).group(1).split()
    package = ROOT / "src" / "opinion_sae"
    for path in package.rglob("*.py"):
        ours = path.relative_to(package).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            name = node.module if isinstance(node, ast.ImportFrom) else ""
            other = (name or "").split(".")[1:2]
            if ours not in ("__init__", "__main__") and (name or "").startswith("opinion_sae.") and other != [ours]:
                assert order.index(other[0]) < order.index(ours), f"{path.name} imports {name}"


def test_the_data_is_in_the_package():
    """Every file under data/ matches the package-data patterns, so that a wheel carries it."""
    package = ROOT / "src" / "opinion_sae"
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    carried = {path for pattern in patterns["opinion_sae"] for path in package.glob(pattern)}
    held = {path for path in (package / "data").rglob("*") if path.is_file()}
    assert held and held <= carried


def test_the_version_is_said_once_more_in_the_citation():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"] and citation["license"] == PROJECT["license"]
