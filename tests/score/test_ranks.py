"""Rank correlation, overlap and the jackknife, by hand."""

import numpy as np
import pytest

from opinion_sae.score.ranks import chance_overlap, jackknife_interval, jackknife_weights, rank_correlation, top_overlap


def test_rank_correlation_by_hand():
    """Ranks 1 2 3 4 against themselves, turned round, and 1 3 2 4 (d^2 = 0 1 1 0: 1 - 6 * 2 / 60 = 0.8)."""
    sizes = np.array([[1.0, 10, 100, 1000], [4, 3, 2, 1], [1, 3, 2, 4], [5, 5, 5, 5]])
    found = rank_correlation(sizes, np.array([0.1, 0.2, 0.3, 0.4]))
    np.testing.assert_allclose(found, [1, -1, 0.8, np.nan])
    tied = rank_correlation(np.array([[1.0, 2, 3]]), np.array([0.0, 0, 1]))
    assert tied[0] == pytest.approx(np.corrcoef([1, 2, 3], [1.5, 1.5, 3])[0, 1])


def test_overlap_of_the_largest():
    sizes = np.array([[4.0, 3, 2, 1], [1, 2, 3, 4]])
    assert top_overlap(sizes, np.array([9.0, 0, 8, 0]), 2).tolist() == [0.5, 0.5]
    assert top_overlap(sizes, np.array([9.0, 8, 0, 0]), 2).tolist() == [1, 0]


def test_overlap_by_chance():
    """Two of four, twice: of 6 choices 1 shares none, 4 share one, 1 shares both."""
    assert chance_overlap(4, 2, 0.8) == (0.5, 0.5) and chance_overlap(4, 2, 0.9) == (0.5, 1.0)
    assert chance_overlap(3, 3) == (1.0, 1.0) and np.isnan(chance_overlap(5, 0)).all()
    shared = [np.isin(np.random.default_rng(n).permutation(200)[:20], np.arange(20)).mean() for n in range(2000)]
    assert np.mean(np.array(shared) > chance_overlap(200, 20)[1]) <= 0.03


def test_each_block_is_left_out_once_and_clusters_stay_together():
    clusters = np.array([3, 3, 5, 7, 8, 9, 5])
    weights = jackknife_weights(clusters, 3)
    assert weights.shape == (4, 7) and weights[0].all() and ((1 - weights[1:]).sum(0) == 1).all()
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 2] == weights[:, 6]).all()
    assert len(jackknife_weights(np.arange(4))) == 5


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).normal(size=40)
    weights = jackknife_weights(np.arange(40), 40)
    low, high = jackknife_interval(weights @ values / weights.sum(1))
    half = 1.959964 * values.std(ddof=1) / 40**0.5
    assert low == pytest.approx(values.mean() - half) and high == pytest.approx(values.mean() + half)
    assert np.isnan(jackknife_interval(np.array([1.0, 2.0]))).all()
