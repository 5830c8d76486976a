"""The chapter on one question: which one it is, what is drawn of it, and sentences that turn with their tables."""

import xml.etree.ElementTree as ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from opinion_sae.book import one_question
from opinion_sae.book.figures.one_question import before_and_after, kl_scale
from opinion_sae.book.figures.style import save_svg
from opinion_sae.book.paths import ROOT
from opinion_sae.score.answers_table import answers_table

PAIR = ("Female", "Male")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture
def divided(tiny):
    """Eight yes-no questions on which the groups stand 0.0, 0.1, ... 0.7 apart, the first of them further up."""
    apart = np.arange(8) / 10
    second = np.stack([0.15 + apart, np.full(8, 0.15)])
    questions = [tiny.question(f"q{i}", ("Yes", "No"), f"Is it {i}?") for i in range(8)]
    return tiny.survey(np.stack([1 - second, second], -1), questions)


def shares(survey, **methods):
    tables = {name: [np.log(np.stack([1 - np.array(p), np.array(p)], -1))] for name, p in methods.items()}
    return answers_table(survey, tables)


def test_the_middle_of_the_most_divided_quarter(divided):
    chosen = one_question.choose(divided, PAIR)
    assert [question.key for question in chosen.among] == ["q7", "q6"] and chosen.question.key == "q6"
    assert chosen.rule.startswith("8 questions with 2 or more ordered options") and "number 2." in chosen.rule
    assert "were answered by both of the groups " in chosen.rule
    other_way = one_question.choose(divided, PAIR[::-1])
    assert other_way.question == chosen.question


def test_no_question_in_common_is_said(tiny):
    survey = tiny.survey([[[0.5, 0.5]], [[np.nan, np.nan]]], [tiny.question("q", ("Yes", "No"))])
    with pytest.raises(ValueError, match="no ordinal question that Female and Male answered"):
        one_question.choose(survey, PAIR)


def test_the_interval_is_wilsons():
    """p = 0.5 of 100: 0.404 to 0.596. Nobody of 10: 0 to 0.278."""
    answers = pd.DataFrame({"question": "q", "option": ["Yes", "No"], "group": "Male", "people": [0.5, 0.0]})
    rows = one_question.rows_of(answers.assign(n_effective=[100, 10]), _question(), PAIR)
    np.testing.assert_allclose(rows[["low", "high"]], [[0.404, 0.596], [0, 0.278]], atol=5e-4)


def _question():
    from opinion_sae.survey import Question

    return Question("q", "Is it?", ("Yes", "No"), True, "", "")


@pytest.mark.parametrize(
    ("predicted", "said"),
    [
        (0.3, "the right direction and 50% of the distance"),
        (-0.3, "the wrong direction"),
        (0.0, "no difference to speak of"),
    ],
)
def test_the_sentence_turns_with_the_table(divided, predicted, said):
    """On q6 the people are 0.6 apart."""
    methods = {name: np.full((2, 8), 0.4) for name in ("unsteered", "delta", "words")}
    methods["delta-reading-64"] = np.stack([np.full(8, 0.4 + predicted), np.full(8, 0.4)])
    answers = shares(divided, **methods)
    chosen = one_question.choose(divided, PAIR)
    rows = one_question.rows_of(answers, chosen.question, PAIR)
    sentence = one_question.shown_sentence(rows, chosen.question, PAIR, "alone")
    assert "+0.60 for people, and +0.00 for the unsteered model" in sentence and said in sentence
    assert (
        "those of the unsteered model 30 (total variation" in sentence
    )  # |0.75 - 0.4| and |0.15 - 0.4|, halves of two
    among = one_question.among_sentence(answers, chosen, PAIR, "alone")
    right = 2 if predicted > 0 else 0  # of q6 and q7
    assert f"{right} for the reading Δ with 64 latents per axis" in among


def test_bars_are_the_tables_shares(divided):
    answers = shares(divided, **{name: np.full((2, 8), 0.4) for name in one_question.METHODS["alone"]})
    question = one_question.choose(divided, PAIR).question
    rows = one_question.rows_of(answers, question, PAIR)
    figure = before_and_after(rows, question, PAIR, "alone")
    assert [axes.get_title(loc="left") for axes in figure.axes][:2] == ["people", "unsteered model"]
    heights = [[bar.get_height() for bar in axes.patches] for axes in figure.axes]
    np.testing.assert_allclose(heights[0], [25, 75, 85, 15])  # Female: no of 0.15 + 0.6
    np.testing.assert_allclose(heights[1:], [[60, 40, 60, 40]] * 4)


def test_the_scale_of_the_committed_tables(tmp_path):
    """Every dot stands at the table's value; the sentence turns when the table does."""
    gaps, alignment, floor = (pd.read_csv(ROOT / f"results/default/{n}.csv") for n in ("gaps", "alignment", "floor"))
    table = one_question.scale_table(gaps, alignment, floor)
    assert table["kl"].is_monotonic_decreasing and {"uniform", "floor", "toplines"} <= set(table["method"])
    figure = kl_scale(table)
    dots = {line.get_gid(): line.get_xdata()[0] for line in figure.axes[0].lines if line.get_gid()}
    assert dots == {f"kl-of-{row.task}-{row.method}": row.kl for row in table.itertuples()}
    save_svg(figure, tmp_path / "scale.svg")
    paper, texts = figure.bbox.padded(1), [text for text in figure.axes[0].texts if text.get_text()]
    assert len(texts) == len(table)
    assert all(paper.contains(*corner) for text in texts for corner in text.get_window_extent().get_points())
    assert "unsteered model, alone" in "".join(ElementTree.parse(tmp_path / "scale.svg").getroot().itertext())
    closed = gaps.set_index(["task", "group", "method"])["group_kl_closed"]["toplines", "all", "delta-reading-64"]
    assert f"and from toplines {closed:.0%} of what is left" in one_question.scale_sentence(table, gaps)
    worse = gaps.assign(group_kl_closed=-0.2)
    assert "and from toplines nothing of what is left" in one_question.scale_sentence(table, worse)


def test_an_option_called_none_stays_one(tmp_path):
    (tmp_path / "answers.csv").write_text("question,option,people\nq,None,0.5\nq,NA,\n")
    rows = one_question.read_answers(tmp_path / "answers.csv")
    assert list(rows["option"]) == ["None", "NA"] and rows["people"].isna().tolist() == [False, True]
