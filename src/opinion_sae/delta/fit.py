"""Fit group offsets to a survey's answers, with the SAE as it is."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from opinion_sae.delta.offsets import DenseOffset, GroupDelta
from opinion_sae.losses import l1, soft_threshold, tilted_kl
from opinion_sae.model.answers import AnswerPath, Steering
from opinion_sae.progress import progress
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.sae.train import check_finite
from opinion_sae.survey import Survey

ADAM_EPS = 1e-8  # torch's default
FIRST_STRENGTH = 2e-3  # of the L1 term, where a search for it begins
Positions = Sequence[int] | Int[np.ndarray, "_"]  # of questions in the survey


@runtime_checkable
class Offset(Protocol):
    """What `fit_offset` can train: a shared part and a deviation per group."""

    shared: nn.Parameter
    deviation: nn.Parameter

    def steer(self, x: Tensor, sae: object) -> Tensor: ...


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


def units(
    answers: AnswerPath, sae: SparseAutoencoder | None, offset: Offset, latents: float | None = None
) -> tuple[float, float]:
    """`step_unit` and `latent_unit` for an offset of this kind; the latter is 1 where there are no latents.

    An offset in shares of a latent's value moves the active latents only, and its own unit is 1.
    """
    if sae is None:
        return step_unit(answers, None), 1.0
    unit = latent_unit(answers, sae)
    if not getattr(offset, "relative", False):
        return step_unit(answers, sae, latents), unit
    active = (sae.encode_sparse(answers.residual.to(sae.W_dec.device)).values > 0).sum(1).float().mean().item()
    return step_unit(answers, sae, active) / unit, 1.0


def fit_frozen(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    survey: Survey,
    *,
    train: Positions | None = None,
    validation: Positions | None = None,
    stages: Sequence[str] = ("shared", "deviation"),
    shared_lr: float = 1.0,
    kind: Callable[[Sequence[str], int], GroupDelta] = GroupDelta,
    **settings: float | int | str,
) -> tuple[GroupDelta, pd.DataFrame]:
    """Fit Delta_shared and then the groups' deviations to the survey's answers, with the SAE frozen.

    Minimises KL(h_g || p_g) + l1 (|Delta_shared|_1 + mean_g |D_g|_1) / unit over the training questions (all if not
    given), with `unit` the mean active latent. `stages`: the shared part is fitted first, alone; then both. Each stage
    keeps the epoch with the lowest KL on the validation questions and stops after `patience` epochs without a lower
    one. `kind` makes the offset from the groups' names and the SAE's width: GroupDelta or one of its kinds. `settings`
    go to `fit_offset`. History: a row per stage and epoch.
    """
    delta = kind(survey.groups, sae.width).to(answers.lm.device)
    return delta, _fit_stages(answers, delta, sae, survey, train, validation, stages, shared_lr, settings)


def fit_dense(
    answers: AnswerPath,
    survey: Survey,
    *,
    train: Positions | None = None,
    validation: Positions | None = None,
    shared_lr: float = 1.0,
    **settings: float | int,
) -> tuple[DenseOffset, pd.DataFrame]:
    """The same fit for an offset straight in the residual stream: no SAE, no rectifier, no L1 term."""
    offset = DenseOffset(survey.groups, answers.lm.width).to(answers.lm.device)
    settings = {**settings, "l1_weight": 0.0}
    return offset, _fit_stages(
        answers, offset, None, survey, train, validation, ("shared", "deviation"), shared_lr, settings
    )


def strongest_latents(delta: GroupDelta, latents: int) -> Bool[Tensor, "group m"]:
    """Which entries are among a group's `latents` largest |Delta_g|; entries of exactly zero never are."""
    size = delta.offsets().detach().abs()
    chosen = torch.zeros_like(size, dtype=torch.bool)
    chosen.scatter_(1, size.topk(min(latents, size.shape[1]), dim=1).indices, True)
    return chosen & (size > 0)


