"""How few latents carry a group, whom a tilted loss helps, and whether offsets of groups add up."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import nn

from opinion_sae.delta.crossfit import cross_fit
from opinion_sae.delta.fit import fit_offset, refit_strongest, strongest_latents
from opinion_sae.delta.offsets import DenseOffset, GroupDelta
from opinion_sae.model.answers import AnswerPath
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.score.metrics import Scores, bootstrap_mean, by_group, mean, score
from opinion_sae.survey import Survey


class PathPoint(NamedTuple):
    """Held-out answers under one budget."""

    latents: float  # mean number touched per group
    cut: Float[np.ndarray, "group question option"]  # log p with Delta cut to its strongest latents
    refitted: Float[np.ndarray, "group question option"]  # the same, fitted once more
    dense: Float[np.ndarray, "group question option"]  # the dense vector, scaled to the refitted offset's norm


def latent_path(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    survey: Survey,
    folds: Int[np.ndarray, "question"],
    deltas: Sequence[GroupDelta],
    dense: Sequence[DenseOffset],
    budgets: Sequence[int],
    **settings: float | int,
) -> list[PathPoint]:
    """Held-out answers as each group's Delta is cut to fewer and fewer of its strongest latents.

    Latents are chosen and fitted in each fold's training questions only; `settings` go to `fit_offset`. The first point
    is Delta with all its latents, as it was fitted.
    """
    whole = held_out(answers, sae, folds, deltas)
    points = [PathPoint(_touched(deltas), whole, whole, _same_norm(answers, sae, folds, dense, deltas))]
    for budget in budgets:
        cuts = iter(deltas)
        refits: list[GroupDelta] = []

        def refit(train: np.ndarray, validation: np.ndarray) -> tuple[GroupDelta, pd.DataFrame]:
            delta, history = refit_strongest(
                answers, sae, survey, next(cuts), budget, train=train, validation=validation, **settings
            )
            refits.append(delta)
            return delta, history

        refitted = cross_fit(answers, sae, folds, refit)
        cut = [delta.cut(strongest_latents(delta, budget)) for delta in deltas]
        points.append(
            PathPoint(
                _touched(refits),
                held_out(answers, sae, folds, cut),
                refitted.log_probs,
                _same_norm(answers, sae, folds, dense, refits),
            )
        )
    return points


def held_out(
    answers: AnswerPath, sae: object, folds: Int[np.ndarray, "question"], offsets: Sequence[object]
) -> Float[np.ndarray, "group question option"]:
    """Log p of every question under its own fold's offset."""
    given = iter(offsets)
    return cross_fit(answers, sae, folds, lambda train, validation: (next(given), pd.DataFrame())).log_probs


def _touched(deltas: Sequence[GroupDelta]) -> float:
    """Latents with an offset, mean over groups and folds."""
    return float(np.mean([(delta.offsets() != 0).sum(1).float().mean().item() for delta in deltas]))


def _same_norm(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    folds: Int[np.ndarray, "question"],
    dense: Sequence[DenseOffset],
    deltas: Sequence[GroupDelta],
) -> Float[np.ndarray, "group question option"]:
    """Held-out log p under each fold's dense vectors, scaled to the norm of its Delta."""
    scaled = [_scaled(answers, sae, vector, delta) for vector, delta in zip(dense, deltas, strict=True)]
    return held_out(answers, None, folds, scaled)


@torch.no_grad()
def _scaled(answers: AnswerPath, sae: SparseAutoencoder, dense: DenseOffset, delta: GroupDelta) -> DenseOffset:
    """The dense vector with each group's norm set to the mean norm of that group's latent offset over the prompts."""
    x = answers.residual
    norm = (delta.steer(x, sae) - x[:, None]).norm(dim=-1).mean(0)
    vectors = dense.shared + dense.deviation
    scaled = DenseOffset(dense.groups, vectors.shape[1])
    scaled.deviation.data.copy_(vectors * (norm / vectors.norm(dim=1).clamp_min(1e-12))[:, None])
    return scaled


def path_table(
    survey: Survey,
    points: Sequence[PathPoint],
    clusters: Int[np.ndarray, "question"],
    replicates: int,
    seed: int,
) -> pd.DataFrame:
    """A row per budget, method and group ('all' first): mean held-out KL and alignment with 95 % intervals."""
    rows = []
    for point in points:
        for method in ("cut", "refitted", "dense"):
            scores = score(survey, getattr(point, method))
            kls, alignments = by_group(survey, scores.kl), by_group(survey, scores.alignment)
            for group in kls:
                low, high = bootstrap_mean(kls[group], clusters, replicates, seed)
                align_low, align_high = bootstrap_mean(alignments[group], clusters, replicates, seed)
                rows.append(
                    (
                        point.latents,
                        method,
                        group,
                        mean(kls[group]),
                        low,
                        high,
                        mean(alignments[group]),
                        align_low,
                        align_high,
                    )
                )
    columns = ["latents", "method", "group", "kl", "kl_low", "kl_high", "alignment", "alignment_low", "alignment_high"]
    return pd.DataFrame(rows, columns=columns)


