"""Means over seeds of SAEs, with 95 % intervals."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from opinion_sae.score.gap_replicates import interval, seed_weights
from opinion_sae.score.metrics import as_cells

SEEDS = 3
T = {1: 12.706205, 2: 4.302653, 3: 3.182446, 4: 2.776445}  # 97.5 % of Student's t, by degrees of freedom


def student(values: Float[np.ndarray, "seed"]) -> tuple[float, float]:
    """95 % interval of a mean by Student's t; NaN for one value."""
    if len(values) - 1 not in T:
        return float("nan"), float("nan")
    half = T[len(values) - 1] * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def over_seeds(name: str, values: Float[np.ndarray, "seed"]) -> dict[str, float]:
    """The mean, and its interval by `student`."""
    return as_cells(name, values.mean(), *student(values))


def over_questions(name: str, values: Float[np.ndarray, "seed replicate"], seed: int) -> dict[str, float]:
    """The mean, and its percentile interval over questions and seeds.

    values: column 0 of all questions, then of each bootstrap replicate, which draws the same questions for every seed;
    it draws the seeds too, with replacement.
    """
    drawn = (seed_weights(len(values), values.shape[1] - 1, seed) * values.T).sum(1)
    return as_cells(name, drawn[0], *interval(drawn[1:]))
