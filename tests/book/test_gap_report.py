"""What the chapters on reading say, from their tables; also where there are too few questions."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from opinion_sae.book import gap_report
from opinion_sae.book.figures import gaps
from opinion_sae.score.gap_pairs import pair_gaps, pairs_table
from opinion_sae.score.gaps_table import gaps_by_fold, gaps_table


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def case(tiny):
    rng = np.random.default_rng(0)
    second = rng.uniform(0.2, 0.8, (2, 12))
    questions = [tiny.question(f"q{i}", ("Yes", "No"), f"Is it {i}?") for i in range(12)]
    survey = tiny.survey(np.stack([1 - second, second], -1), questions)
    said = {name: [np.log(np.stack([1 - p, p], -1))] for name, p in (("words", second), ("delta", 0.5 + 0 * second))}
    said["delta-reading"] = said["words"]
    return survey, said


def pages(survey, said, clusters):
    table = gaps_table(survey, said, clusters, 100)
    pairs = pairs_table(survey, said, ("Female", "Male"), clusters, 100)
    return table, pairs


def test_a_table_of_the_methods_there_are_in_two_digits(case):
    table, pairs = pages(*case, np.arange(12))
    lines = gap_report.gaps_page(table, pairs).html.splitlines()
    rows = [line for line in lines if line.startswith("<tr><td>")]
    assert [re.search("<td>(.*?)</td>", row)[1] for row in rows] == ["toplines", "Δ", "reading Δ", "words"]
    assert "(0.00" not in rows[0] and any("Female minus Male" in line for line in lines)
    sentence = gap_report.gaps_sentence(table)
    assert sentence.startswith("Over 12 held-out questions") and " for Δ and " in sentence


def test_too_few_questions_are_said_and_no_nan(case):
    survey, said = case
    table, pairs = pages(*case, np.zeros(12, int))
    for text in (gap_report.gaps_page(table, pairs).html, gap_report.pair_sentence(pairs, "words")):
        assert "too few questions" in text and "nan" not in text
    codes = pd.DataFrame({"axis": 1, "group": ["a", "b"], "c": 0.0, "low": 0.0, "high": 0.0})
    assert "too few questions" in gap_report.codes_sentence(codes)
    figure = gaps.gap_methods(table, gaps_by_fold(survey, said, np.arange(12) % 3), "toplines")
    figure.canvas.draw()
    apart = pair_gaps(survey, said["words"][0], ("Female", "Male"))
    assert "too few" in gaps.reading_gap(*apart, ("Female", "Male"), np.nan).axes[0].get_title(loc="left")


def test_the_ends_of_an_axis_and_how_firm_its_sides_are():
    codes = pd.DataFrame(
        {"axis": 1, "group": ["a", "b", "c"], "c": [0.5, -0.2, 0.1], "low": [0.4, -0.3, -0.1], "high": [0.6, 0.1, 0.2]}
    )
    assert gap_report.codes_sentence(codes) == (
        "Axis 1 runs from b (-0.20) to a (+0.50); 1 of 3 groups are on the same side of zero in every fold."
    )


def test_the_constant_share_by_fold_and_unused_parts():
    rows = [("delta", 0, 0.99, 1.0), ("delta", 1, np.nan, 0.0), ("delta-reading-64", 0, 0.2, 1.0)]
    rows.append(("delta-reading-64", 1, 0.4, 1.0))
    shares = pd.DataFrame(rows, columns=["method", "fold", "constant_share", "size"])
    assert "0.99 for Δ, 0.30 for the reading Δ with 64 latents per axis" in gap_report.constant_sentence(shares)
    cells = re.findall("<td[^>]*>(.*?)</td>", gap_report.constant_page(shares).html)
    assert cells == ["0", "0.99", "0.20", "1", "not used", "0.40"]
    idle = gap_report.constant_sentence(shares[1:2])
    assert "not defined, as it is not used, for Δ" in idle and "nan" not in idle


def test_a_dot_for_each_fold_and_a_row_for_each_method(case):
    survey, said = case
    table, _ = pages(*case, np.arange(12))
    figure = gaps.gap_methods(table, gaps_by_fold(survey, said, np.arange(12) % 3), "toplines")
    left = figure.axes[0]
    assert [text.get_text() for text in left.texts] == ["toplines", "Δ", "reading Δ", "words"]
    dots = [line for line in left.lines if line.get_marker() == "."]
    assert [len(line.get_xdata()) for line in dots] == [3] * 4


def test_answers_are_those_of_the_table_and_three_from_toplines(case):
    survey, said = case
    shown = gap_report.shown_answers(survey, said)
    assert list(shown) == ["toplines", "delta", "delta-reading", "words"] + [
        f"{name}-from-toplines" for name in ("delta-reading", "delta", "words")
    ]
