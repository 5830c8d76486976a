"""What groups and options are called is drawn as it is written, and nothing else needs mathtext."""

import io
import re
from html import unescape

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from opinion_sae.book.figures import style
from opinion_sae.book.figures.predictions import predictions
from opinion_sae.book.paths import ROOT
from opinion_sae.use.asked import Asked

NAMES = ("$30,000-$50,000", "$a_$ b", "$\\frac{$", "100 % _x^2")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def written(figure):
    """The texts of a figure's SVG."""
    file = io.StringIO()
    figure.savefig(file, format="svg")
    return [unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", file.getvalue())]


def test_names_of_groups_and_options_are_drawn_as_they_are_written(tiny):
    question = tiny.question("q", NAMES, "Is it $so?", "life")
    rows = [("q", "alone", option, "sex", group, 0.25, 0.1, 0.4) for group in NAMES for option in NAMES]
    shares = pd.DataFrame(rows, columns=["question", "task", "option", "attribute", "group", "share", "low", "high"])
    figure = predictions(shares, [Asked(question)], ())
    sizes = {text.get_fontsize() for text in figure.findobj(Text) if text.get_text()}
    assert figure.get_figwidth() == style.WIDTH and min(sizes) >= 9  # 8 points on a phone
    found = written(figure)
    assert all(any(name in text for text in found) for name in NAMES)
    rows = {f"{name} {place}" for place, name in enumerate(NAMES, 1)}
    assert rows <= set(written(style.matrix(np.eye(4), NAMES, "KL")))


def test_ticks_of_a_logarithmic_axis_are_plain_numbers():
    axes = plt.subplots()[1]
    axes.plot([1, 8], [0.001, 100])
    style.log_scale(axes.xaxis, base=2)
    style.log_scale(axes.yaxis)
    assert {"2", "4", "8", "0.001", "0.1", "100"} <= set(written(axes.figure))


def test_a_letter_marks_a_point_and_nothing_beside_it():
    plain, letter = style.MarkerStyle("$M$"), style.look("diff-means")["marker"]
    assert len(letter.get_path().vertices) < len(plain.get_path().vertices)  # which has the dollars too


def test_no_figure_makes_mathtext_of_its_own():
    for path in (ROOT / "src/opinion_sae/book/figures").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert path.name == "style.py" or not re.search(r'scale\("log"|"\$[^"]*\$"', text), path.name


def test_a_figure_is_narrow_enough_for_a_phone_whatever_the_names():
    """At 342 of 390 pixels its smallest text has 8 points; a test of the pages measures what they show."""
    assert style.STYLE["font.size"] * 342 / (96 * style.WIDTH) >= 8


def test_names_stand_beside_the_ends_of_their_lines_and_never_on_each_other():
    assert style.apart([0.0, 0.5, 0.52, 0.9], [0.1] * 4) == pytest.approx([0.0, 0.46, 0.56, 0.9])
    assert style.apart([], []) == [] and style.apart([0.3, 0.3], [0.2, 0.4]) == pytest.approx([0.15, 0.45])
    axes = plt.subplots()[1]
    axes.plot([0, 1], [0, 1], label="up")
    axes.plot([0, 1], [1, 0], label="a name that is long enough for two lines")
    axes.plot([0, 1], [0, np.nan])  # without a name
    style.label_lines(axes)
    assert [text.get_text() for text in axes.texts] == ["a name that is\nlong enough for\ntwo lines", "up"]


def test_rows_have_their_names_above_them_and_room_for_the_first():
    axes = plt.subplots()[1]
    style.name_rows(axes, ["one", "two"])
    assert [text.get_text() for text in axes.texts] == ["one", "two"]
    assert axes.get_ylim() == (1.5, -0.9) and not any(text.get_in_layout() for text in axes.texts)
