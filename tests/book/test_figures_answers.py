"""Answers in figures: a mark for each method that was run, and none for one that was not."""

import numpy as np
import pandas as pd
import pytest

from opinion_sae.book.figures.answers import alignment_by_group
from opinion_sae.score.names import label


def test_methods_that_were_not_run_are_left_out(tiny):
    survey = tiny.survey(np.full((2, 3, 2), 0.5), [tiny.question(f"q{i}", ("Yes", "No")) for i in range(3)])
    rows = [
        {"method": method, "group": group, "kl": by, "kl_low": by - 0.1, "kl_high": by + 0.1, "n_questions": 3}
        for method, by in (("unsteered", 0.4), ("delta", 0.2))
        for group in survey.groups
    ]
    floor = pd.DataFrame({"group": survey.groups, "kl": 0.01})
    figure = alignment_by_group(survey, pd.DataFrame(rows), floor, ["unsteered", "delta-joint", "delta"])
    drawn = {bar.get_label(): bar.lines[0].get_xdata().tolist() for bar in figure.axes[0].containers}
    assert list(drawn) == [label("unsteered"), label("delta")]
    assert drawn[label("delta")] == pytest.approx([0.2] * len(survey.groups))
