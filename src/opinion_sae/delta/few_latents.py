"""How few latents carry a group, whom a tilted loss helps, and whether offsets of groups add up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from opinion_sae.delta.fit import fit_from_shared, refit_strongest
from opinion_sae.delta.held_out import Split, answer_with, held_out
from opinion_sae.delta.offsets import DenseOffset, GroupDelta
from opinion_sae.delta.settings import FitSettings
from opinion_sae.model.answers import AnswerPath
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
    survey: Survey,
    splits: Sequence[Split],
    deltas: Sequence[GroupDelta],
    dense: Sequence[DenseOffset],
    budgets: Sequence[int],
    settings: FitSettings,
) -> list[PathPoint]:
    """Held-out answers as each group's Delta is cut to fewer and fewer of its strongest latents.

    Latents are chosen and fitted in each split's training questions only. The first point is Delta with all its
    latents, as it was fitted.
    """

    def same_norm(offsets: Sequence[GroupDelta]) -> Float[np.ndarray, "group question option"]:
        pairs = zip(dense, offsets, strict=True)
        return answer_with(answers, splits, [_same_norm(answers, vector, offset) for vector, offset in pairs])

    whole = answer_with(answers, splits, deltas)
    points = [PathPoint(_touched(deltas), whole, whole, same_norm(deltas))]
    for budget in budgets:

        def refit(split: Split, delta: GroupDelta, budget: int = budget) -> tuple[GroupDelta, pd.DataFrame]:
            return refit_strongest(answers, survey, delta, budget, split, settings)

        refitted = held_out(answers, splits, refit, deltas)
        cut = answer_with(answers, splits, [delta.cut(delta.strongest(budget)) for delta in deltas])
        points.append(PathPoint(_touched(refitted.offsets), cut, refitted.log_probs, same_norm(refitted.offsets)))
    return points


def _touched(deltas: Sequence[GroupDelta]) -> float:
    """Latents with an offset, mean over groups and splits."""
    return float(np.mean([delta.touched().mean().item() for delta in deltas]))


@torch.no_grad()
def _same_norm(answers: AnswerPath, dense: DenseOffset, delta: GroupDelta) -> DenseOffset:
    """The dense vector with each group's norm set to the mean norm of that group's latent offset over the prompts."""
    x = answers.residual
    return dense.with_norms((delta.steer(x) - x[:, None]).norm(dim=-1).mean(0))


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
                kl, alignment = (mean(kls[group]), low, high), (mean(alignments[group]), align_low, align_high)
                rows.append((point.latents, method, group, *kl, *alignment))
    columns = ["latents", "method", "group", "kl", "kl_low", "kl_high", "alignment", "alignment_low", "alignment_high"]
    return pd.DataFrame(rows, columns=columns)


def tilt_sweep(
    answers: AnswerPath,
    survey: Survey,
    splits: Sequence[Split],
    starts: Sequence[GroupDelta],
    tilts: Sequence[float],
    settings: FitSettings,
) -> dict[float, Float[np.ndarray, "group question option"]]:
    """Held-out log p of each tilt: the groups' parts fitted with the loss tilted over groups, from Delta_shared.

    `starts` are the splits' fits of Delta_shared, so that t = 0 is the plain fit of Delta.
    """

    def fitted(tilt: float) -> Float[np.ndarray, "group question option"]:
        chosen = replace(settings, tilt=float(tilt))
        fit = lambda split, start: fit_from_shared(answers, survey, split, start, chosen)  # noqa: E731
        return held_out(answers, splits, fit, starts).log_probs

    return {tilt: fitted(tilt) for tilt in tilts}


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


def fit_crossed(
    answers: AnswerPath,
    crossed: Survey,
    splits: Sequence[Split],
    shared: Sequence[GroupDelta],
    settings: FitSettings,
) -> list[GroupDelta]:
    """Offsets fitted directly to the intersections' answers, one per split, from the splits' fits of Delta_shared."""

    def fit(split: Split, start: GroupDelta) -> tuple[GroupDelta, pd.DataFrame]:
        return fit_from_shared(answers, crossed, split, start, settings)

    return held_out(answers, splits, fit, shared).offsets


def compose(
    answers: AnswerPath,
    splits: Sequence[Split],
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
    methods = {
        "shared only": [delta.shared_for(crossed.groups) for delta in deltas],
        "first member": [delta.composed([members[:1] for members in names]) for delta in deltas],
        "second member": [delta.composed([members[1:2] for members in names]) for delta in deltas],
        "sum of members": [delta.composed(names) for delta in deltas],
        "fitted directly": direct,
    }
    return {name: score(crossed, answer_with(answers, splits, offsets)) for name, offsets in methods.items()}


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
