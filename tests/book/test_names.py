"""One table of names: whatever a table, claim, figure or page calls a method stands in `score/names.py`."""

import ast
import csv
import re

import pytest

from opinion_sae.artifacts import read_json
from opinion_sae.book.claims import CLAIMS
from opinion_sae.book.figures.style import MARKS, SHAPES
from opinion_sae.book.front import FRONT
from opinion_sae.book.paths import ROOT
from opinion_sae.methods.suite import LEARNING
from opinion_sae.score.names import NAMES, label, prose, rank

# names of before, which pages, figures and claims may not use beside those of the table
RETIRED = (
    *("same share for every option", "preference for places", "mean answer by option"),
    *(
        "option rows only",
        "place bias",
        "Δ shared only",
        "Δ shared + group",
        "SAE trained with it",
        "SAE trained for it",
    ),
    *("LoRA, group named", "all respondents' answers"),
)
TABLES = sorted((ROOT / "results").glob("*/alignment.csv")) + sorted((ROOT / "results").glob("*/*claims.csv"))
TABLES += sorted((ROOT / "results").glob("*/side_effects.csv"))


def texts():
    """Prose as the reader gets it: pages, README, chapters' text and captions, and what figures and claims may say."""
    for path in [ROOT / "README.md", *sorted((ROOT / "book").glob("*.md"))]:
        yield path.name, path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in read_json(path)["cells"]:
            yield path.name, "".join(cell["source"]) + str(cell["metadata"].get("mystnb", ""))
    for path in sorted((ROOT / "src" / "opinion_sae" / "book").rglob("*.py")):
        yield path.name, path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", TABLES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_method_of_the_tables_has_a_name(path):
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = {row[column] for row in rows for column in ("method", "reference") if column in row}
    assert found and found <= set(NAMES)


def test_every_method_of_the_claims_and_figures_has_a_name():
    assert {method for claim in CLAIMS for method in (claim.method, claim.reference)} <= set(NAMES)
    assert set(MARKS) <= set(NAMES)


def test_every_method_has_a_mark_of_its_own_that_reads_without_colour():
    markers = [marker for _, marker, _ in MARKS.values()]
    assert len(set(markers)) == len(markers)
    assert all(marker in SHAPES or re.fullmatch(r"[A-Z½]", marker) for marker in markers)


def test_methods_that_stand_in_one_small_figure_differ_in_colour_or_line_too():
    for together in (FRONT, LEARNING, ("unsteered", "shared-delta", "delta", "delta-joint", "dense")):
        looks = [(MARKS[method][0], MARKS[method][2]) for method in together]
        assert len(set(looks)) == len(looks), together


def test_no_other_dictionary_names_methods():
    """A mark for each method, or its answers, is no name; a text for each is."""
    for path in sorted((ROOT / "src" / "opinion_sae").rglob("*.py")) + sorted((ROOT / "tools").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Dict) and path.name != "names.py":
                pairs = [(key.value, value) for key, value in zip(node.keys, node.values, strict=True) if is_text(key)]
                named = [key for key, value in pairs if key in NAMES and is_text(value)]
                assert len(named) < 3, f"{path.name} names {named}"


def is_text(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_names_and_keys_tell_methods_apart():
    for part in zip(*NAMES.values(), strict=True):
        given = [one for one in part if one]
        assert len(set(given)) == len(given)
    assert label("of my own") == "of my own" and label("delta") == prose("delta") == "Δ"
    with pytest.raises(KeyError):
        prose("of my own")
    assert sorted(["zzz", "delta", "unsteered", "aaa"], key=rank) == ["unsteered", "delta", "aaa", "zzz"]


def test_no_page_uses_another_name():
    for name, text in texts():
        for retired in RETIRED:
            assert retired.lower() not in text.lower(), f"{name} says {retired!r}"


def test_a_method_that_a_chapter_lists_by_key_stands_beside_its_name():
    """Lists such as '- **linear probe** (`probe`): ...' in chapter 06."""
    text = "".join("".join(cell["source"]) + "\n" for cell in read_json(ROOT / "notebooks/06_controls.ipynb")["cells"])
    listed = re.findall(r"\*\*([^*]+)\*\* \(`([a-z-]+)`\)", text)
    assert len(listed) > 10 and all(NAMES[key].label == name for name, key in listed)
