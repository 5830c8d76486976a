"""Tilts along the places of the options."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opinion_sae.score.toplines import everyone
from opinion_sae.methods.place import observed_tilts, place_basis, tilted
from opinion_sae.survey import Question


def asked(count, positions=()):
    return Question("q", "?", tuple("abcdefgh"[:count]), True, "t", "s", positions)


def test_basis_by_hand():
    found = place_basis([asked(2), asked(3)], 2)
    np.testing.assert_allclose(found[0], [[-1, 1, 0], [0, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(
        found[1], [[-np.sqrt(1.5), 0, np.sqrt(1.5)], np.array([1, -2, 1]) / np.sqrt(2)], atol=1e-12
    )


@given(st.integers(2, 8), st.integers(1, 5))
def test_basis_is_orthonormal_over_the_options(count, degrees):
    found = place_basis([asked(count)], degrees)[0]
    there = min(degrees, count - 1)
    np.testing.assert_allclose(found[:there] @ found[:there].T / count, np.eye(there), atol=1e-9)
    np.testing.assert_allclose(found.sum(1), 0, atol=1e-9)
    assert not found[there:].any()


def test_uneven_positions_count():
    found = place_basis([asked(3, (1.0, 1.5, 3.0))], 1)[0, 0]
    assert (found[1] - found[0]) / (found[2] - found[0]) == pytest.approx(0.25)


def test_no_degree_is_an_error():
    with pytest.raises(ValueError, match="degrees must be at least 1, got 0"):
        place_basis([asked(2)], 0)


def test_tilt_of_two_options_by_hand(two_groups):
    basis = place_basis(two_groups.questions, 2)
    found = observed_tilts(two_groups, basis, 0.1)
    h = 0.55  # of 90 and 20 in 200 people the first option has this share
    variance, gradient = 4 * h * (1 - h), -2 * (0.9 - h)
    assert found[0, 0, 0] == pytest.approx(gradient / (variance + 0.1))
    assert found[0, 0, 1] == 0  # two options have no middle
    assert np.isnan(found[1, 2]).all() and not np.isnan(found[0]).any()


def test_small_tilts_are_found_again(two_groups):
    survey = two_groups.select(questions=[0, 1])
    basis = place_basis(survey.questions, 3)
    small = 1e-4 * np.random.default_rng(0).normal(size=(2, 2, 3)) * basis.any(-1)
    with np.errstate(divide="ignore"):
        said = np.exp(tilted(np.log(survey.everyone_shares)[None], basis, small))
    np.testing.assert_allclose(said.sum(-1), 1)
    found = observed_tilts(replace(survey, counts=said), basis, 1e-9)
    np.testing.assert_allclose(found, small, atol=1e-6)


def test_no_tilt_leaves_the_base_as_it_was(two_groups):
    basis = place_basis(two_groups.questions, 2)
    base = everyone(two_groups)
    np.testing.assert_allclose(np.exp(tilted(base, basis, np.zeros((1, 3, 2)))), np.exp(base))