def refit_strongest(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    survey: Survey,
    delta: GroupDelta,
    latents: int,
    *,
    train: Positions | None = None,
    validation: Positions | None = None,
    **settings: float | int,
) -> tuple[GroupDelta, pd.DataFrame]:
    """A copy of `delta` cut to each group's `latents` strongest, and those fitted once more without the L1 term.

    The L1 term chooses latents but also shrinks them; the second fit undoes the shrinking (the relaxed lasso of
    Meinshausen 2007). The result has no shared part: all of Delta_g is in the deviations.
    """
    support = strongest_latents(delta, latents)
    cut = delta.cut(support).to(answers.lm.device)
    shares = torch.from_numpy(survey.shares).float()
    train = range(len(survey.questions)) if train is None else train
    return cut, fit_offset(answers, cut, sae, shares, train, validation, support=support, **settings)


def fit_to_budget(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    survey: Survey,
    latents: int,
    *,
    l1_weight: float = 0.0,
    trials: int = 8,
    **settings: object,
) -> tuple[GroupDelta, pd.DataFrame]:
    """`fit_frozen` with the L1 strength that leaves about `latents` latents per group (mean over groups).

    The strength is sought by bisection of its logarithm, from `l1_weight` or FIRST_STRENGTH, in at most `trials` fits;
    it ends with the first that leaves between `latents` and a quarter more, or else with the fit that leaves the fewest
    above `latents` (the most, if none leaves so many). History: that of the fit taken, with its `l1_weight`.
    """
    weak = strong = None  # the bracket: strengths that leave too many, too few
    weight, found = l1_weight or FIRST_STRENGTH, []
    for _ in range(trials):
        delta, history = fit_frozen(answers, sae, survey, l1_weight=weight, **settings)
        left = (delta.offsets() != 0).sum(1).float().mean().item()
        found.append((left < latents, abs(left - latents), delta, history.assign(l1_weight=weight)))
        if latents <= left <= 1.25 * latents:
            break
        weak, strong = (weight, strong) if left > latents else (weak, weight)
        weight = 8 * weak if strong is None else strong / 8 if weak is None else math.sqrt(weak * strong)
    _, _, delta, history = min(found, key=lambda trial: trial[:2])
    return delta, history


def _fit_stages(
    answers: AnswerPath,
    offset: Offset,
    sae: SparseAutoencoder | None,
    survey: Survey,
    train: Positions | None,
    validation: Positions | None,
    stages: Sequence[str],
    shared_lr: float,
    settings: dict[str, float | int],
) -> pd.DataFrame:
    if answers.questions != survey.questions:
        raise ValueError(f"the answers are to other questions than those of the survey {survey.name}")
    shares = torch.from_numpy(survey.shares).float()
    train = range(len(survey.questions)) if train is None else train
    histories = []
    for stage in stages:
        only = stage == "shared"  # one offset for all groups: cheap, so it may take more and bolder steps
        longer = {name: 2 * settings.get(name, usual) for name, usual in (("epochs", 15), ("patience", 5))}
        changed = {"lr": shared_lr, **longer} if only else {}
        history = fit_offset(
            answers, offset, sae, shares, train, validation, shared_only=only, **{**settings, **changed}
        )
        histories.append(history.assign(stage=stage))
    return pd.concat(histories, ignore_index=True)


class SharedOnly:
    """An offset's shared part alone, as one group that stands for all."""

    def __init__(self, offset: Offset):
        self.offset = offset

    def steer(self, x: Float[Tensor, "item d"], sae: object) -> Float[Tensor, "item 1 d"]:
        part = copy.copy(self.offset)
        part._parameters = {"shared": self.offset.shared, "deviation": torch.zeros_like(self.offset.deviation[:1])}
        return part.steer(x, sae)


