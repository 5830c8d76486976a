"""What the latents of an SAE tell: a label from k of them, and the first letter of a word, absorbed or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from opinion_sae.sae.autoencoder import SparseAutoencoder

FEWEST = 8  # members of a class, for it to be probed
NEAR, SHARE = 0.025, 0.4  # of `absorption`


def auc(scores: Float[Tensor, "n"], positive: Bool[Tensor, "n"]) -> float:
    """The chance that a member is scored above another, ties by half; NaN without both."""
    own, others = scores[positive], scores[~positive]
    if not len(own) or not len(others):
        return float("nan")
    higher = (own[:, None] > others).float().mean() + 0.5 * (own[:, None] == others).float().mean()
    return higher.item()


def probe(
    features: Float[Tensor, "n m"],
    labels: Sequence[object],
    folds: Int[np.ndarray, "n"],
    counts: Sequence[int] = (1, 5, 16),
    ridge: float = 1.0,
) -> list[float]:
    """k-sparse probing (Gurnee et al. 2023) for each k of `counts`: the mean AUC over classes and folds.

    Each class of `FEWEST` members or more against the rest, on the fold left out: of the others' features the k whose
    means differ most, in standard deviations, then least squares on these (a `ridge` on each), in place of logistic
    regression, and the area under the curve in place of accuracy, as classes are of unequal size. NaN without a class.
    """
    names, found = np.array([str(label) for label in labels]), []
    fold = torch.from_numpy(folds)
    for name in sorted(set(names.tolist())):
        own = torch.from_numpy(names == name)
        if not FEWEST <= int(own.sum()) <= len(names) - FEWEST:
            continue
        for number in sorted(set(folds.tolist())):
            train, test = fold != number, fold == number
            mean, spread = features[train].mean(0), features[train].std(0).clamp_min(1e-6)
            x, y = (features - mean) / spread, own.float()
            apart = (x[train & own].mean(0) - x[train & ~own].mean(0)).abs()
            best = torch.where(features[train].std(0) > 0, apart, -1.0).argsort(descending=True, stable=True)
            row = []
            for count in counts:
                some, wish = x[train][:, best[:count]], y[train] - y[train].mean()
                weights = torch.linalg.solve(some.T @ some + ridge * torch.eye(some.shape[1]), some.T @ wish)
                row.append(auc(x[test][:, best[:count]] @ weights, own[test]))
            found.append(row)
    told = [row for row in found if not np.isnan(row).any()]  # a fold may lack a class
    return np.mean(told, axis=0).tolist() if told else [float("nan")] * len(counts)


class Letters(NamedTuple):
    """How an SAE tells the first letters of words."""

    accuracy: float  # of a linear probe of the stream on words left out: the same for every SAE
    f1: float  # of the latent that tells a letter best, mean over letters
    absorbed: float  # share of `absorption`; NaN where the probe gets no word right


@torch.no_grad()
def absorption(
    sae: SparseAutoencoder, x: Float[Tensor, "word d"], letter: Int[Tensor, "word"], ridge: float = 100.0
) -> Letters:
    """Feature absorption (Chanin et al. 2024) of first letters, a small stand-in for their test.

    x is the stream at words of one token. On two thirds of the words, a ridge probe p_c of the stream for each letter
    c, and the latent whose firing has the best F1 for c. On the rest, among words that the probe gets right: the share
    whose main latent is silent while one other latent j, with cos(W_dec_j, p_c) of `NEAR` or more, makes up `SHARE` of
    what the reconstruction has along p_c. They measure a latent's part by ablation, and ask in context. NaN without
    words.
    """
    if not len(x):
        return Letters(*[float("nan")] * 3)
    train = torch.arange(len(x)) % 3 != 0
    classes = int(letter.max()) + 1
    wish = torch.nn.functional.one_hot(letter, classes).float()
    mean, middle = x[train].mean(0), wish[train].mean(0)
    centred = x - mean
    square = centred[train].T @ centred[train]
    level = ridge * square.diagonal().mean() / 100
    weights = torch.linalg.solve(square + level * torch.eye(len(square)), centred[train].T @ (wish[train] - middle))
    right = (centred @ weights + middle).argmax(1) == letter
    z = sae.encode(x)
    fires = (z[train] > 0).float()
    both = fires.T @ wish[train]
    f1 = 2 * both / (fires.sum(0)[:, None] + wish[train].sum(0)).clamp_min(1.0)
    best, main = f1.max(0)
    test = ~train & right
    towards = torch.nn.functional.normalize(weights, dim=0)[:, letter[test]].T
    silent = z[test].gather(1, main[letter[test]][:, None])[:, 0] == 0
    along = towards @ sae.W_dec.T
    parts = z[test] * along
    total = parts.sum(1)
    largest, which = parts.max(1)
    cosine = along.gather(1, which[:, None])[:, 0] / sae.W_dec.norm(dim=1)[which].clamp_min(1e-12)
    absorbed = silent & (total > 0) & (largest >= SHARE * total) & (cosine >= NEAR)
    share = absorbed.float().mean().item() if len(absorbed) else float("nan")
    present = wish[train].sum(0) > 0
    return Letters(right[~train].float().mean().item(), best[present].mean().item(), share)


def stability(one: Float[Tensor, "m d"], other: Float[Tensor, "n d"]) -> float:
    """Mean over the rows of one decoder of the largest cosine to a row of the other."""
    a, b = (torch.nn.functional.normalize(part.detach(), dim=1) for part in (one, other))
    return torch.cat([(part @ b.T).amax(1) for part in a.split(1024)]).mean().item()
