"""What is put on top of the toplines: by hand, what is missing, what is refused."""

import dataclasses

import numpy as np
import pytest

from opinion_sae.score.gaps_table import gaps_table
from opinion_sae.score.toplines import everyone, from_toplines, group_weights

NAN = np.nan


def test_from_toplines_by_hand(made):
    survey = made.binary([[0.1], [0.5]])
    # everybody: 140 and 60 of 200, half a person added to each; p̄ = (0.4, 0.4)
    found = np.exp(from_toplines(survey, made.logs([[0.2], [0.8]])))
    first, second = np.array([140.5 * 2, 60.5 / 2]), np.array([140.5 / 2, 60.5 * 2])
    np.testing.assert_allclose(found[:, 0], [first / first.sum(), second / second.sum()])


def test_larger_groups_count_for_more_and_attributes_alike(made):
    survey = made.binary([[0.1, 0.1]] * 4, groups=("a", "b", "c", "d"), attributes=("sex", "sex", "age", "age"))
    counts = survey.counts * np.array([3, 1, 1, 1])[:, None, None]
    counts[3, 0] = 0  # not asked: its numbers are those of the other question
    np.testing.assert_allclose(group_weights(dataclasses.replace(survey, counts=counts)), [3 / 8, 1 / 8, 1 / 4, 1 / 4])


def test_a_method_that_says_the_same_of_all_gives_the_toplines(two_groups):
    one = np.log(np.full((1, 3, 4), 0.25))
    assert np.array_equal(from_toplines(two_groups, one), everyone(two_groups))
    both = from_toplines(two_groups, np.repeat(one, 2, 0))
    np.testing.assert_allclose(both, np.repeat(everyone(two_groups), 2, 0), rtol=1e-12)
    found = gaps_table(two_groups, {"same": [np.repeat(one, 2, 0)]}, np.arange(3), 50)
    rows = found[(found["task"] == "toplines") & (found["method"] == "same")]
    np.testing.assert_allclose(rows[["group_kl_closed", "gap_r", "exaggeration"]], 0, atol=1e-12)
    top = found[found["method"] == "toplines"]
    assert (top[["group_kl_closed", "gap_r", "exaggeration"]] == 0).all().all()


def test_a_group_without_a_prediction_stays_out_and_one_without_answers_does_not(two_groups):
    rng = np.random.default_rng(0)
    table = np.log(rng.dirichlet(np.ones(4), (2, 3)))
    table[:, 0, 2:] = table[:, 2, 3:] = -np.inf
    whole = from_toplines(two_groups, table)
    assert np.isfinite(whole[1, 2, :3]).all()  # the second group did not answer the third question
    np.testing.assert_allclose(np.exp(whole).sum(-1), 1)
    assert np.isneginf(whole[:, 0, 2:]).all()
    table[1, 1] = NAN
    part = from_toplines(two_groups, table)
    assert np.isnan(part[1, 1]).all()
    np.testing.assert_allclose(part[0, 1], everyone(two_groups)[0, 1])  # alone it is its own mean
    np.testing.assert_array_equal(part[:, [0, 2]], whole[:, [0, 2]])


def test_an_option_that_is_impossible_for_some_groups_is_refused(two_groups):
    table = np.log(np.full((2, 3, 4), 0.25))
    table[:, 1, 3] = -np.inf  # for both: no difference, so the toplines
    np.testing.assert_allclose(from_toplines(two_groups, table)[:, 1], np.repeat(everyone(two_groups)[:, 1], 2, 0))
    table[0, 1, 3] = -1.0
    with pytest.raises(ValueError, match="question 'b', option 'Always': some groups have probability 0"):
        from_toplines(two_groups, table)
