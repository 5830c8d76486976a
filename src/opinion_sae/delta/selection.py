"""Choose what no loss decides, on validation questions only: the dose of each part of Delta, L1 strength, layer, beta."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from opinion_sae.delta.crossfit import cross_fit, fold_parts
from opinion_sae.delta.fit import SharedOnly, fit_frozen, fit_offset
from opinion_sae.delta.offsets import AdditiveDelta, GroupDelta, LowRankDelta, MultiplicativeDelta
from opinion_sae.losses import mean_kl
from opinion_sae.model.answers import AnswerPath, Steering
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.survey import Survey

SHARED_DOSES = (0.0, 0.5, 0.75, 1.0, 1.25)
GROUP_DOSES = (0.5, 1.0)


class Selected(NamedTuple):
    """The outcome of `select_offsets`."""

    grid: pd.DataFrame  # fold, l1, kept, shared, group, latents, n_questions, validation_kl, chosen
    offsets: list[GroupDelta]  # one per fold
    log_probs: Float[np.ndarray, "group question option"]  # held out


def select_offsets(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    survey: Survey,
    folds: Int[np.ndarray, "question"],
    shared: Sequence[GroupDelta],
    deltas: Sequence[GroupDelta],
    l1_weight: float,
    stronger: Sequence[float],
    budgets: Sequence[int],
    **settings: float | int,
) -> Selected:
    """In each fold, the candidate with the lowest KL on its validation questions, and its answers to the test questions.

    Candidates are s Delta_shared + u D_g for doses s and u: the fold's fit of both parts (from `deltas`, u > 0), its
    fit of Delta_shared alone (from `shared`, u = 0), the same cut to its strongest latents, for each of `budgets`, and
    Delta_shared fitted anew under each of the `stronger` L1 strengths. `settings` are those of the first stage, for
    `fit_offset`. Of equals (to 1e-5 nats), the one with fewer latents is taken.
    """
    shares = torch.from_numpy(survey.shares).float()
    rows, offsets = [], []

    def choose(train: np.ndarray, validation: np.ndarray) -> tuple[GroupDelta, pd.DataFrame]:
        fold = len(offsets)
        alone = {(l1_weight, "all"): shared[fold]}
        alone |= {(l1_weight, str(budget)): strongest_shared(shared[fold], budget) for budget in budgets}
        for weight in stronger:
            alone[weight, "all"] = GroupDelta(survey.groups, sae.width).to(answers.lm.device)
            options = {**settings, "l1_weight": weight, "shared_only": True}
            fit_offset(answers, alone[weight, "all"], sae, shares, train, validation, **options)
        found = []
        for (weight, kept), s, u, offset in _candidates(alone, deltas[fold], l1_weight):
            kl = _kl(answers, sae, shares, SharedOnly(offset) if u == 0 else offset, validation)
            latents = (offset.offsets() != 0).sum(1).float().mean().item()
            row = {"fold": fold, "l1": weight, "kept": kept, "shared": s, "group": u}
            row |= {"latents": latents, "n_questions": len(validation), "validation_kl": kl}
            found.append((kl, latents, len(found), row, offset))
        # equal to 1e-5 nats is equal: the last digits are another machine's rounding
        *_, best, offset = min(found, key=lambda candidate: (round(candidate[0], 5), *candidate[1:3]))
        rows.extend({**row, "chosen": row is best} for *_, row, _ in found)
        offsets.append(offset)
        return offset, pd.DataFrame([best])

    fitted = cross_fit(answers, sae, folds, choose)
    return Selected(pd.DataFrame(rows), offsets, fitted.log_probs)


def _candidates(
    alone: dict[tuple[float, str], GroupDelta], delta: GroupDelta, l1_weight: float
) -> list[tuple[tuple[float, str], float, float, GroupDelta]]:
    """L1 strength and latents kept, dose of the shared part, dose of the group's, and the offset."""
    found = [(name, s, 0.0, dosed(offset, s, 0.0)) for name, offset in alone.items() for s in SHARED_DOSES if s]
    usual = (l1_weight, "all")
    found += [(usual, s, u, dosed(delta, s, u)) for s in SHARED_DOSES for u in GROUP_DOSES if s]
    return [(usual, 0.0, 0.0, dosed(delta, 0.0, 0.0)), *found]


