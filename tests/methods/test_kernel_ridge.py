"""Kernel ridge on tilts: against a dense solve, without leaks, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest

from opinion_sae.delta.held_out import Split
from opinion_sae.methods.kernel_ridge import (
    GRID,
    Decomposed,
    Settings,
    choose,
    kernel_ridge,
    mean_by_place,
    question_kernel,
)
from opinion_sae.methods.place import observed_tilts, place_basis, tilted
from opinion_sae.score.metrics import kl
from opinion_sae.score.toplines import from_toplines


def make_split(train, validation, test):
    return Split("made up", *(np.array(part, int) for part in (train, validation, test)))


@pytest.fixture(scope="module")
def many(tiny):
    """Three groups' answers to 40 questions, that tilt as two features of the question say."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 6))
    questions = [tiny.question(f"q{i}", "abcd"[: 2 + i % 3], f"Is it {i}?") for i in range(40)]
    basis = place_basis(questions, 1)
    base = np.where(np.arange(4) < np.array([2 + i % 3 for i in range(40)])[:, None], 0.0, -np.inf)[None]
    codes = np.array([1.0, -1.0, 0.0])[:, None]
    tilts = (0.1 * codes * (features[:, 0] + features[:, 1]))[..., None]
    survey = tiny.survey(np.exp(tilted(base, basis, tilts)), questions, "ABC")
    return survey, features


def test_against_a_dense_solve(many):
    survey, features = many
    basis = place_basis(survey.questions, 3)
    tilts, train = observed_tilts(survey, basis, 0.1), np.arange(0, 30)
    kernel = question_kernel(features, train)
    fitted = Decomposed(kernel, train, basis.any(-1)).fit(tilts, Settings(0.2, 0.0, 0.1))
    found = fitted.predict(kernel)
    for degree in range(3):
        rows = train[[len(survey.questions[q].options) > degree + 1 for q in train]]
        mean = tilts[:, rows, degree].mean(1, keepdims=True)
        dense = np.linalg.solve(kernel[np.ix_(rows, rows)] + 0.2 * np.eye(len(rows)), (tilts[:, rows, degree] - mean).T)
        np.testing.assert_allclose(found[..., degree], mean + (kernel[:, rows] @ dense).T, atol=1e-10)
    linear = np.einsum("gbj,qj->gqb", fitted.coefficients(features), features) + fitted.mean[:, None]
    np.testing.assert_allclose(linear, found, atol=1e-10)


def test_evenness_shrinks_the_weaker_axis_more(many):
    survey, features = many
    basis, train = place_basis(survey.questions, 1), np.arange(30)
    kernel = question_kernel(features, train)
    one = Decomposed(kernel, train, basis.any(-1))
    rng = np.random.default_rng(1)
    strong, weak = rng.normal(size=(2, 40))
    strong, weak = strong - strong[train].mean(), weak - weak[train].mean()
    weak = weak - strong * (weak[train] @ strong[train]) / (strong[train] @ strong[train])
    tilts = np.stack([3 * strong, weak])[..., None]
    even, uneven = (one.fit(tilts, Settings(1.0, evenness, 0.1)).predict(kernel)[..., 0] for evenness in (0.0, 1.0))
    np.testing.assert_allclose(uneven[0], even[0], atol=1e-9)
    assert np.linalg.norm(uneven[1]) < 0.7 * np.linalg.norm(even[1])


def test_it_predicts_unseen_questions_and_keeps_what_the_toplines_say(many):
    survey, features = many
    split = make_split(range(0, 24), range(24, 32), range(32, 40))
    table, choices = kernel_ridge(survey, [split], {"two": lambda train: features}, degrees=1)
    assert np.isnan(table[:, :32]).all()
    np.testing.assert_allclose(np.exp(table[:, 32:]).sum(-1), 1, rtol=1e-6)
    given = np.exp(from_toplines(survey, table))[:, 32:]
    of_toplines = kl(survey.shares[:, 32:], survey.everyone_shares[32:]).mean()
    assert kl(survey.shares[:, 32:], given).mean() < 0.1 * of_toplines
    assert choices[0].features == "two" and choices[0].ridge == min(one.ridge for one in GRID)


def test_the_features_that_predict_are_chosen(many):
    survey, features = many
    split = make_split(range(0, 24), range(24, 32), range(32, 40))
    noise = np.random.default_rng(3).normal(size=(40, 6))
    _, choices = kernel_ridge(survey, [split], {"noise": lambda train: noise, "two": lambda train: features})
    assert [choice.features for choice in choices] == ["two"]


def test_answers_to_test_questions_change_nothing(many):
    survey, features = many
    split = make_split(range(0, 24), range(24, 32), range(32, 40))
    changed = survey.counts.copy()
    changed[:, 32:] = changed[::-1, 32:]
    seen = []

    def weighted(train):
        seen.append(train)
        return features

    before, _ = kernel_ridge(survey, [split], {"two": weighted})
    after, _ = kernel_ridge(
        replace(survey, counts=changed, everyone=changed.sum(0)), [split], {"two": lambda train: features}
    )
    np.testing.assert_array_equal(before, after)
    assert all(train.max() < 32 for train in seen)


def test_prior_is_the_mean_by_place(tiny):
    questions = [tiny.question("a", "ab"), tiny.question("b", "ab"), tiny.question("c", "abc")]
    survey = tiny.survey([[[0.9, 0.1, 0], [0.3, 0.7, 0], [0.2, 0.3, 0.5]]], questions, ("all",))
    found = np.exp(mean_by_place(survey, np.array([0])))
    np.testing.assert_allclose(found, [[0.7, 0.3, 0], [0.7, 0.3, 0], [1 / 3] * 3])


def test_features_that_say_nothing_predict_the_groups_means(many):
    survey, _ = many
    split = make_split(range(0, 24), range(24, 32), range(32, 40))
    _, fitted = choose(survey, split, {"none": lambda train: np.zeros((40, 3))})
    tilts = fitted.predict(np.zeros((40, 40)))
    assert np.isfinite(tilts).all() and not fitted.coefficients(np.zeros((40, 3))).any()
    np.testing.assert_allclose(tilts, np.broadcast_to(fitted.mean[:, None], tilts.shape))
