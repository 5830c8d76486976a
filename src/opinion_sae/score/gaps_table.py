"""The tables of group differences: `gaps.csv`, and the same by fold and by seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from opinion_sae.score.gap_replicates import (
    Replicates,
    enough_clusters,
    interval,
    people,
    question_weights,
    replicates_of,
    seed_weights,
)
from opinion_sae.score.gaps import TASKS
from opinion_sae.score.metrics import as_cells
from opinion_sae.score.toplines import everyone
from opinion_sae.survey import Survey

WITH_INTERVAL = ("kl", "group_kl_closed", "gap_r", "exaggeration")
COLUMNS = """task method group split n_questions n_seeds kl kl_low kl_high group_kl_closed group_kl_closed_low
    group_kl_closed_high gap_r gap_r_low gap_r_high gap_r_corrected exaggeration exaggeration_low exaggeration_high
    identified identified_chance""".split()
Tables = Mapping[str, Sequence[Float[np.ndarray, "_ question option"]]]


def with_toplines(survey: Survey, tables: Tables, task: str) -> Tables:
    """From toplines these are a method too, the first: 'toplines' answers as everybody did. ValueError for a method
    without a table."""
    for name, seeds in tables.items():
        if not len(seeds):
            raise ValueError(f"method {name!r} has no table; give one per seed")
    return {"toplines": [everyone(survey)], **tables} if task == "toplines" else tables


def gaps_table(
    survey: Survey,
    tables: Tables,
    clusters: Int[np.ndarray, "question"],
    replicates: int = 2000,
    seed: int = 0,
    splits: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """One row per task, method and group ('all' first), with the columns of `gaps.csv`.

    `tables`: held-out log p by method, one table per seed, of each group or of one that stands for all. `splits` names
    the split by the end of a method's name, {'-by-topic': 'topic'}; others are 'question'. The measures are those of
    `gap_replicates`; 95 % intervals draw `clusters` of questions and, where there are several, seeds. No interval
    (NaN) for fewer than two clusters, a measure often undefined, or a share closed of room that may be none.
    """
    known, weights = people(survey, seed), question_weights(clusters, replicates, seed)
    enough, rows = enough_clusters(survey, clusters), []
    for task in TASKS:
        for method, seeds in with_toplines(survey, tables, task).items():
            of_seeds = seed_weights(len(seeds), replicates, seed)
            found = replicates_of(survey, known, seeds, task, weights, of_seeds)
            split = next((name for end, name in (splits or {}).items() if method.endswith(end)), "question")
            about = {"task": task, "method": method, "split": split, "n_seeds": len(seeds)}
            counts = count_questions(survey, seeds)
            rows += [{**about, **row} for row in _rows(survey, found, counts, enough)]
    return pd.DataFrame(rows, columns=COLUMNS)


def count_questions(survey: Survey, seeds: Sequence[Float[np.ndarray, "_ question option"]]) -> Int[np.ndarray, "row"]:
    """Questions with a KL for 'all' and each group. ValueError if they are not the same for every seed."""
    said = [~np.isnan(table).any(-1) & (survey.respondents > 0) for table in seeds]
    if any((one != said[0]).any() for one in said):
        raise ValueError("a question has an answer under some seeds and none under others")
    return np.array([said[0].any(0).sum(), *said[0].sum(1)])


def _rows(
    survey: Survey, found: Replicates, counts: Int[np.ndarray, "row"], enough: Bool[np.ndarray, "row"]
) -> Iterator[dict[str, object]]:
    for row, group in enumerate(["all", *survey.groups]):
        of = Replicates(*(values[:, row] for values in found))
        cells: dict[str, object] = {"group": group, "n_questions": int(counts[row])}
        for name in WITH_INTERVAL:
            values = getattr(of, name)
            low, high = interval(values[1:]) if enough[row] else (np.nan, np.nan)
            if name == "group_kl_closed" and not interval(of.room[1:])[0] > 0:
                low, high = np.nan, np.nan
            cells |= as_cells(name, values[0], low, high)
        cells["gap_r_corrected"] = of.gap_r[0] / np.sqrt(of.reliability[0])
        yield cells | {name: getattr(of, name)[0] for name in ("identified", "identified_chance")}


def gaps_by_fold(survey: Survey, tables: Tables, folds: Int[np.ndarray, "question"], seed: int = 0) -> pd.DataFrame:
    """Where a mean could hide something: 'all' of each method by fold (mean over seeds) and by seed (all questions).

    Columns `task, method, part ('fold' or 'seed'), number, kl, group_kl_closed, gap_r`. A seed's number is its place
    in the list. Correlations of a fold are about the fold's own means.
    """
    known = people(survey, seed)
    names, rows = np.unique(folds), []
    of_fold = (folds == names[:, None]).astype(float)
    for task in TASKS:
        for method, seeds in with_toplines(survey, tables, task).items():
            parts = {"fold": (names, of_fold, np.full((len(names), len(seeds)), 1 / len(seeds)))}
            if len(seeds) > 1:
                all_questions = np.ones((len(seeds), len(folds)))
                parts["seed"] = np.arange(len(seeds)), all_questions, np.eye(len(seeds))
            for part, (numbers, weights, of_seeds) in parts.items():
                found = replicates_of(survey, known, seeds, task, weights, of_seeds)
                columns = (found.kl[:, 0], found.group_kl_closed[:, 0], found.gap_r[:, 0])
                rows += [(task, method, part, int(n), *values) for n, *values in zip(numbers, *columns, strict=True)]
    return pd.DataFrame(rows, columns="task method part number kl group_kl_closed gap_r".split())