def tilt_sweep(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    survey: Survey,
    folds: Int[np.ndarray, "question"],
    starts: Sequence[GroupDelta],
    tilts: Sequence[float],
    **settings: float | int,
) -> dict[float, Float[np.ndarray, "group question option"]]:
    """Held-out log p of each tilt: the groups' parts fitted with the loss tilted over groups, from Delta_shared.

    `starts` are the folds' fits of Delta_shared and `settings` those of the second stage of `fit_frozen`, so that
    t = 0 is the plain fit of Delta.
    """
    shares = torch.from_numpy(survey.shares).float()
    found = {}
    for tilt in tilts:
        given = iter(starts)

        def fit(train: np.ndarray, validation: np.ndarray) -> tuple[GroupDelta, pd.DataFrame]:
            delta = copy.deepcopy(next(given))
            history = fit_offset(answers, delta, sae, shares, train, validation, tilt=float(tilt), **settings)
            return delta, history

        found[tilt] = cross_fit(answers, sae, folds, fit).log_probs
    return found


def tilt_table(
    survey: Survey,
    sweep: dict[float, Float[np.ndarray, "group question option"]],
    clusters: Int[np.ndarray, "question"],
    replicates: int,
    seed: int,
) -> pd.DataFrame:
    """Mean and worst-group held-out KL and alignment against the tilt t, with 95 % intervals over questions."""
    rows = []
    for tilt, log_probs in sweep.items():
        scores = score(survey, log_probs)
        for measure, worst in (("kl", np.nanargmax), ("alignment", np.nanargmin)):
            cells = by_group(survey, getattr(scores, measure))
            means = {group: mean(cells[group]) for group in survey.groups}
            lowest = survey.groups[int(worst(list(means.values())))]
            for which, group in (("mean over groups", "all"), ("worst-off group", lowest)):
                low, high = bootstrap_mean(cells[group], clusters, replicates, seed)
                rows.append((tilt, measure, which, group, mean(cells[group]), low, high))
    return pd.DataFrame(rows, columns=["t", "measure", "which", "group", "value", "low", "high"])


class Composed(nn.Module):
    """Offsets for intersections of groups: Delta_shared + sum of the member groups' deviations."""

    def __init__(self, delta: GroupDelta, members: Sequence[Sequence[str]]):
        super().__init__()
        self.delta = GroupDelta([" & ".join(names) for names in members], delta.shared.shape[0])
        rows = [sum(delta.deviation.detach()[delta.groups.index(name)] for name in names) for names in members]
        self.delta.shared.data.copy_(delta.shared.detach())
        self.delta.deviation.data.copy_(torch.stack(rows))

    def steer(self, x: Float[Tensor, "item d"], sae: SparseAutoencoder) -> Float[Tensor, "item group d"]:
        return self.delta.steer(x, sae)


def fit_crossed(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    crossed: Survey,
    folds: Int[np.ndarray, "question"],
    shared: Sequence[GroupDelta],
    **settings: float | int,
) -> list[GroupDelta]:
    """Offsets fitted directly to the intersections' answers, one per fold, from the folds' fits of Delta_shared."""
    shares, starts = torch.from_numpy(crossed.shares).float(), iter(shared)

    def fit(train: np.ndarray, validation: np.ndarray) -> tuple[GroupDelta, pd.DataFrame]:
        offset = GroupDelta(crossed.groups, sae.width).to(answers.lm.device)
        offset.shared.data.copy_(next(starts).shared.detach())
        return offset, fit_offset(answers, offset, sae, shares, train, validation, **settings)

    return cross_fit(answers, sae, folds, fit).offsets


def compose(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    folds: Int[np.ndarray, "question"],
    deltas: Sequence[GroupDelta],
    crossed: Survey,
    direct: Sequence[GroupDelta],
) -> dict[str, Scores]:
    """Scores of the intersections in `crossed` (groups named 'A & B'): shared part, one member's, sum, direct fit.

    'first member' and 'second member' use the offset of one of the two groups alone. All are held out by question.
    """
    names = [group.split(" & ") for group in crossed.groups]
    unknown = sorted({name for members in names for name in members} - set(deltas[0].groups))
    if unknown:
        raise KeyError(f"no offset for {unknown}, which the intersections {list(crossed.groups)} need")
    members = {
        "shared only": [[] for _ in names],
        "first member": [members[:1] for members in names],
        "second member": [members[1:2] for members in names],
        "sum of members": names,
    }
    scores = {}
    for label, parts in members.items():
        if label == "shared only":
            offsets = [_shared(delta, len(names)) for delta in deltas]
        else:
            offsets = [Composed(delta, parts) for delta in deltas]
        scores[label] = score(crossed, held_out(answers, sae, folds, offsets))
    scores["fitted directly"] = score(crossed, held_out(answers, sae, folds, direct))
    return scores


def _shared(delta: GroupDelta, groups: int) -> GroupDelta:
    part = GroupDelta([str(i) for i in range(groups)], delta.shared.shape[0])
    part.shared.data.copy_(delta.shared.detach())
    return part


def composition_table(
    crossed: Survey,
    scores: dict[str, Scores],
    clusters: Int[np.ndarray, "question"],
    replicates: int,
    seed: int,
) -> pd.DataFrame:
    """Mean held-out KL over the intersections by method, and the paired difference to the direct fit."""
    rows = []
    for label, cells in scores.items():
        kl = by_group(crossed, cells.kl)["all"]
        gap = by_group(crossed, cells.kl - scores["fitted directly"].kl)["all"]
        rows.append((label, mean(kl), *bootstrap_mean(kl, clusters, replicates, seed), mean(gap),
                     *bootstrap_mean(gap, clusters, replicates, seed)))  # fmt: skip
    columns = ["offset", "kl", "low", "high", "minus direct fit", "difference low", "difference high"]
    return pd.DataFrame(rows, columns=columns)
