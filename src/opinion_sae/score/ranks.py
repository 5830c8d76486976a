"""Whether two things put latents in the same order: rank correlation, overlap of the largest, and a jackknife."""

from __future__ import annotations

from math import comb

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

Z = 1.959964  # 97.5 % of a normal distribution


def rank_correlation(
    sizes: Float[np.ndarray, "replicate latent"], fit: Float[np.ndarray, "latent"]
) -> Float[np.ndarray, "replicate"]:
    """Spearman's: Pearson's r of the ranks, those that are equal sharing theirs; NaN where all are."""
    one, other = pd.DataFrame(sizes).rank(axis=1).to_numpy(), pd.Series(fit).rank().to_numpy()
    one, other = one - one.mean(1, keepdims=True), other - other.mean()
    below = np.sqrt((one**2).sum(1) * (other**2).sum())
    return np.divide(one @ other, below, out=np.full(len(one), np.nan), where=below > 0)


def top_overlap(
    sizes: Float[np.ndarray, "replicate latent"], fit: Float[np.ndarray, "latent"], count: int
) -> Float[np.ndarray, "replicate"]:
    """The share of the fit's `count` largest that are among the `count` largest of each replicate; by chance it is
    count / latents."""
    own = np.argsort(-fit, kind="stable")[:count]
    theirs = np.argsort(-sizes, axis=1, kind="stable")[:, :count]
    return np.isin(theirs, own).mean(1)


def chance_overlap(latents: int, count: int, level: float = 0.975) -> tuple[float, float]:
    """What two random choices of `count` latents of all share: the mean, and the least share that as many as `level` of
    all choices do not exceed (hypergeometric). NaN for none."""
    if not count:
        return float("nan"), float("nan")
    total, below = comb(latents, count), 0
    for same in range(count + 1):
        below += comb(count, same) * comb(latents - count, count - same)
        if below >= level * total:
            return count / latents, same / count
    return count / latents, 1.0


def jackknife_weights(
    clusters: Int[np.ndarray, "question"], blocks: int = 20, seed: int = 0
) -> Float[np.ndarray, "replicate question"]:
    """Row 0 of ones, then each of `blocks` blocks of clusters left out once: 0 in its row. Fewer blocks where there are
    fewer clusters. A bootstrap would draw noise into sizes, which are never below 0, and so bias their order."""
    names, cluster = np.unique(clusters, return_inverse=True)
    blocks = min(blocks, len(names))
    block = np.random.default_rng(seed).permutation(len(names)) % blocks
    return np.concatenate([np.ones((1, len(clusters))), (block[cluster] != np.arange(blocks)[:, None]).astype(float)])


def jackknife_interval(values: Float[np.ndarray, "replicate"]) -> tuple[float, float]:
    """95 % around the first value: +- 1.96 sqrt((B - 1) / B sum_b (value_b - mean)^2) over the B others (Shao and Wu
    1989, blocks); NaN for fewer than two."""
    left_out = values[1:]
    if len(left_out) < 2:
        return float("nan"), float("nan")
    spread = Z * np.sqrt((len(left_out) - 1) / len(left_out) * np.square(left_out - left_out.mean()).sum())
    return float(values[0] - spread), float(values[0] + spread)
