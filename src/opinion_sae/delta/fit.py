"""Fit group offsets to a survey's answers, with the SAE as it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from opinion_sae.delta.held_out import Split, whole
from opinion_sae.delta.offsets import DenseOffset, GroupDelta, Offset
from opinion_sae.delta.settings import FitSettings
from opinion_sae.losses import l1, soft_threshold, tilted_kl
from opinion_sae.model.answers import AnswerPath
from opinion_sae.progress import progress
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.sae.train import check_finite
from opinion_sae.survey import Survey

ADAM_EPS = 1e-8  # torch's default
STAGES = ("shared", "deviation")


def latent_unit(answers: AnswerPath, sae: SparseAutoencoder) -> float:
    """The unit of the L1 term: the mean value of the latents that are active on the survey prompts."""
    values = sae.encode_sparse(answers.residual.to(sae.W_dec.device)).values.detach()
    if not (values > 0).any():
        raise ValueError("no latent of this SAE fires on any survey prompt: it does not fit this model and layer")
    return values[values > 0].mean().item()


def step_unit(answers: AnswerPath, sae: SparseAutoencoder | None, latents: float | None = None) -> float:
    """Size of one entry's step for which all entries together move x by its own spread over the prompts.

    Adam's first steps have the size of the learning rate in every entry. In the residual stream d of them move x by
    sqrt(d); in the latents n of them, along n unit rows, by about n sqrt(2 / (pi d)) if all pull the same way, and by
    sqrt(n) at least. Measured in this unit a learning rate means the same in both: the share of the spread
    |x - mean x| that one step can go. `latents` is the number n of entries trained, all of them if not given.
    """
    x = answers.residual
    spread = (x - x.mean(0)).norm(dim=1).mean().item()
    if sae is None:
        return spread / math.sqrt(x.shape[1])
    n = sae.width if latents is None else max(latents, 1.0)
    return spread / max(n * math.sqrt(2 / (math.pi * x.shape[1])), math.sqrt(n))


def units(answers: AnswerPath, offset: Offset, latents: float | None = None) -> tuple[float, float]:
    """`step_unit` and `latent_unit` for an offset of this kind; the latter is 1 where there are no latents.

    An offset in shares of a latent's value moves the active latents only, and its own unit is 1.
    """
    sae = offset.sae
    if sae is None:
        return step_unit(answers, None), 1.0
    unit = latent_unit(answers, sae)
    if not offset.relative:
        return step_unit(answers, sae, latents), unit
    active = (sae.encode_sparse(answers.residual.to(sae.W_dec.device)).values > 0).sum(1).float().mean().item()
    return step_unit(answers, sae, active) / unit, 1.0


def fit_frozen(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    survey: Survey,
    split: Split | None = None,
    settings: FitSettings = FitSettings(),
    *,
    stages: Sequence[str] = STAGES,
    kind: Callable[[Sequence[str], SparseAutoencoder], GroupDelta] = GroupDelta,
) -> tuple[GroupDelta, pd.DataFrame]:
    """Fit Delta_shared and then the groups' deviations to the survey's answers, with the SAE frozen.

    Minimises KL(h_g || p_g) + l1 (|Delta_shared|_1 + mean_g |D_g|_1) / unit over the split's training questions (all
    without a split), with `unit` the mean active latent. `stages`: the shared part is fitted first, alone; then both.
    `kind` makes the offset from the groups' names and the SAE: GroupDelta or one of its kinds. History: a row per stage
    and epoch; see `fit_offset`.
    """
    delta = kind(survey.groups, sae).to(answers.lm.device)
    return delta, _fit_stages(answers, survey, delta, split, settings, stages)


def fit_dense(
    answers: AnswerPath, survey: Survey, split: Split | None = None, settings: FitSettings = FitSettings()
) -> tuple[DenseOffset, pd.DataFrame]:
    """The same fit for an offset straight in the residual stream: no SAE, no rectifier, no L1 term."""
    offset = DenseOffset(survey.groups, answers.lm.width).to(answers.lm.device)
    return offset, _fit_stages(answers, survey, offset, split, replace(settings, l1=0.0), STAGES)


def _fit_stages(
    answers: AnswerPath,
    survey: Survey,
    offset: Offset,
    split: Split | None,
    settings: FitSettings,
    stages: Sequence[str],
) -> pd.DataFrame:
    if answers.questions != survey.questions:
        raise ValueError(f"the answers are to other questions than those of the survey {survey.name}")
    split, histories = whole(survey) if split is None else split, []
    for stage in stages:
        only = stage == "shared"
        chosen = settings.first_stage if only else settings
        history = fit_offset(answers, survey, offset, split, chosen, shared_only=only)
        histories.append(history.assign(stage=stage))
    return pd.concat(histories, ignore_index=True)


def fit_from_shared(
    answers: AnswerPath, survey: Survey, split: Split, start: GroupDelta, settings: FitSettings = FitSettings()
) -> tuple[GroupDelta, pd.DataFrame]:
    """The second stage of `fit_frozen` alone: both parts together, from the shared part of `start`.

    The same as fitting both stages, without fitting the first again; the groups may be others than those of `start`.
    """
    offset = start.shared_for(survey.groups).to(answers.lm.device)
    history = fit_offset(answers, survey, offset, split, settings)
    return offset, history.assign(stage="deviation")


def refit_strongest(
    answers: AnswerPath,
    survey: Survey,
    delta: GroupDelta,
    latents: int,
    split: Split | None = None,
    settings: FitSettings = FitSettings(),
) -> tuple[GroupDelta, pd.DataFrame]:
    """A copy of `delta` cut to each group's `latents` strongest, and those fitted once more without the L1 term.

    The L1 term chooses latents but also shrinks them; the second fit undoes the shrinking (the relaxed lasso of
    Meinshausen 2007). The result has no shared part: all of Delta_g is in the deviations.
    """
    support = delta.strongest(latents)
    cut = delta.cut(support).to(answers.lm.device)
    split = whole(survey) if split is None else split
    return cut, fit_offset(answers, survey, cut, split, replace(settings, l1=0.0), support=support)


def fit_offset(
    answers: AnswerPath,
    survey: Survey,
    offset: Offset,
    split: Split,
    settings: FitSettings = FitSettings(),
    *,
    shared_only: bool = False,
    support: Bool[Tensor, "group m"] | None = None,
) -> pd.DataFrame:
    """Train `offset` in place by Adam with a proximal step for the L1 term, so that zeros are exact.

    Keeps the epoch with the lowest KL on the validation questions (on the training questions if there are none), epoch
    0 being the start; stops after `patience` epochs without a lower one since the first. `support` trains only these
    entries of the deviations. `tilt` replaces the mean KL by `tilted_kl`, `group_lasso` the L1 term by
    sum_j |(Delta_shared, D_1, .., D_G)_j|_2, so that groups share a vocabulary of latents. History: a row per epoch.
    Raises ValueError if no question was answered, FloatingPointError for a loss that is not finite.
    """
    shares = torch.from_numpy(survey.shares).float()
    train, validation = _answered(shares, split), torch.as_tensor(split.validation)
    judged = validation if len(validation) else train
    step_size, unit = units(answers, offset, None if support is None else support.sum(1).float().mean().item())
    weight, steering = settings.l1 / unit, offset.shared_only() if shared_only else offset
    parts = [offset.shared] if shared_only else [offset.shared, offset.deviation]
    parts = parts if support is None else [offset.deviation]

    def loss_of(questions: Tensor, answer: Callable[..., Tensor] = answers.log_probs) -> Tensor:
        log_probs = answer(steering, questions)
        return tilted_kl(shares[:, questions].to(log_probs.device), log_probs, settings.tilt)

    def after_step() -> None:
        proximal_step(optimiser, offset, weight, settings.group_lasso)
        if support is not None:
            offset.deviation.data.mul_(support.to(offset.deviation.device))

    optimiser = torch.optim.Adam(parts, lr=settings.lr * step_size)
    generator = torch.Generator().manual_seed(settings.seed)
    best, settle, rows = BestEpoch(parts, settings.patience), shrinking_steps(optimiser, settings.epochs), []
    for epoch in progress(range(settings.epochs + 1), "shared" if shared_only else "deviation"):
        train_kl = np.nan
        if epoch:
            settle(epoch)
            chunks = train[torch.randperm(len(train), generator=generator)].split(settings.batch)
            train_kl = _pass(loss_of, chunks, optimiser, after_step, f"fitting the offset, epoch {epoch}")
        kl = loss_of(judged, answers.predict).item()
        rows.append(fit_row(epoch, train_kl, kl if len(validation) else np.nan, offset, weight))
        if best.stop(kl):
            break
    best.restore()
    return pd.DataFrame(rows)


def _answered(shares: Float[Tensor, "group question option"], split: Split) -> Int[Tensor, "train"]:
    """The training questions that some group answered."""
    train = torch.as_tensor(split.train)
    train = train[~shares.isnan().any(-1).all(0)[train]]
    if not len(train):
        raise ValueError("none of the training questions was answered by any of the groups")
    return train


class BestEpoch:
    """Keeps what was trained as it was at its lowest score, and says when to stop."""

    def __init__(self, parts: Sequence[Tensor], patience: int):
        self.parts, self.patience, self.scores = parts, patience, []

    def stop(self, score: float) -> bool:
        """Enter an epoch's score, the start's first. Whether `patience` epochs since the first brought none lower."""
        if score < min(self.scores, default=np.inf):
            self.best = [part.detach().clone() for part in self.parts]
        self.scores.append(score)
        since_first = self.scores[1:]  # the first steps often do harm
        return bool(since_first) and len(since_first) - 1 - int(np.argmin(since_first)) >= self.patience

    @torch.no_grad()
    def restore(self) -> None:
        for part, value in zip(self.parts, self.best, strict=True):
            part.copy_(value)


def shrinking_steps(optimiser: torch.optim.Optimizer, epochs: int) -> Callable[[int], None]:
    """Sets the steps of an epoch, which shrink linearly, so that the last epochs settle."""
    rates = [group["lr"] for group in optimiser.param_groups]

    def settle(epoch: int) -> None:
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - (epoch - 1) / epochs)

    return settle


def _pass(
    loss_of: Callable[[Tensor], Tensor],
    chunks: Sequence[Tensor],
    optimiser: torch.optim.Optimizer,
    after_step: Callable[[], None],
    where: str,
) -> float:
    """One step per chunk of questions; the mean loss on the way, in nats."""
    total = 0.0
    for chunk in chunks:
        loss = loss_of(chunk)
        check_finite(loss, f"{where}, questions {chunk.tolist()}")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        after_step()
        total += loss.item() * len(chunk)
    return total / sum(len(chunk) for chunk in chunks)


def fit_row(epoch: int, train_kl: float, validation_kl: float, offset: Offset, weight: float) -> dict[str, float | int]:
    return {
        "epoch": epoch,
        "train_kl": train_kl,
        "validation_kl": validation_kl,
        "l1_shared": weight * l1(offset.shared).item(),
        "l1_deviation": weight * l1(offset.deviation).item(),
        "latents_shared": int((offset.shared != 0).sum()),
        "latents_deviation": (offset.deviation != 0).sum(1).float().mean().item(),
    }


@torch.no_grad()
def proximal_step(optimiser: torch.optim.Adam, offset: Offset, weight: float, group_lasso: bool = False) -> None:
    """Soft-threshold each parameter of the L1 term by Adam's own step size for it: lr * weight / (sqrt(v) + eps).

    Taken in Adam's metric it keeps the stated objective: an entry rests at zero just when its gradient is below the
    weight. With `group_lasso` a latent's entries of all groups shrink together, in the mean metric of all of them.
    """
    parts, scales, lr = [], [], 0.0
    for group in optimiser.param_groups:
        for part in group["params"]:
            if part is not offset.shared and part is not offset.deviation:
                continue  # the SAE's own parameters, in joint training
            state, lr = optimiser.state[part], group["lr"]
            parts.append(part)
            scales.append(state["exp_avg_sq"] / (1 - group["betas"][1] ** float(state["step"])))
    if group_lasso:
        rows = torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])
        scale = torch.cat([scale.reshape(-1, scale.shape[-1]) for scale in scales]).mean(0)
        shrink = 1 - lr * weight / (scale.sqrt() + ADAM_EPS) / rows.norm(dim=0).clamp_min(1e-30)
        for part in parts:
            part.mul_(shrink.clamp_min(0.0))
    else:
        for part, scale in zip(parts, scales, strict=True):
            share = 1 / len(part) if part is offset.deviation else 1.0  # the term averages over groups
            part.copy_(soft_threshold(part, lr * weight * share / (scale.sqrt() + ADAM_EPS)))
    offset.constrain()