def fit_offset(
    answers: AnswerPath,
    offset: Offset,
    sae: SparseAutoencoder | None,
    shares: Float[Tensor, "group question option"],
    train: Positions,
    validation: Positions | None = None,
    *,
    shared_only: bool = False,
    epochs: int = 15,
    batch: int = 16,
    lr: float = 0.3,
    l1_weight: float = 0.0,
    group_lasso: bool = False,
    support: Bool[Tensor, "group m"] | None = None,
    tilt: float = 0.0,
    tilt_over: str = "groups",
    patience: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """Train `offset` in place by Adam with a proximal step for the L1 term, so that zeros are exact.

    Keeps the epoch with the lowest KL on the validation questions (on the training questions if none are given); epoch
    0 is the start, so that no fit ends worse than it began. Stops after `patience` epochs without a lower one since the
    first. Questions that no group answered are passed over. History: a row per epoch. Raises ValueError if no question
    is left, FloatingPointError for a loss that is not finite.

    `group_lasso` penalises sum_j |(Delta_shared, D_1, .., D_G)_j|_2 instead of L1, so that the groups share one
    vocabulary of latents. `support` trains the deviations alone and only the entries named. `tilt` replaces the mean KL
    by `tilted_kl`, over groups or questions.
    """
    train = torch.as_tensor(list(train))
    train = train[~shares.isnan().any(-1).all(0)[train]]
    if not len(train):
        raise ValueError("none of the training questions was answered by any of the groups")
    judged = train if validation is None else torch.as_tensor(list(validation))
    step_size, unit = units(answers, sae, offset, None if support is None else support.sum(1).float().mean().item())
    weight = l1_weight / unit
    parts = [offset.shared] if shared_only else [offset.shared, offset.deviation]
    parts = parts if support is None else [offset.deviation]
    steering = SharedOnly(offset) if shared_only else offset

    def objective(shares: Tensor, log_probs: Tensor) -> Tensor:
        return tilted_kl(shares, log_probs, tilt, tilt_over)

    def after_step() -> None:
        proximal_step(optimiser, offset, weight, group_lasso)
        if support is not None:
            offset.deviation.data.mul_(support.to(offset.deviation.device))

    optimiser = torch.optim.Adam(parts, lr=lr * step_size)
    generator = torch.Generator().manual_seed(seed)
    scores, rows = [], []
    for epoch in progress(range(epochs + 1), "shared" if shared_only else "deviation"):
        train_kl = np.nan
        if epoch:
            for group in optimiser.param_groups:  # steps shrink linearly, so that the last epochs settle
                group["lr"] = lr * step_size * (1 - (epoch - 1) / epochs)
            chunks = train[torch.randperm(len(train), generator=generator)].split(batch)
            train_kl = _pass(answers, steering, sae, shares, chunks, optimiser, objective, after_step, epoch)
        kl = objective(shares[:, judged], answers.predict(sae, steering, judged)).item()
        rows.append(_row(epoch, train_kl, np.nan if validation is None else kl, offset, weight))
        if kl < min(scores, default=np.inf):
            best = [part.detach().clone() for part in parts]
        scores.append(kl)
        if epoch and epoch - 1 - np.argmin(scores[1:]) >= patience:  # the first steps often do harm
            break
    with torch.no_grad():
        for part, value in zip(parts, best, strict=True):
            part.copy_(value)
    return pd.DataFrame(rows)


def _pass(
    answers: AnswerPath,
    steering: Steering,
    sae: SparseAutoencoder | None,
    shares: Float[Tensor, "group question option"],
    chunks: Sequence[Tensor],
    optimiser: torch.optim.Optimizer,
    objective: Callable[[Tensor, Tensor], Tensor],
    after_step: Callable[[], None],
    epoch: int,
) -> float:
    """One step per chunk of questions; the mean of the objective on the way, in nats."""
    total = 0.0
    for chunk in chunks:
        log_probs = answers.log_probs(sae, steering, chunk)
        loss = objective(shares[:, chunk].to(log_probs.device), log_probs)
        check_finite(loss, f"fitting the offset, epoch {epoch}, questions {chunk.tolist()}")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        after_step()
        total += loss.item() * len(chunk)
    return total / sum(len(chunk) for chunk in chunks)


def _row(epoch: int, train_kl: float, validation_kl: float, offset: Offset, weight: float) -> dict[str, float | int]:
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
    if isinstance(offset, GroupDelta):
        offset.constrain()
