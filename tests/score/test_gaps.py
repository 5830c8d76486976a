"""Gaps, their sampling noise, identification and the floor: by hand, and against simulated respondents."""

import dataclasses

import numpy as np
import pytest

from opinion_sae.score.gaps import actual_gaps, cell_kl, identified, predicted_gaps, rest, toplines_floor, toplines_kl
from opinion_sae.score.metrics import noise_floor
from opinion_sae.score.toplines import everyone

NAN = np.nan


def test_gaps_and_their_noise_by_hand(made):
    survey = made.binary([[0.1, NAN], [0.5, 0.4]])
    gap, noise = actual_gaps(survey)
    np.testing.assert_allclose(gap, [[-0.2, NAN], [0.2, 0]], atol=1e-12)
    # half of everybody are the group's: (1/2)^2 (0.1 x 0.9 / 99 + 0.5 x 0.5 / 99); alone it is everybody, without noise
    each = 0.25 * (0.09 + 0.25) / 99
    np.testing.assert_allclose(noise, [[each, NAN], [each, 0]])
    np.testing.assert_allclose(rest(survey).effective[0, 0], 100)
    unordered = dataclasses.replace(survey.questions[0], ordinal=False)
    gap, noise = actual_gaps(dataclasses.replace(survey, questions=(unordered, survey.questions[1])))
    assert np.isnan(gap[:, 0]).all() and np.isnan(noise[:, 0]).all()


def test_a_group_that_cannot_be_part_of_everybody_is_another_sample(made):
    survey = made.binary([[0.1], [0.5]])
    # as in surveys that publish shares: everybody has as many people as each group
    survey = dataclasses.replace(survey, everyone=survey.everyone / 2, everyone_effective=survey.everyone_effective / 2)
    np.testing.assert_array_equal(rest(survey).weight, 0)
    np.testing.assert_allclose(actual_gaps(survey)[1][0], (0.09 + 0.21) / 99)


def test_predicted_gaps_are_from_the_method_alone_and_from_the_toplines_if_known(made, three):
    table = made.logs([[0.9, 0.8, 0.8], [0.7, 0.8, 0.8]])
    np.testing.assert_allclose(predicted_gaps(three, table, "alone"), [[0.1, 0, 0], [-0.1, 0, 0]], atol=1e-12)
    known = np.exp(everyone(three))[0, :, 1]
    expected = np.array([[0.9, 0.8, 0.8], [0.7, 0.8, 0.8]]) - known
    np.testing.assert_allclose(predicted_gaps(three, table, "toplines"), expected)


def test_identified_by_hand_with_ties_and_lonely_cells(made):
    survey = made.binary(
        [[0.1, 0.1, 0.1], [0.5, 0.1, NAN], [0.9, 0.9, NAN], [0.5, 0.5, 0.5]],
        groups=("a", "b", "c", "d"),
        attributes=("age",) * 3 + ("sex",),
    )
    found, chance = identified(survey, made.logs([[0.2, 0.1, 0.1], [0.2, 0.1, 0.1], [0.95, 0.6, 0.1], [0.5] * 3]))
    # b is told what a says; a and b answer the second question alike, so each is right by half; c is told 0.6, and
    # KL((0.1, 0.9) || (0.4, 0.6)) = 0.23 is the least; nobody else answered the third, and d has no other
    np.testing.assert_allclose(found, [[1, 0.5, NAN], [0, 0.5, NAN], [1, 1, NAN], [NAN] * 3])
    np.testing.assert_allclose(chance, [[1 / 3, 1 / 3, NAN]] * 3 + [[NAN] * 3])


def test_whatever_is_said_of_all_alike_identifies_by_chance(made):
    survey, *_ = made.simulated(questions=30)
    table = np.log(np.random.default_rng(3).dirichlet(np.ones(4), (1, 30)))
    found, chance = identified(survey, table)
    np.testing.assert_allclose(found.mean(), 1 / 4)
    np.testing.assert_allclose(chance, 1 / 4)


def test_the_floor_is_what_a_perfect_method_scores(made):
    survey, truth, whole = made.simulated()
    perfect = everyone(survey) + np.log(truth / whole)
    perfect -= np.log(np.exp(perfect).sum(-1, keepdims=True))
    floor, scored = toplines_floor(survey, 50), cell_kl(survey, perfect)
    np.testing.assert_allclose(floor.mean(1), scored.mean(1), rtol=0.1)
    assert floor.mean() == pytest.approx(scored.mean(), rel=0.05)
    # three degrees of freedom, of which the toplines know the group's part: 3 / 2n (1 - w), against 3 / 2n alone
    n = survey.effective[:, 0]
    np.testing.assert_allclose(floor.mean(1), 1.5 / n * (1 - n / n.sum()), rtol=0.1)
    assert noise_floor(survey, 50).kl.mean() > 1.15 * floor.mean()
    assert np.isnan(toplines_floor(made.binary([[0.1, NAN], [0.2, 0.3]]), 2))[0].tolist() == [False, True]


def test_how_far_a_group_is_from_everybody(three):
    """Gaps of 0.2, 0 and 0.2 from a half: two thirds of KL(0.7 || 0.5), but for half a respondent an option."""
    assert toplines_kl(three) == pytest.approx(2 / 3 * (0.7 * np.log(1.4) + 0.3 * np.log(0.6)), abs=1e-4)
