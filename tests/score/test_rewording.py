"""Two wordings of one question: which pairs count, and how alike their gaps are, by hand."""

import dataclasses

import numpy as np
import pytest

from opinion_sae.score.rewording import consistency, levels, peoples_consistency, reworded


@pytest.fixture
def survey(tiny):
    """Three pairs of yes and no in two wordings each; three groups, the first two of one attribute."""
    questions = [tiny.question(f"{key}{i}", ("Yes", "No"), f"{key}{i}?") for key in "xyz" for i in (1, 2)]
    questions = [dataclasses.replace(question, cluster=question.key[0]) for question in questions]
    # the share of 'No' is a place; everybody's is the mean
    no = np.array([[0.6, 0.7, 0.2, 0.2, 0.5, 0.5], [0.4, 0.3, 0.8, 0.8, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5, 0.5, 0.5]])
    return tiny.survey(np.stack([1 - no, no], -1), questions, ("a", "b", "c"), ["sex", "sex", "age"])


def test_pairs_have_the_cluster_the_options_and_a_scale(survey, tiny):
    assert reworded(survey).tolist() == [[0, 1], [2, 3], [4, 5]]
    changes = {1: {"options": ("No", "Yes")}, 2: {"ordinal": False}, 4: {"cluster": ""}}
    questions = [dataclasses.replace(q, **changes.get(i, {})) for i, q in enumerate(survey.questions)]
    other = dataclasses.replace(survey, questions=tuple(questions))
    assert reworded(other).shape == (0, 2)
    assert consistency(other, np.log(other.shares)) == peoples_consistency(other) == {}


def test_three_levels_by_hand(survey):
    one = np.array([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0], [0.0, 0.0, 0.0]])
    whole, lowest, pair = levels(survey, one, one)
    assert (whole, lowest, pair) == pytest.approx((1, 1, 1))
    other = one.copy()
    other[1] = [1.0, 3.0, 2.0]  # turned about
    whole, lowest, pair = levels(survey, one, other)
    assert lowest == pytest.approx(-1) and whole < 1
    assert pair == pytest.approx(np.corrcoef(one[0] - one[1], other[0] - other[1])[0, 1])


def test_what_people_say_is_consistent_with_itself_and_noise_is_taken_out(survey):
    found = peoples_consistency(survey)
    gaps = np.array([0.1, 0.2, -0.3, -0.3, 0, 0])
    one, other = gaps, gaps[[1, 0, 3, 2, 5, 4]]
    assert found["pairs"] == 3 and found["reworded_r_pair"] == pytest.approx(np.corrcoef(one, other)[0, 1])
    assert found["reworded_r"] < found["corrected"] <= 1
    said = consistency(survey, np.log(np.maximum(survey.shares, 1e-9)))
    assert said["reworded_r_pair"] == pytest.approx(found["reworded_r_pair"], abs=0.02)


def test_a_method_without_gaps_has_no_consistency(survey):
    flat = np.log(np.full((1, 6, 2), 0.5))
    assert all(np.isnan(value) for value in consistency(survey, flat).values())
    some = np.broadcast_to(flat, (3, 6, 2)).copy()
    some[:, 1:] = np.nan
    assert all(np.isnan(value) for value in consistency(survey, some).values())
