"""References that look at answers only: by hand."""

import numpy as np
import pytest

from opinion_sae.delta.held_out import Split
from opinion_sae.methods.baselines import choose, position_prior, uniform, validation_kl
from opinion_sae.score.toplines import everyone


def split(train, validation, test):
    return Split("made up", *(np.array(part, int) for part in (train, validation, test)))


def test_uniform_and_everyone(two_groups):
    np.testing.assert_allclose(np.exp(uniform(two_groups))[0], [[0.5, 0.5, 0, 0], [0.25] * 4, [1 / 3] * 3 + [0]])
    found = np.exp(everyone(two_groups))[0]
    np.testing.assert_allclose(found[0], [(90 + 20 + 0.5) / 201, (10 + 80 + 0.5) / 201, 0, 0])
    np.testing.assert_allclose(found.sum(-1), 1)


@pytest.fixture
def same_options(tiny):
    """Two groups, three questions of two options and one of three; the second group skipped question 1."""
    nan = np.nan
    shares = [
        [[0.9, 0.1, 0], [0.5, 0.5, 0], [0.3, 0.7, 0], [0.2, 0.3, 0.5]],
        [[0.4, 0.6, 0], [nan] * 3, [0.3, 0.7, 0], [0.2, 0.3, 0.5]],
    ]
    options = ("ab", "ab", "ab", "abc")
    return tiny.survey(shares, [tiny.question(f"q{i}", o) for i, o in enumerate(options)])


def test_position_prior_is_the_mean_over_training_questions_with_as_many_options(same_options):
    found = np.exp(position_prior(same_options, [split([0, 1], [2], [3]), split([0, 1, 3], [3], [2])]))
    np.testing.assert_allclose(found[:, 3], [[1 / 3] * 3] * 2, rtol=1e-6)  # no training question has three options
    first, second = (0.9 + 0.5 + 0.5) / 3, (0.4 + 0.5) / 2  # one uniform answer added
    np.testing.assert_allclose(found[:, 2], [[first, 1 - first, 0], [second, 1 - second, 0]], rtol=1e-6)
    assert np.isnan(found[:, :2]).all()  # tested by neither split


def test_choice_is_by_validation_alone(same_options):
    h = np.nan_to_num(same_options.shares, nan=0.5)
    good, bad = np.log(h + 1e-6), np.log(np.array([0.05, 0.95, 1e-6]) * np.ones(h.shape))
    right_on_validation = bad.copy()
    right_on_validation[:, 2] = good[:, 2]
    wrong_on_validation = good.copy()
    wrong_on_validation[:, 2] = bad[:, 2]
    candidates = {"a": wrong_on_validation, "b": right_on_validation}
    found, names = choose(same_options, candidates, [split([0], [2], [1, 3])])
    assert names == ["b"]
    np.testing.assert_allclose(found[:, [1, 3]], bad[:, [1, 3]], rtol=1e-5)
    assert np.isnan(found[:, [0, 2]]).all()


def test_validation_kl_is_the_mean_over_groups_that_answered_then_over_questions(same_options):
    flat = np.log(np.full((1, 2, 3), 0.5))
    entropy = [-0.9 * np.log(0.9) - 0.1 * np.log(0.1), -0.4 * np.log(0.4) - 0.6 * np.log(0.6)]
    expected = (np.log(2) - np.mean(entropy) + 0) / 2  # question 1: only the first group, who answered half and half
    assert validation_kl(same_options, flat, np.array([0, 1])) == pytest.approx(expected)
