"""Two methods compared on the measures of group differences: paired over questions and seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from opinion_sae.score.gap_replicates import (
    enough_clusters,
    interval,
    people,
    question_weights,
    replicates_of,
    seed_weights,
)
from opinion_sae.score.gaps_table import count_questions
from opinion_sae.score.statistics import Effect
from opinion_sae.survey import Survey

MEASURES = {"alone": ("gap_r", "kl"), "toplines": ("gap_r", "group_kl_closed", "kl")}


def gap_effects(
    survey: Survey,
    method: Sequence[Float[np.ndarray, "_ question option"]],
    reference: Sequence[Float[np.ndarray, "_ question option"]],
    clusters: Int[np.ndarray, "question"],
    task: str = "toplines",
    margin: float = 0.0,
    replicates: int = 2000,
    seed: int = 0,
) -> dict[str, dict[str, Effect]]:
    """`method` minus `reference`: an `Effect` by measure ('gap_r', 'kl', and 'group_kl_closed' from toplines) and group
    ('all' first).

    Both are held-out log p, one table per seed. Clusters and seeds are drawn alike for both, as in
    `statistics.paired_effect`, and p is as there: how often a replicate's difference lies as far from the difference
    itself as `margin` does. A method of one seed is compared with each seed of the other (ValueError for 2 against 3).
    """
    if 1 not in (len(method), len(reference)) and len(method) != len(reference):
        raise ValueError(f"{len(method)} seeds and {len(reference)}: give as many for both, or one for either")
    known, weights = people(survey, seed), question_weights(clusters, replicates, seed)
    ours, theirs = (
        replicates_of(survey, known, seeds, task, weights, seed_weights(len(seeds), replicates, seed))
        for seeds in (method, reference)
    )
    counts = count_questions(survey, [*method, *reference])
    enough, n_seeds = enough_clusters(survey, clusters), max(len(method), len(reference))
    effects: dict[str, dict[str, Effect]] = {}
    for name in MEASURES[task]:
        differences = getattr(ours, name) - getattr(theirs, name)
        effects[name] = {
            group: _effect(values if several else values[:1], margin, int(count), n_seeds)
            for group, values, several, count in zip(
                ["all", *survey.groups], differences.T, enough, counts, strict=True
            )
        }
    return effects


def _effect(values: Float[np.ndarray, "replicate"], margin: float, questions: int, seeds: int) -> Effect:
    """From the difference itself, first, and those of the replicates."""
    low, high = interval(values[1:])
    if np.isnan(low):
        return Effect(float(values[0]), low, high, float("nan"), questions, seeds)
    # an undefined replicate counts as far; a hair's breadth, so that rounding does not matter
    far = ~(np.abs(values[1:] - values[0]) < abs(values[0] - margin) - 1e-12)
    return Effect(float(values[0]), low, high, float((1 + far.sum()) / len(values)), questions, seeds)


def shares_kept(
    survey: Survey,
    method: Sequence[Float[np.ndarray, "_ question option"]],
    reference: Sequence[Float[np.ndarray, "_ question option"]],
    clusters: Int[np.ndarray, "question"],
    margin: float,
    replicates: int = 2000,
    seed: int = 0,
) -> dict[str, Effect]:
    """Task from toplines, all groups: gap_r, and group_kl_closed, of `method` as a share of `reference`'s.

    As `gap_effects`, with ratios in place of differences and p of the ratio being the `margin`. A ratio is undefined
    where the reference's is not above 0; no interval (NaN) where that is so in more replicates than it leaves out.
    """
    known, weights = people(survey, seed), question_weights(clusters, replicates, seed)
    ours, theirs = (
        replicates_of(survey, known, seeds, "toplines", weights, seed_weights(len(seeds), replicates, seed))
        for seeds in (method, reference)
    )
    counts = count_questions(survey, [*method, *reference])
    found = {}
    for name in ("gap_r", "group_kl_closed"):
        above, below = getattr(ours, name)[:, 0], getattr(theirs, name)[:, 0]
        ratio = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
        found[name] = _effect(ratio, margin, int(counts[0]), max(len(method), len(reference)))
    return found
