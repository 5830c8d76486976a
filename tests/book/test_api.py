"""The page of the library: every room and public name, in words that Sphinx takes as they are."""

import ast

import pytest

from opinion_sae import PLACES
from opinion_sae.book.api import ROOMS, api_page, signature
from opinion_sae.book.paths import ROOT


def test_the_page_has_the_front_door_and_every_room_in_order():
    page = api_page()
    front = page[page.index("## The front door") : page.index("## The ground")]
    assert all(f"\n{name}(" in front or f"class {name}" in front for name in PLACES)
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")][2:] == list(ROOMS)
    folders = {path.parent.name for path in (ROOT / "src/opinion_sae").glob("*/__init__.py")}
    assert folders == set(ROOMS)


def test_signatures_by_hand():
    code = (
        "def f(x: int, *, y: str='a') -> bool: ...\nclass A(B):\n    x: int = 3\ndef g("
        + ", ".join(f"long_name_{i}: tuple[int, str]" for i in range(6))
        + "): ..."
    )
    f, a, g = ast.parse(code).body
    assert signature(f) == "f(x: int, *, y: str='a') -> bool"
    assert signature(a) == "class A(B)\n    x: int = 3"
    assert signature(g).splitlines()[1] == "    long_name_0: tuple[int, str],"


def test_special_characters_are_words(tmp_path):
    package = tmp_path / "src" / "opinion_sae"
    for room in ROOMS:
        (package / room).mkdir(parents=True)
        (package / room / "__init__.py").write_text('"""A room."""')
    (package / "__init__.py").write_text('"""Package."""\nPLACES = {}')
    (package / "a.py").write_text('"""Costs $3 to $5, `a_b` and a_b, {{ x }} <b>."""')
    assert r"Costs \$3 to \$5, `a_b` and a\_b, \{\{ x \}\} \<b\>." in api_page(tmp_path)
    (package / "a.py").write_text("x = 1")
    with pytest.raises(ValueError, match="a.py: no docstring"):
        api_page(tmp_path)
