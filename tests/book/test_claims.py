"""The claims page says what the table says."""

import numpy as np
import pandas as pd
import pytest

from opinion_sae.artifacts import read_json
from opinion_sae.book.claims import CLAIMS, claims_page, interval, reviewers_page
from opinion_sae.book.figures.controls import VERDICTS as drawn
from opinion_sae.book.paths import ROOT
from opinion_sae.score.statistics import VERDICTS, Claim, claims_table

ONE, TWO = Claim("Ours is better.", "ours", "theirs"), Claim("Ours is best.", "ours", "best")
LATER = Claim("So.", "ours", "lora")


@pytest.fixture
def page(tiny):
    def make(shift):
        people = tiny.survey(np.full((2, 30, 2), 0.5), [tiny.question(f"q{i}") for i in range(30)], ("x", "y"))
        theirs = np.random.default_rng(0).uniform(0.1, 0.2, (2, 30))
        noise = np.random.default_rng(1).normal(0, 0.001, (2, 30))
        ours = theirs + np.array(shift)[:, None] + noise
        cells = {"ours": [ours], "theirs": [theirs], "best": [theirs - 0.5]}
        return claims_page((ONE, TWO, LATER), claims_table(people, cells, (ONE, TWO, LATER), np.arange(30), 300))

    return make


def test_verdicts_change_with_the_answers(page):
    better, worse = page((-0.05, -0.05)), page((0.05, 0.05))
    assert "| Ours is better. | **supported** on average, singly for 2 of 2 groups | -0.050 (-0.0" in better
    assert "| Ours is better. | **contradicted** on average, singly for 2 of 2 groups | +0.050 (+0.0" in worse
    assert "| Ours is better. | **not supported** | " in page((0.0, 0.0))
    for text in (better, worse):
        assert "| Ours is best. | **contradicted** on average, singly for 2 of 2 groups | +0." in text


def test_a_part_that_no_fit_kept_is_not_used(tiny):
    people = tiny.survey(np.full((2, 30, 2), 0.5), [tiny.question(f"q{i}") for i in range(30)], ("x", "y"))
    same = np.random.default_rng(0).uniform(0.1, 0.2, (2, 30))
    table = claims_table(people, {"ours": [same], "theirs": [same]}, (ONE,), np.arange(30), 300)
    assert "| Ours is better. | **not used**: in no fit was the part kept | " in claims_page((ONE,), table)
    other = claims_table(people, {"ours": [same + 1e-9], "theirs": [same]}, (ONE,), np.arange(30), 300)
    assert "not used" not in claims_page((ONE,), other)


def test_a_mean_that_only_some_groups_show_says_how_many(page):
    assert "| Ours is better. | **supported** on average, singly for 1 of 2 groups |" in page((-0.05, 0.0))
    assert "| Ours is better. | **contradicted** on average, singly for 1 of 2 groups |" in page((0.05, 0.0))
    text = page((-0.05, 0.2))  # further away on average, though closer for one
    assert "| Ours is better. | **contradicted** on average, singly for 1 of 2 groups |" in text
    assert "- Ours is better: supported for 1 of 2 groups (x); contradicted for 1 of 2 groups (y)." in text


def test_groups_that_differ_are_named(page):
    text = page((-0.05, 0.05))
    assert "- Ours is better: supported for 1 of 2 groups (x); contradicted for 1 of 2 groups (y)." in text
    assert "| Ours is better. | **mixed**: supported for 1 of 2 groups, contradicted for 1 |" in text


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ((-0.26187, -0.29377, -0.22929), "-0.262 (-0.294 to -0.229)"),
        ((-0.00043, -0.00073, -0.00016), "-0.00043 (-0.00073 to -0.00016)"),
        ((0.0001, float("nan"), float("nan")), "too few questions for an interval"),
    ],
)
def test_an_effect_has_the_digits_that_its_interval_needs(numbers, said):
    assert interval(pd.Series(numbers, ["effect", "low", "high"])) == said


def test_a_claim_that_was_not_tested_is_said_to_be_so(page):
    text = page((0.0, 0.0))
    assert "**Not tested here**\n\n- So. (`ours` against `lora`)" in text
    assert "| So." not in text


def test_every_row_of_the_table_has_every_cell(page):
    rows = [line for line in page((-0.05, 0.05)).splitlines() if line.startswith("|")]
    assert len(rows) == 4 and {row.count(" | ") for row in rows} == {6}
    assert "{numref}`fig-alignment`, `make book`" in rows[2] and "| 30 | 1 | " in rows[2]


def test_the_books_claims_are_told_apart():
    sentences = [claim.sentence for claim in CLAIMS]
    assert len(set(sentences)) == len(sentences) and all(s.endswith(".") and "|" not in s for s in sentences)
    assert len({(claim.method, claim.reference) for claim in CLAIMS}) == len(CLAIMS)
    assert set(drawn) == set(VERDICTS) == {"supported", "not supported", "mixed", "contradicted"}


def test_the_figures_that_claims_name_are_drawn_in_the_book():
    drawn = set()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        for cell in read_json(path)["cells"]:
            drawn.add(cell["metadata"].get("mystnb", {}).get("figure", {}).get("name"))
    assert {claim.figure for claim in CLAIMS} <= drawn


def test_the_reviewers_are_answered_from_the_table(tiny):
    people = tiny.survey(np.full((2, 30, 2), 0.5), [tiny.question(f"q{i}") for i in range(30)], ("x", "y"))
    shared = np.random.default_rng(0).uniform(0.1, 0.2, (2, 30))
    noise = np.random.default_rng(1).normal(0, 0.001, (2, 30))
    cells = {"shared-delta": [shared], "delta": [shared + np.array([[-0.05], [0.0]]) + noise]}
    table = claims_table(people, cells, CLAIMS, np.arange(30), 300)
    text = reviewers_page(table)
    assert "scored on 30 questions and 2 groups" in text and "of 1 claims, 1 are supported on average" in text
    assert "brings the answers closer for 1 of 2 groups (x), corrected" in text
    cells["delta"] = [shared + 0.05 + noise]
    text = reviewers_page(claims_table(people, cells, CLAIMS, np.arange(30), 300))
    assert "of 1 claims, 0 are supported" in text and "and 1 contradicted. Offsets that read" in text
    assert "closer for 0 of 2 groups and takes them further away for 2 (x, y), corrected" in text
    cells = {"delta": [shared], "uniform": [shared + 1 + noise]}
    assert "This run has none" in reviewers_page(claims_table(people, cells, CLAIMS, np.arange(30), 300))
