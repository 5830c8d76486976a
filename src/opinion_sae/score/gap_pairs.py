"""Two groups held against each other: how far apart they stand on each question, as people and as predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from opinion_sae.score.gap_replicates import interval, question_weights
from opinion_sae.score.gaps import TASKS, actual_gaps, predicted_gaps
from opinion_sae.score.gaps_table import with_toplines
from opinion_sae.score.toplines import from_toplines
from opinion_sae.survey import Survey

FIRST = ("Democrat", "Republican")
COLUMNS = "task method group other n_questions r r_low r_high".split()
Pair = tuple[str, str]
Tables = Mapping[str, Sequence[Float[np.ndarray, "_ question option"]]]


def pair_to_show(survey: Survey) -> Pair:
    """Democrat and Republican where there are such, else the two groups of one attribute whose places on the scale lie
    furthest apart (root mean square over questions). ValueError if no attribute has two groups with such questions."""
    if set(FIRST) <= set(survey.groups):
        return FIRST
    gaps, apart = actual_gaps(survey)[0], {}
    for i, one in enumerate(survey.groups):
        for j in range(i):
            squares = np.square(gaps[i] - gaps[j])
            if survey.attributes[i] == survey.attributes[j] and not np.isnan(squares).all():
                apart[survey.groups[j], one] = float(np.nanmean(squares))
    if not apart:
        raise ValueError(f"the survey {survey.name} has no two groups of one attribute that answered ordinal questions")
    return max(apart, key=lambda pair: apart[pair])


def pair_gaps(
    survey: Survey, log_probs: Float[np.ndarray, "_ question option"], pair: Pair, task: str = "toplines"
) -> tuple[Float[np.ndarray, "question"], Float[np.ndarray, "question"]]:
    """place(first) - place(second) of each question, of people and as a method's held-out log p has it; NaN where one
    of them is missing. ValueError for another task."""
    if task not in TASKS:
        raise ValueError(f"task {task!r}: it is one of {', '.join(TASKS)}")
    said = from_toplines(survey, log_probs) if task == "toplines" else log_probs
    one, other = (survey.groups.index(group) for group in pair)
    found = [gaps[one] - gaps[other] for gaps in (actual_gaps(survey)[0], predicted_gaps(survey, said, task))]
    missing = np.isnan(found[0]) | np.isnan(found[1])
    return np.where(missing, np.nan, found[0]), np.where(missing, np.nan, found[1])


def correlations(
    actual: Float[np.ndarray, "question"],
    predicted: Float[np.ndarray, "question"],
    weights: Float[np.ndarray, "replicate question"],
) -> Float[np.ndarray, "replicate"]:
    """Pearson's r under weights of the questions; 0 if the predicted gaps do not vary, NaN if people's do not."""
    there = ~np.isnan(actual)
    w, a, m = weights[:, there], actual[there], predicted[there]
    n = np.maximum(w.sum(1), 1)
    mean_a, mean_m = w @ a / n, w @ m / n
    s_aa, s_mm = w @ (a * a) / n - mean_a**2, w @ (m * m) / n - mean_m**2
    s_aa, s_mm = (np.where(s > 1e-12 * (s + mean**2), s, 0.0) for s, mean in ((s_aa, mean_a), (s_mm, mean_m)))
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (w @ (a * m) / n - mean_a * mean_m) / np.sqrt(s_aa * s_mm)
    return np.where(s_aa > 0, np.where(s_mm > 0, r, 0.0), np.nan)


def pairs_table(
    survey: Survey,
    tables: Tables,
    pair: Pair,
    clusters: Int[np.ndarray, "question"],
    replicates: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """A row per task and method: r over questions of predicted and actual differences in place between two groups, the
    mean over seeds, with a 95 % interval that draws clusters of questions (NaN for fewer than two clusters)."""
    weights, rows = question_weights(clusters, replicates, seed), []
    for task in TASKS:
        for method, seeds in with_toplines(survey, tables, task).items():
            found = [pair_gaps(survey, table, pair, task) for table in seeds]
            r = np.mean([correlations(*one, weights) for one in found], axis=0)
            there = ~np.isnan(found[0][0])
            low, high = interval(r[1:]) if len(np.unique(clusters[there])) > 1 else (np.nan, np.nan)
            rows.append((task, method, *pair, int(there.sum()), r[0], low, high))
    return pd.DataFrame(rows, columns=COLUMNS)
