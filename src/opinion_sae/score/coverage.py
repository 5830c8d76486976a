"""How far predicted shares are off on new questions: conformal intervals, and whether they hold what they promise."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from opinion_sae.score.metrics import bootstrap_mean
from opinion_sae.score.toplines import options_there
from opinion_sae.survey import Survey

LEVELS = (0.5, 0.8, 0.9, 0.95)
LEAST_SHARE = 0.05  # nearer to 0 or 1 than this, an interval gets no narrower
COLUMNS = ("task", "group", "nominal", "coverage", "n_questions", "low", "high", "factor")


def scale(share: Float[np.ndarray, "*cell"]) -> Float[np.ndarray, "*cell"]:
    """sqrt(p (1 - p)), with p kept from LEAST_SHARE to 1 - LEAST_SHARE: how an error grows with a predicted share.

    Errors are small where a share is near 0 or 1, as a proportion's standard deviation is. But a model that says 1 % is
    wrong by more than that formula allows, hence the floor.
    """
    kept = np.clip(share, LEAST_SHARE, 1 - LEAST_SHARE)
    return np.sqrt(kept * (1 - kept))


def errors(
    survey: Survey, log_probs: Float[np.ndarray, "_ question option"]
) -> Float[np.ndarray, "group question option"]:
    """|people's share - predicted share| / scale(predicted share) of every cell; NaN where there is none.

    A prediction may be one for all groups. Cells without respondents, without a prediction (NaN), and options that a
    question does not have are left out.
    """
    predicted = np.exp(log_probs.astype(float))
    there = options_there(survey) & (survey.respondents > 0)[..., None]
    return np.where(there, np.abs(survey.shares - predicted) / scale(predicted), np.nan)


def widening(
    errors: Float[np.ndarray, "group question option"], clusters: Int[np.ndarray, "question"], nominal: float
) -> float:
    """The factor t by which `scale` is widened: an interval p ± t scale(p) holds `nominal` of a new question's shares.

    t is the smallest number with

        1 / (n + 1)  sum over the n clusters of (fraction of the cluster's errors that are at most t)  >=  nominal

    Errors within a question belong together, so clusters of questions are what is drawn: if the new question's cluster
    is exchangeable with these n, a share picked at random from it lies in its interval with probability at least
    `nominal`, whatever the distribution (Lee, Barber and Willett 2023, Distribution-free inference with hierarchical
    data). The one added to n stands for the new cluster, which could be the worst of all. Infinite if n is too small
    for that. ValueError unless 0 < nominal < 1.
    """
    if not 0 < nominal < 1:
        raise ValueError(f"nominal coverage is {nominal}; it must lie between 0 and 1")
    group, question, option = np.nonzero(~np.isnan(errors))
    _, cluster = np.unique(clusters[question], return_inverse=True)
    size = np.bincount(cluster)
    weight = 1 / size[cluster] / (len(size) + 1)
    value = errors[group, question, option]
    order = np.argsort(value, kind="stable")
    enough = np.cumsum(weight[order]) >= nominal - 1e-12
    return float(value[order][np.argmax(enough)]) if enough.any() else float("inf")


def interval(
    share: Float[np.ndarray, "*cell"], factor: float | Float[np.ndarray, "*#cell"]
) -> tuple[Float[np.ndarray, "*cell"], Float[np.ndarray, "*cell"]]:
    """p ± factor scale(p), cut at 0 and 1; from 0 to 1 if the factor is infinite."""
    half = np.minimum(factor * scale(share), 1.0)
    return np.maximum(share - half, 0.0), np.minimum(share + half, 1.0)


def coverage_table(
    survey: Survey,
    tables: Mapping[str, Float[np.ndarray, "_ question option"]],
    clusters: Int[np.ndarray, "question"],
    folds: Int[np.ndarray, "question"],
    replicates: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Of each task's held-out predictions (log p): the factor of `widening`, and what it covers on questions left out.

    A row per task, group and nominal coverage. A group has a factor of its own, since some groups differ more from
    everybody, and small ones are sampled with more noise: with one for all, women would be covered nearly always and
    Republicans too rarely. `factor` comes from all questions and is what a prediction uses. `coverage` is measured: the
    factor of all other folds is put to the questions of one fold, and the fraction of shares within their interval is
    averaged over a cluster's cells, then over clusters; `low` and `high` are its 95 % interval when clusters are drawn
    anew. Group 'all' pools the cells of all groups, each in the interval of its own factor; it has no factor (NaN).

    Held out are the questions, in both the offset's fit and the factor. Questions are taken to be like the survey's:
    the same topics in the same proportions, put the same way to the same groups in the same years. Because errors are
    measured against people's answers, the noise of the survey's sampling is in the interval: it is for what another
    such survey would find, and too wide rather than too narrow for the population. It is an average over options and
    questions, not a promise for each: questions with two options are covered less often than those with many.

    ValueError for fewer than two folds, or a cluster that is in two.
    """
    if len(set(folds.tolist())) < 2:
        raise ValueError("coverage is measured on questions left out, so at least two folds are needed")
    if len({pair for pair in zip(clusters.tolist(), folds.tolist(), strict=True)}) > len(set(clusters.tolist())):
        raise ValueError("a cluster of near-duplicate questions is in two folds")
    rows = []
    for task, log_probs in tables.items():
        found = errors(survey, log_probs)
        for nominal in LEVELS:
            within = _within(found, clusters, folds, nominal)
            for g, group in enumerate(("all", *survey.groups)):
                part = within if group == "all" else within[g - 1 : g]
                factor = np.nan if group == "all" else widening(found[g - 1 : g], clusters, nominal)
                row = _measured(part, clusters, replicates, seed)
                rows.append({"task": task, "group": group, "nominal": nominal, **row, "factor": factor})
    return pd.DataFrame(rows, columns=COLUMNS)


def _within(
    errors: Float[np.ndarray, "group question option"],
    clusters: Int[np.ndarray, "question"],
    folds: Int[np.ndarray, "question"],
    nominal: float,
) -> Float[np.ndarray, "group question option"]:
    """1 where an error is within its group's factor of the other folds, 0 where not, NaN where there is none."""
    within = np.full(errors.shape, np.nan)
    for fold in np.unique(folds):
        test = folds == fold
        for group in range(len(errors)):
            factor = widening(errors[group : group + 1, ~test], clusters[~test], nominal)
            within[group, test] = errors[group, test] <= factor
    return np.where(np.isnan(errors), np.nan, within)


def _measured(
    within: Float[np.ndarray, "group question option"],
    clusters: Int[np.ndarray, "question"],
    replicates: int,
    seed: int,
) -> dict[str, float]:
    """Coverage with its interval, and how many questions it was measured on."""
    there = ~np.isnan(within)
    _, cluster = np.unique(clusters, return_inverse=True)
    cells = np.bincount(cluster, weights=there.sum((0, 2)))
    held = np.bincount(cluster, weights=np.nansum(within, (0, 2)))[cells > 0] / cells[cells > 0]
    low, high = bootstrap_mean(held, np.arange(len(held)), replicates, seed)
    return {"coverage": float(held.mean()), "n_questions": int(there.any((0, 2)).sum()), "low": low, "high": high}
