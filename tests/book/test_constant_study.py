"""Chapter 08's sentences on the study of constant offsets: another table, another sentence."""

import pandas as pd

from opinion_sae.book import constant_study
from opinion_sae.book.study_tables import ABSENT, StudyTables, load_tables


def study(**tables):
    return StudyTables("constant", tables, {})


def kinds(*own):
    columns = {"kind": ["rectified", "additive"], "test KL, shared only": [0.23, 0.24], "test KL": own}
    return study(kinds=pd.DataFrame(columns))


def test_kinds_that_kept_no_own_part_are_named():
    said = constant_study.kinds(kinds(0.23, 0.2397))
    assert said.startswith("1 of 2 kinds (rectified) have the test KL of the shared part alone: no own part")
    assert said.endswith("additive goes from 0.2400 to 0.2397 with it.")
    assert "2 of 2 kinds (rectified; additive)" in constant_study.kinds(kinds(0.23, 0.24))
    both = constant_study.kinds(kinds(0.22, 0.2397))
    assert both.startswith("Every kind kept an own part of the groups: rectified goes from 0.2300 to 0.2200")


def composed(low, high):
    columns = ["offset", "kl", "minus direct fit", "difference low", "difference high"]
    rows = [("sum of members", 0.22, 0.01, low, high), ("fitted directly", 0.21, 0.0, 0.0, 0.0)]
    return study(composition=pd.DataFrame(rows, columns=columns))


def test_the_sum_of_parts_beside_a_direct_fit():
    said = constant_study.composition_sentence(composed(-0.01, 0.03))
    assert said == (
        "The lowest KL is that of the row 'fitted directly' (0.2100); the sum of both parts is not told apart from a "
        "part fitted directly (+0.0100, -0.0100 to +0.0300)."
    )
    assert "parts is above a part" in constant_study.composition_sentence(composed(0.005, 0.03))
    assert "parts is below a part" in constant_study.composition_sentence(composed(-0.03, -0.005))


def test_what_was_not_made_is_said():
    nothing = study(kinds=pd.DataFrame(), composition=pd.DataFrame())
    assert constant_study.kinds(nothing) == constant_study.composition_sentence(nothing) == ABSENT
    made = load_tables("constant")
    assert constant_study.kinds(made) != ABSENT and constant_study.composition_sentence(made) != ABSENT
