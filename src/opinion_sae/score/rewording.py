"""The same question in other words: whether a method sees the same gaps in both wordings, and whether people show them.

Pairs are ordinal questions of one survey and one cluster (`Question.cluster`: the same thing or nearly so), with the
same options. In the General Social Survey eleven of fourteen are the two wordings on public spending, each put to half
the people; two are a question that another part of it asks again; one asks of abortion and of childbirth. Its people's
gaps in the two have noise of their own; predicted gaps have none.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from jaxtyping import Float, Int

from opinion_sae.score.gap_pairs import correlations, pair_to_show
from opinion_sae.score.gaps import actual_gaps, predicted_gaps
from opinion_sae.score.toplines import from_toplines
from opinion_sae.survey import Survey

LEVELS = ("reworded_r", "reworded_r_lowest_group", "reworded_r_pair")
Gaps = Float[np.ndarray, "group question"]


def reworded(survey: Survey) -> Int[np.ndarray, "pair 2"]:
    """The two questions of each pair."""
    questions = survey.questions
    found = [
        (one, other)
        for one, other in combinations(range(len(questions)), 2)
        if questions[one].cluster
        and questions[one].ordinal
        and (questions[one].survey, questions[one].cluster, questions[one].options)
        == (questions[other].survey, questions[other].cluster, questions[other].options)
    ]
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def levels(survey: Survey, one: Gaps, other: Gaps) -> tuple[float, float, float]:
    """r between two tables of gaps: over all cells, of the group in which it is lowest, and of the difference between
    the two groups of `pair_to_show`. NaN where there are fewer than three cells, or none that vary."""
    each = [_r(a, b) for a, b in zip(one, other, strict=True)]
    lowest = float(np.nanmin(each)) if not np.isnan(each).all() else float("nan")
    first, second = (survey.groups.index(group) for group in pair_to_show(survey))
    return _r(one, other), lowest, _r(one[first] - one[second], other[first] - other[second])


def consistency(survey: Survey, log_probs: Float[np.ndarray, "_ question option"]) -> dict[str, float]:
    """`levels` of the gaps that a method predicts from toplines, one wording against the other, each pair both ways
    round so that it does not matter which comes first; empty for a survey without pairs."""
    if not len(reworded(survey)):
        return {}
    gaps = predicted_gaps(survey, from_toplines(survey, log_probs), "toplines")
    return dict(zip(LEVELS, levels(survey, *_both_ways(survey, gaps)), strict=True))


def peoples_consistency(survey: Survey) -> dict[str, float]:
    """The same of people's own gaps, the number of pairs, and `corrected`: r over all cells with the sampling noise
    taken out of both spreads, as far as 1. Empty for a survey without pairs."""
    pairs = reworded(survey)
    if not len(pairs):
        return {}
    gaps, noise = actual_gaps(survey)
    one, other = _both_ways(survey, gaps)
    found = dict(zip(LEVELS, levels(survey, one, other), strict=True))
    spread, of_noise = float(np.nanvar(one)), float(np.nanmean(_both_ways(survey, noise)[0]))
    share = max(0.0, 1 - of_noise / spread) if spread > 0 else 0.0
    corrected = float(np.clip(found["reworded_r"] / share, -1, 1)) if share > 0 else float("nan")
    whole = {"pairs": float(len(pairs)), **found, "corrected": corrected}
    return {name: value for name, value in whole.items() if not np.isnan(value)}  # JSON has no NaN


def _both_ways(survey: Survey, cells: Gaps) -> tuple[Gaps, Gaps]:
    pairs = reworded(survey)
    there, back = (np.concatenate([pairs[:, i], pairs[:, 1 - i]]) for i in (0, 1))
    return cells[:, there], cells[:, back]


def _r(one: np.ndarray, other: np.ndarray) -> float:
    there = ~np.isnan(one) & ~np.isnan(other)
    if there.sum() < 3:
        return float("nan")
    return float(correlations(one[there], other[there], np.ones((1, int(there.sum()))))[0])
