"""The table of answers, by hand."""

import numpy as np
import pytest

from opinion_sae.score.answers_table import answers_table


def test_answers_by_hand(two_groups):
    p = np.full((1, 3, 4), 0.25)
    q = p * np.array([0.5, 1.5, 1, 1])
    found = answers_table(two_groups, {"even": [np.log(p)], "two": [np.log(p), np.log(q)]})
    assert list(found.columns) == ["question", "option", "group", "people", "n_effective", "even", "two"]
    assert len(found) == 2 * 2 + 4 * 2 + 3  # nobody of the second group answered the last
    row = found.iloc[2]
    assert (row["question"], row["option"], row["group"]) == ("a", "No", "Female")
    assert row["people"] == pytest.approx(0.1) and row["n_effective"] == 100
    assert row["two"] == pytest.approx((0.25 + 0.375) / 2)
    np.testing.assert_allclose(found.groupby(["question", "group"])["people"].sum(), 1)
    with pytest.raises(ValueError, match="method 'people' has the name of another column"):
        answers_table(two_groups, {"people": [np.log(p)]})
