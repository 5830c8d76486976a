"""The measures of group differences as ratios of sums over questions, for all replicates of the bootstrap at once.

A replicate is a weight for each question: how often its cluster was drawn. The sums under R replicates are then one
product (R x questions) (questions x columns), and every measure is arithmetic on sums. Row 0 has weight 1 everywhere:
the estimate itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from opinion_sae.score.gaps import TASKS, actual_gaps, cell_kl, identified, predicted_gaps, toplines_floor
from opinion_sae.score.metrics import cluster_draws
from opinion_sae.score.toplines import everyone, from_toplines, options_there
from opinion_sae.survey import Survey


class People(NamedTuple):
    """What the survey alone says of each cell, the same for every method."""

    gap: Float[np.ndarray, "group question"]  # places
    noise: Float[np.ndarray, "group question"]  # sampling variance of gap
    toplines: Float[np.ndarray, "group question"]  # KL of everybody's answers, nats
    floor: Float[np.ndarray, "group question"]  # KL of a perfect method from toplines, nats


class Replicates(NamedTuple):
    """Measures in every replicate; row 0 is the estimate, column 0 'all', then the groups. NaN where undefined."""

    kl: Float[np.ndarray, "replicate row"]
    group_kl_closed: Float[np.ndarray, "replicate row"]
    gap_r: Float[np.ndarray, "replicate row"]
    exaggeration: Float[np.ndarray, "replicate row"]
    reliability: Float[np.ndarray, "replicate row"]
    identified: Float[np.ndarray, "replicate row"]
    identified_chance: Float[np.ndarray, "replicate row"]
    room: Float[np.ndarray, "replicate row"]  # KL_toplines - floor, nats


@lru_cache(maxsize=4)  # a chapter asks for the same survey's again and again
def people(survey: Survey, seed: int = 0) -> People:
    """Gaps, their noise, the KL of the toplines and the floor."""
    return People(*actual_gaps(survey), cell_kl(survey, everyone(survey)), toplines_floor(survey, seed=seed))


def replicates_of(
    survey: Survey,
    known: People,
    tables: Sequence[Float[np.ndarray, "_ question option"]],
    task: str,
    weights: Float[np.ndarray, "replicate question"],
    of_seeds: Float[np.ndarray, "replicate seed"],
) -> Replicates:
    """A method's measures, `tables` being its held-out log p, one per seed; each measure is averaged over the seeds
    drawn. `group_kl_closed` is of the task from toplines: NaN alone, where a method does not start from them.

    ValueError for another task, a table of another shape, or an option that was chosen and has probability 0.
    """
    if task not in TASKS:
        raise ValueError(f"task {task!r}: it is one of {', '.join(TASKS)}")
    found = []
    for table in tables:
        _check(survey, table)
        log_probs = from_toplines(survey, table) if task == "toplines" else table
        columns = _mean_columns(survey, known, log_probs), *_gap_columns(survey, known, log_probs, task)
        found.append(_measures(weights, *columns))
    mean = Replicates(*(np.einsum("rs,srj->rj", of_seeds, np.stack(parts)) for parts in zip(*found, strict=True)))
    return mean if task == "toplines" else mean._replace(group_kl_closed=np.full_like(mean.kl, np.nan))


def _check(survey: Survey, log_probs: np.ndarray) -> None:
    """ValueError for a table of another shape, or one that calls impossible what people answered."""
    groups, questions, options = survey.counts.shape
    if log_probs.shape not in ((groups, questions, options), (1, questions, options)):
        raise ValueError(f"a table of log p has shape {log_probs.shape}; {survey.counts.shape} is needed, or one group")
    if (np.nan_to_num(log_probs, neginf=0.0) > 1e-3).any():
        raise ValueError("a table has values above 0; log p is needed")
    impossible = (np.isneginf(log_probs) & (survey.counts > 0)).any(0) & options_there(survey)
    if impossible.any():
        question, option = np.argwhere(impossible)[0]
        asked = survey.questions[question]
        raise ValueError(f"question {asked.key!r}: option {asked.options[option]!r} was chosen and has probability 0")


class PooledGaps:
    """gap_r and KL of all groups together, from toplines, in every replicate: as `replicates_of`, for many tables of
    one survey, and without the rest. NaN in a replicate that draws none of the questions that a table answers."""

    def __init__(self, survey: Survey, weights: Float[np.ndarray, "replicate question"]):
        self.survey, self.weights, self.gap = survey, weights, actual_gaps(survey)[0]

    def __call__(
        self, log_probs: Float[np.ndarray, "_ question option"]
    ) -> tuple[Float[np.ndarray, "replicate"], Float[np.ndarray, "replicate"]]:
        given = from_toplines(self.survey, log_probs)
        kl, m = _with_all(cell_kl(self.survey, given))[0], predicted_gaps(self.survey, given, "toplines")
        r = pooled_correlations(self.gap, m, self.weights)
        with np.errstate(invalid="ignore"):
            return r, self.weights @ np.nan_to_num(kl) / (self.weights @ ~np.isnan(kl))


def pooled_correlations(
    actual: Float[np.ndarray, "row question"],
    predicted: Float[np.ndarray, "row question"],
    weights: Float[np.ndarray, "replicate question"],
) -> Float[np.ndarray, "replicate"]:
    """S_am / sqrt(S_aa S_mm) with each S about every row's own mean over questions, then summed over the rows: gap_r of
    'all' (`_measures`). 0 if the predicted do not vary, NaN if the actual do not; a cell without either is left out."""
    there = ~np.isnan(predicted) & ~np.isnan(actual)
    a, m = (np.where(there, cells, 0.0) for cells in (actual, predicted))
    n, a, m, aa, mm, am = _sums(weights, np.stack([there.astype(float), a, m, a * a, m * m, a * m]))
    s_aa, s_mm, s_am = ((two - one / np.maximum(n, 1)).sum(1) for two, one in ((aa, a * a), (mm, m * m), (am, a * m)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(s_mm > 1e-12, s_am / np.sqrt(s_aa * s_mm), np.where(s_aa > 1e-12, 0.0, np.nan))


def _with_all(cells: Float[np.ndarray, "group question"]) -> Float[np.ndarray, "row question"]:
    """Row 0: the mean over the groups that have a value."""
    there = ~np.isnan(cells)
    mean = np.nan_to_num(cells).sum(0) / np.where(there.any(0), there.sum(0), np.nan)
    return np.concatenate([mean[None], cells])


def _mean_columns(
    survey: Survey, known: People, log_probs: Float[np.ndarray, "_ question option"]
) -> Float[np.ndarray, "7 row question"]:
    """What KL and identification are the means of: cells, kl, closed, room; cells, identified, chance. 0 where NaN."""
    kl = cell_kl(survey, log_probs)
    hit, chance = identified(survey, log_probs)
    missing = np.isnan(kl)
    top, floor = (np.where(missing, np.nan, cells) for cells in (known.toplines, known.floor))
    kl, closed, room, hit, chance = (_with_all(cells) for cells in (kl, top - kl, top - floor, hit, chance))
    columns = [~np.isnan(kl), kl, closed, room, ~np.isnan(hit), hit, chance]
    return np.nan_to_num(np.stack(columns).astype(float))


def _gap_columns(
    survey: Survey, known: People, log_probs: Float[np.ndarray, "_ question option"], task: str
) -> tuple[Float[np.ndarray, "4 group question"], Float[np.ndarray, "3 group question"]]:
    """What correlation and spread are made of: cells, a, a^2, v; and m, m^2, a m, with a people's gap, v its sampling
    variance and m the predicted gap. 0 where one of them is missing."""
    m = predicted_gaps(survey, log_probs, task)
    there = ~np.isnan(m) & ~np.isnan(known.gap)
    a, v, m = (np.where(there, cells, 0.0) for cells in (known.gap, known.noise, m))
    return np.stack([there.astype(float), a, a * a, v]), np.stack([m, m * m, a * m])


def _sums(
    weights: Float[np.ndarray, "replicate question"], columns: Float[np.ndarray, "column row question"]
) -> Float[np.ndarray, "column replicate row"]:
    flat = columns.reshape(-1, columns.shape[-1])
    return np.moveaxis((weights @ flat.T).reshape(len(weights), *columns.shape[:2]), 1, 0)


def _measures(
    weights: Float[np.ndarray, "replicate question"],
    means: Float[np.ndarray, "7 row question"],
    of_people: Float[np.ndarray, "4 group question"],
    of_method: Float[np.ndarray, "3 group question"],
) -> Replicates:
    """The measures, from sums over questions. About each group's own mean over its n questions,

        S_aa = sum a^2 - (sum a)^2 / n, S_mm and S_am likewise        N = (n - 1) mean v, what noise adds to S_aa
        gap_r = S_am / sqrt(S_aa S_mm)                                reliability = (S_aa - N) / S_aa
        exaggeration = sqrt(S_mm / (S_aa - N))                        'all': each S and N summed over the groups first

    gap_r is NaN where people's gaps do not vary, and 0 where the predicted ones do not: a method that says the same of
    all groups predicts none of their gaps. Reliability and exaggeration are NaN where people's gaps vary no more than
    their noise. Of means over questions, group_kl_closed = (KL_toplines - KL) / (KL_toplines - floor), NaN where the
    toplines are no further off than the floor; 'all' is first the mean over the groups of each question.
    """
    n, kl, closed, room, m_cells, hit, chance = _sums(weights, means)
    cells, a, aa, v = _sums(weights, of_people)
    m, mm, am = _sums(weights, of_method)
    some = np.maximum(cells, 1)
    s_mm = np.where(mm - m * m / some > 1e-12 * mm, mm - m * m / some, 0.0)  # else it is rounding
    s_aa = np.where(aa - a * a / some > 1e-12 * aa, aa - a * a / some, 0.0)
    noise = v * (some - 1) / some
    s_aa, s_mm, s_am, noise = (_pooled(part) for part in (s_aa, s_mm, am - a * m / some, noise))
    clean = np.where(s_aa > noise, s_aa - noise, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Replicates(
            kl=kl / n,
            group_kl_closed=np.where(room > 0, closed / room, np.nan),
            gap_r=np.where(s_mm > 0, s_am / np.sqrt(s_aa * s_mm), np.where(s_aa > 0, 0.0, np.nan)),
            exaggeration=np.sqrt(s_mm / clean),
            reliability=clean / s_aa,
            identified=hit / m_cells,
            identified_chance=chance / m_cells,
            room=room / n,
        )


def _pooled(sums: Float[np.ndarray, "replicate group"]) -> Float[np.ndarray, "replicate row"]:
    return np.concatenate([sums.sum(1, keepdims=True), sums], axis=1)


def question_weights(
    clusters: Int[np.ndarray, "question"], replicates: int, seed: int
) -> Float[np.ndarray, "replicate question"]:
    """Row 0 of ones, then how often each question's cluster was drawn, with replacement."""
    _, cluster = np.unique(clusters, return_inverse=True)
    draws = cluster_draws(int(cluster.max()) + 1, replicates, seed)
    return np.concatenate([np.ones((1, len(clusters))), draws[:, cluster]])


def seed_weights(seeds: int, replicates: int, seed: int) -> Float[np.ndarray, "replicate seed"]:
    """Row 0 equal, then how often each seed was drawn; a row adds up to 1. The same for methods with as many seeds."""
    rng = np.random.default_rng([seed, seeds])
    draws = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=replicates)
    return np.concatenate([np.ones((1, seeds)), draws]) / seeds


def enough_clusters(survey: Survey, clusters: Int[np.ndarray, "question"]) -> Bool[np.ndarray, "row"]:
    """Whether 'all', and each group, answered questions of two clusters or more; no interval can be had from fewer."""
    answered = survey.respondents > 0
    return np.array([len(np.unique(clusters[there])) > 1 for there in (answered.any(0), *answered)])


def interval(values: Float[np.ndarray, "replicate"], level: float = 0.95) -> tuple[float, float]:
    """Percentile interval; (NaN, NaN) if the measure is undefined in more replicates than the interval leaves out."""
    defined = values[~np.isnan(values)]
    if not len(values) or len(defined) < level * len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
