"""Where the group that a persona prompt names enters the stream, and what of it goes the group's true way.

Of each attribute a two groups g and h are named, all else in the prompts being equal. At one place and layer, x_agq is
the stream at question q; d_aq = x_agq - x_ahq and m_aq = (x_agq + x_ahq) / 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from opinion_sae.delta.held_out import Split
from opinion_sae.methods.personas import spread
from opinion_sae.score.gaps import actual_gaps
from opinion_sae.survey import Survey
from opinion_sae.survey.naming import naming

RIDGES = tuple(10.0 ** np.arange(-1.5, 2.6, 0.5))  # of `pair_read_out`, in units of the mean |d|^2
Pairs = dict[str, tuple[int, int]]


def far_pairs(survey: Survey) -> Pairs:
    """By attribute its two groups that lie furthest apart: with the largest mean over questions of (a_g - a_h)^2 less
    the sampling variances of both gaps a, lest two small groups be taken for their noise. ValueError without any."""
    (gaps, noise), found = actual_gaps(survey), {}
    for attribute in dict.fromkeys(survey.attributes):
        members = [group for group, of in enumerate(survey.attributes) if of == attribute]
        apart = {}
        for g in members:
            for h in (h for h in members if h > g):
                squares = np.square(gaps[g] - gaps[h]) - noise[g] - noise[h]
                if not np.isnan(squares).all():
                    apart[g, h] = float(np.nanmean(squares))
        if apart:
            found[attribute] = max(apart, key=lambda pair: apart[pair])
    if not found:
        raise ValueError(f"the survey {survey.name} has no two groups of one attribute that answered ordinal questions")
    return found


def pair_gaps_of(survey: Survey, pairs: Pairs) -> Float[np.ndarray, "attribute question"]:
    """place(g) - place(h) of people's answers (`score.gaps`); NaN where there is none."""
    gaps, _ = actual_gaps(survey)
    return np.stack([gaps[g] - gaps[h] for g, h in pairs.values()])


def asked_of(survey: Survey, splits: Sequence[Split], pairs: Pairs, count: int) -> Int[np.ndarray, "asked"]:
    """`count` of each split's test questions, spread evenly: those that name no group and that some pair answered."""
    good = ~naming(survey) & ~np.isnan(pair_gaps_of(survey, pairs)).all(0)
    return np.sort(np.concatenate([spread(split.test[good[split.test]], count) for split in splits]))


def named_shares(
    apart: Float[np.ndarray, "attribute asked d"],
    gram: Float[np.ndarray, "asked asked"],
    weights: Float[np.ndarray, "replicate asked"],
) -> tuple[Float[np.ndarray, "replicate"], Float[np.ndarray, "replicate"]]:
    r"""Of the stream's variance over persona and question the share that is the persona's, in every replicate:

        N = sum_aq |d_aq|^2 / 4        Q = sum_aq |m_aq - mean_q m_aq|^2        share = N / (N + Q)

    Second, the part of it that is the same for every question: sum_aq |mean_q d_aq|^2 / 4 in place of N above. `gram`
    is sum_a m_aq . m_aq'; neither depends on the origin of m. NaN where nothing varies.
    """
    kernel, n = np.einsum("aqd,ard->qr", apart, apart) / 4, weights.sum(1)
    named = weights @ kernel.diagonal()
    same = ((weights @ kernel) * weights).sum(1) / n
    asked = weights @ gram.diagonal() - ((weights @ gram) * weights).sum(1) / n
    whole = np.where(named + asked > 0, named + asked, np.nan)
    return named / whole, same / whole


def pair_read_out(
    apart: Float[np.ndarray, "attribute asked d"],
    actual: Float[np.ndarray, "attribute asked"],
    splits: Sequence[tuple[Bool[np.ndarray, "asked"], Bool[np.ndarray, "asked"], Bool[np.ndarray, "asked"]]],
) -> Float[np.ndarray, "attribute asked"]:
    r"""How far apart the two groups answer held-out questions, read from the difference in the stream:

        place_g(q) - place_h(q) = level_a + v . (d_aq - mean_q d_aq)

    One direction v for all attributes and questions, by ridge: it cannot know a group by its name, so whatever it
    predicts of a question the layers below have made of persona and question together. Fitted to the training
    questions of each split (train, validation, test), the ridge of `RIDGES` with the least squares on validation, and
    then to both. Given is the product with v alone: the level of the questions fitted to is low where that of the rest
    is high, which by itself would be a negative correlation. NaN for questions that no split tests.
    """
    predicted = np.full(actual.shape, np.nan)
    for train, validation, test in splits:
        judged = (actual - _level(actual, train))[:, validation]
        errors = [
            float(np.nansum(np.square(of_ridge[:, validation] - judged)))
            for of_ridge in _ridge(apart, actual, train, RIDGES)
        ]
        (best,) = _ridge(apart, actual, train | validation, [RIDGES[int(np.argmin(errors))]])
        predicted[:, test] = best[:, test]
    return predicted


def _ridge(
    apart: Float[np.ndarray, "attribute asked d"],
    actual: Float[np.ndarray, "attribute asked"],
    train: Bool[np.ndarray, "asked"],
    ridges: Sequence[float],
) -> list[Float[np.ndarray, "attribute asked"]]:
    """Predictions for all cells, for each ridge, by the kernel of the training cells that have an answer."""
    seen = train & ~np.isnan(actual)
    x = (apart - apart[:, train].mean(1, keepdims=True)).astype(float)
    x /= np.sqrt(np.square(x[seen]).sum(1).mean()) or 1.0
    values, vectors = np.linalg.eigh(x[seen] @ x[seen].T)
    along = vectors.T @ (actual - _level(actual, train))[seen]
    through = x @ (x[seen].T @ vectors)
    return [through @ (along / (values.clip(0) + ridge)) for ridge in ridges]


def _level(
    actual: Float[np.ndarray, "attribute asked"], train: Bool[np.ndarray, "asked"]
) -> Float[np.ndarray, "attribute 1"]:
    """The mean over the training questions that have an answer."""
    seen = train & ~np.isnan(actual)
    return (np.where(seen, actual, 0.0).sum(1) / np.maximum(seen.sum(1), 1))[:, None]
