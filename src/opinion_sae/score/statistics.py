"""What may be claimed: paired cluster bootstrap over questions and seeds, Holm's correction, margins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from opinion_sae.score.metrics import TAILS, by_group
from opinion_sae.survey import Survey

COLUMNS = "claim method reference group effect margin low high n_questions n_seeds p p_holm verdict".split()
VERDICTS = ("supported", "mixed", "not supported", "contradicted")


class Effect(NamedTuple):
    """A mean difference and how sure it is; NaN where there are too few questions."""

    effect: float
    low: float
    high: float
    p: float  # two-sided, of the difference being the margin
    n_questions: int
    n_seeds: int


@dataclass(frozen=True)
class Claim:
    """`method` has a KL lower than that of `reference` plus `margin` (nats): 0 for 'better', more for 'no worse'.

    `figure` is the name of the one that draws it, `command` what makes it.
    """

    sentence: str
    method: str
    reference: str
    margin: float = 0.0
    figure: str = "fig-alignment"
    command: str = "make book"


def paired_effect(
    differences: Float[np.ndarray, "seed question"],
    clusters: Int[np.ndarray, "question"],
    margin: float = 0.0,
    replicates: int = 2000,
    seed: int = 0,
) -> Effect:
    """Mean of paired differences with a percentile interval, drawing clusters of questions and seeds at once.

    p = (1 + #{|m* - m| >= |m - margin|}) / (1 + replicates): how often the mean m* of a replicate lies as far from the
    mean m as the margin does. Questions that are NaN are left out; those must be the same for every seed (ValueError).
    """
    missing = np.isnan(differences)
    if (missing != missing[0]).any():
        raise ValueError("a question has a value for some seeds and none for others")
    kept = differences[:, ~missing[0]]
    _, cluster = np.unique(clusters[~missing[0]], return_inverse=True)
    count = np.bincount(cluster)
    seeds, questions = kept.shape
    effect = float(kept.mean()) if questions else float("nan")
    if len(count) < 2 or not replicates:
        return Effect(effect, float("nan"), float("nan"), float("nan"), questions, seeds)
    rng = np.random.default_rng(seed)
    total = np.stack([np.bincount(cluster, weights=row) for row in kept])
    draws = rng.multinomial(len(count), np.full(len(count), 1 / len(count)), size=replicates)
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=replicates) / seeds
    means = np.einsum("rs,sc,rc->r", of_seeds, total, draws, optimize=True) / (draws @ count)
    low, high = np.quantile(means, TAILS)
    # a hair's breadth, so that a replicate that is the sample itself counts whatever the rounding
    far = np.abs(means - effect) >= abs(effect - margin) - 1e-12
    return Effect(effect, float(low), float(high), float((1 + far.sum()) / (1 + replicates)), questions, seeds)


def holm(p: Float[np.ndarray, "test"]) -> Float[np.ndarray, "test"]:
    """Holm's (1979) step-down correction for several tests; NaN stays NaN and counts as no test.

    The i-th smallest of m becomes max over j <= i of (m - j + 1) p_j, at most 1.
    """
    corrected = np.full(len(p), np.nan)
    there = np.flatnonzero(~np.isnan(p))
    order = there[np.argsort(p[there], kind="stable")]
    steps = np.arange(len(order), 0, -1) * p[order]
    corrected[order] = np.minimum(1, np.maximum.accumulate(steps)) if len(order) else steps
    return corrected


def claims_table(
    survey: Survey,
    cells: Mapping[str, Sequence[Float[np.ndarray, "group question"]]],
    claims: Sequence[Claim],
    clusters: Int[np.ndarray, "question"],
    replicates: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per claim for the mean over groups ('all') and one per group; only claims whose methods are in `cells`.

    `cells`: KL by method, one array per seed; a method without seeds (one array) is compared with each seed of the
    other. `p_holm` is corrected over claims in rows 'all', over groups in the others; `verdict` is that of `verdicts`.
    """
    rows = []
    for claim in claims:
        if claim.method not in cells or claim.reference not in cells:
            continue
        differences = _paired(cells, claim)
        by_seed = [by_group(survey, one) for one in differences]
        for group in by_seed[0]:
            values = np.stack([of_group[group] for of_group in by_seed])
            effect = paired_effect(values, clusters, claim.margin, replicates, seed)
            pair = {"claim": claim.sentence, "method": claim.method, "reference": claim.reference}
            rows.append({**pair, "group": group, "margin": claim.margin, **effect._asdict()})
    table = pd.DataFrame(rows, columns=[name for name in COLUMNS if name not in ("p_holm", "verdict")])
    overall = table["group"] == "all"
    table["p_holm"] = np.nan
    table.loc[overall, "p_holm"] = holm(table.loc[overall, "p"].to_numpy(float))
    for _, part in table[~overall].groupby(["method", "reference"], sort=False):
        table.loc[part.index, "p_holm"] = holm(part["p"].to_numpy(float))
    table["verdict"] = verdicts(table)
    return table[COLUMNS]


def _paired(
    cells: Mapping[str, Sequence[Float[np.ndarray, "group question"]]], claim: Claim
) -> Float[np.ndarray, "seed group question"]:
    ours, theirs = np.stack(cells[claim.method]), np.stack(cells[claim.reference])
    if 1 not in (len(ours), len(theirs)) and len(ours) != len(theirs):
        seeds = f"{claim.method} has {len(ours)} seeds and {claim.reference} {len(theirs)}"
        raise ValueError(f"{seeds}: give as many for both, or one for either")
    if np.isinf(ours).any() or np.isinf(theirs).any():
        raise ValueError(f"claim {claim.sentence!r}: a KL is infinite, so there is no mean difference")
    return ours - theirs


def verdicts(table: pd.DataFrame) -> list[str]:
    """One of `VERDICTS` for each row of a claims table.

    A row is supported if its interval lies below the margin and p_holm < 0.05, contradicted if it lies above it just
    as surely, else not supported. For the mean over groups ('all') one thing differs: it is mixed if it is supported
    but contradicted in some group, or if it is neither but supported in some group. So a mean that is contradicted
    stays so, whatever single groups say: the claim is one on the mean.
    """
    sure = table["p_holm"] < 0.05
    below, above = sure & (table["high"] < table["margin"]), sure & (table["low"] > table["margin"])
    overall, pair = table["group"] == "all", [table["method"], table["reference"]]
    some_below = (below & ~overall).groupby(pair).transform("any")
    some_above = (above & ~overall).groupby(pair).transform("any")
    mixed = overall & ((below & some_above) | (~below & ~above & some_below))
    return np.select([mixed, below, above], ["mixed", "supported", "contradicted"], "not supported").tolist()