def strongest_shared(delta: GroupDelta, latents: int) -> GroupDelta:
    """A copy with the largest so many entries of Delta_shared and nothing else."""
    part = dosed(delta, 1.0, 0.0)
    size = part.shared.detach().abs()
    with torch.no_grad():
        part.shared.mul_(size >= size.topk(min(latents, len(size))).values[-1])
    return part


def dosed(delta: GroupDelta, shared: float, group: float) -> GroupDelta:
    """A copy with the parts multiplied: shared Delta_shared + group D_g."""
    part = copy.deepcopy(delta)
    with torch.no_grad():
        part.shared.mul_(shared)
        part.deviation.mul_(group)
    return part


def _kl(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    shares: Float[torch.Tensor, "group question option"],
    steering: Steering,
    questions: np.ndarray,
) -> float:
    return mean_kl(shares[:, questions], answers.predict(sae, steering, torch.from_numpy(questions))).item()


def choice_table(grid: pd.DataFrame) -> pd.DataFrame:
    """What was chosen in each fold, beside its validation KL unsteered and at the doses as fitted."""
    rows = []
    for fold, part in grid.groupby("fold"):
        chosen = part[part["chosen"]].iloc[0]
        usual = part[(part["l1"] == part["l1"].iloc[0]) & (part["kept"] == "all")]
        at = {
            "unsteered": usual[(usual["shared"] == 0) & (usual["group"] == 0)],
            "Δ_shared": usual[(usual["shared"] == 1) & (usual["group"] == 0)],
            "Δ": usual[(usual["shared"] == 1) & (usual["group"] == 1)],
        }
        beside = {f"KL {name}": cell["validation_kl"].iloc[0] for name, cell in at.items()}
        row = {"fold": fold, "γ": chosen["l1"], "dose of Δ_shared": chosen["shared"], "dose of D": chosen["group"]}
        rows.append({**row, "latents": chosen["latents"], "KL chosen": chosen["validation_kl"], **beside})
    return pd.DataFrame(rows)


def compare_kinds(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    survey: Survey,
    folds: Int[np.ndarray, "question"],
    rank: int = 3,
    **settings: float | int,
) -> pd.DataFrame:
    """The kinds of Delta, fitted to fold 0 with the same `settings` (those of `fit_frozen`): a row per kind.

    Rectified, rectified with group lasso instead of L1, with deviations of low rank, additive and multiplicative; the
    first three have their first stage in common. Columns: latents per group and over all groups together, KL on
    validation and test questions, without and with the groups' own part.
    """
    train, validation, test = fold_parts(folds, 0)
    shares = torch.from_numpy(survey.shares).float()
    second = {name: value for name, value in settings.items() if name != "shared_lr"}
    kinds: dict[str, tuple[Callable[..., GroupDelta], dict[str, object]]] = {
        "rectified": (GroupDelta, {}),
        "rectified, group lasso": (GroupDelta, {"group_lasso": True}),
        f"rectified, rank {rank}": (lambda groups, width: LowRankDelta(groups, width, rank=rank), {}),
        "additive": (AdditiveDelta, {}),
        "multiplicative": (MultiplicativeDelta, {}),
    }
    rows, first = [], None
    for name, (kind, extra) in kinds.items():
        offset = kind(survey.groups, sae.width).to(answers.lm.device)
        if name.startswith("rectified") and first is not None:
            offset.shared.data.copy_(first)
        else:
            parts = {"train": train, "validation": validation, "stages": ("shared",)}
            offset, _ = fit_frozen(answers, sae, survey, kind=kind, **parts, **settings)
            first = offset.shared.detach().clone() if first is None else first
        alone = _kl(answers, sae, shares, SharedOnly(offset), test)
        fit_offset(answers, offset, sae, shares, train, validation, **second, **extra)
        touched = offset.offsets() != 0
        kls = [_kl(answers, sae, shares, offset, part) for part in (validation, test)]
        counts = (touched.sum(1).float().mean().item(), int(touched.any(0).sum()))
        rows.append((name, *counts, kls[0], alone, kls[1], len(test)))
    columns = ["kind", "latents per group", "latents in all", "validation KL", "test KL, shared only", "test KL"]
    return pd.DataFrame(rows, columns=[*columns, "n_questions"])
