"""Choose what no loss decides, on validation questions only: the dose of each part of Delta, L1 strength, kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from opinion_sae.delta.fit import fit_from_shared, fit_frozen, fit_offset
from opinion_sae.delta.held_out import Split, held_out
from opinion_sae.delta.offsets import AdditiveDelta, GroupDelta, LowRankDelta, MultiplicativeDelta
from opinion_sae.delta.settings import FitSettings
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
    survey: Survey,
    splits: Sequence[Split],
    shared: Sequence[GroupDelta],
    deltas: Sequence[GroupDelta],
    stronger: Sequence[float],
    budgets: Sequence[int],
    settings: FitSettings,
) -> Selected:
    """In each split, the candidate with the lowest KL on validation questions, and its answers to the test questions.

    Candidates are s Delta_shared + u D_g for doses s and u: the split's fit of both parts (from `deltas`, u > 0), its
    fit of Delta_shared alone (from `shared`, u = 0), the same cut to its strongest latents, for each of `budgets`, and
    Delta_shared fitted anew under each of the `stronger` L1 strengths, as `fit_offset` takes its `settings`; their `l1`
    is that of the fits given. Of equals (to 1e-5 nats), the one with fewer latents is taken.
    """
    shares = torch.from_numpy(survey.shares).float()

    def choose(split: Split, first: GroupDelta, delta: GroupDelta) -> tuple[GroupDelta, pd.DataFrame]:
        alone = {(settings.l1, "all"): first}
        alone |= {(settings.l1, str(budget)): first.strongest_shared(budget) for budget in budgets}
        for weight in stronger:
            alone[weight, "all"] = GroupDelta(survey.groups, first.sae).to(answers.lm.device)
            chosen = replace(settings, l1=weight)
            fit_offset(answers, survey, alone[weight, "all"], split, chosen, shared_only=True)
        found = []
        for (weight, kept), s, u, offset in _candidates(alone, delta, settings.l1):
            kl = _kl(answers, shares, offset.shared_only() if u == 0 else offset, split.validation)
            latents = offset.touched().mean().item()
            row = {"l1": weight, "kept": kept, "shared": s, "group": u, "latents": latents}
            row |= {"n_questions": len(split.validation), "validation_kl": kl}
            found.append((kl, latents, len(found), row, offset))
        # equal to 1e-5 nats is equal: the last digits are another machine's rounding
        *_, best, offset = min(found, key=lambda candidate: (round(candidate[0], 5), *candidate[1:3]))
        return offset, pd.DataFrame([{**row, "chosen": row is best} for *_, row, _ in found])

    fitted = held_out(answers, splits, choose, shared, deltas)
    fitted.history.insert(0, "fold", fitted.history.pop("fold"))
    return Selected(fitted.history, fitted.offsets, fitted.log_probs)


def _candidates(
    alone: dict[tuple[float, str], GroupDelta], delta: GroupDelta, l1: float
) -> list[tuple[tuple[float, str], float, float, GroupDelta]]:
    """L1 strength and latents kept, dose of the shared part, dose of the group's, and the offset."""
    found = [(name, s, 0.0, offset.dosed(s, 0.0)) for name, offset in alone.items() for s in SHARED_DOSES if s]
    usual = (l1, "all")
    found += [(usual, s, u, delta.dosed(s, u)) for s in SHARED_DOSES for u in GROUP_DOSES if s]
    return [(usual, 0.0, 0.0, delta.dosed(0.0, 0.0)), *found]


def _kl(
    answers: AnswerPath, shares: Float[torch.Tensor, "group question option"], offset: Steering, questions: np.ndarray
) -> float:
    return mean_kl(shares[:, questions], answers.predict(offset, torch.from_numpy(questions))).item()


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
    split: Split,
    settings: FitSettings,
    rank: int = 3,
) -> pd.DataFrame:
    """The kinds of Delta, fitted to one split with the same settings: a row per kind.

    Rectified, rectified with group lasso instead of L1, with deviations of low rank, additive and multiplicative; the
    first three have their first stage in common. Columns: latents per group and over all groups together, KL on
    validation and test questions, without and with the groups' own part.
    """
    shares = torch.from_numpy(survey.shares).float()
    kinds: dict[str, tuple[Callable[..., GroupDelta], bool]] = {
        "rectified": (GroupDelta, False),
        "rectified, group lasso": (GroupDelta, True),
        f"rectified, rank {rank}": (lambda groups, sae: LowRankDelta(groups, sae, rank=rank), False),
        "additive": (AdditiveDelta, False),
        "multiplicative": (MultiplicativeDelta, False),
    }
    rows, first = [], None
    for name, (kind, lasso) in kinds.items():
        if name.startswith("rectified") and first is not None:
            offset = kind(survey.groups, sae).to(answers.lm.device).with_parts(shared=first)
        else:
            offset, _ = fit_frozen(answers, sae, survey, split, settings, stages=("shared",), kind=kind)
            first = offset.shared if first is None else first
        alone = _kl(answers, shares, offset.shared_only(), split.test)
        offset, _ = fit_from_shared(answers, survey, split, offset, replace(settings, group_lasso=lasso))
        kls = [_kl(answers, shares, offset, part) for part in (split.validation, split.test)]
        counts = (offset.touched().mean().item(), int((offset.offsets() != 0).any(0).sum()))
        rows.append((name, *counts, kls[0], alone, kls[1], len(split.test)))
    columns = ["kind", "latents per group", "latents in all", "validation KL", "test KL, shared only", "test KL"]
    return pd.DataFrame(rows, columns=[*columns, "n_questions"])
