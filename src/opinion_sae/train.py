"""The two training loops: an SAE on activations, and an offset on a survey's answers. Both return their history."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from opinion_sae.answers import AnswerPath, Steering
from opinion_sae.delta import DenseOffset, GroupDelta
from opinion_sae.losses import l1, mean_kl, reconstruction, soft_threshold
from opinion_sae.progress import progress
from opinion_sae.sae import SparseAutoencoder
from opinion_sae.survey import Survey
from opinion_sae.topk import SparseDecode, TopKEncode

Positions = Sequence[int] | Int[np.ndarray, "question"]  # of questions in the survey


@runtime_checkable
class Offset(Protocol):
    """What `fit_offset` can train: a shared part and a deviation per group."""

    shared: nn.Parameter
    deviation: nn.Parameter

    def steer(self, x: Tensor, sae: object) -> Tensor: ...


def check_finite(loss: Tensor, where: str) -> None:
    if not torch.isfinite(loss):
        raise FloatingPointError(f"{where}: the loss is {loss.item()}; try a lower learning rate")


def train_sae(
    train: Float[Tensor, "token d"],
    width: int = 4096,
    k: int = 32,
    *,
    validation: Float[Tensor, "held_out d"] | None = None,
    steps: int = 2000,
    batch: int = 2048,
    lr: float = 1e-3,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    metadata: dict | None = None,
) -> tuple[SparseAutoencoder, pd.DataFrame]:
    """A top-k SAE (Gao et al. 2024) of `width` latents, `k` of them active, by Adam on the unexplained variance.

    Activations are centred and scaled to unit variance for training, and the scale is folded into the weights at the
    end: the SAE returned reads and writes the residual stream as it is, and its decoder rows have norm 1. The encoder
    product runs in `dtype`; parameters, loss and optimiser state stay in float32.

    History, a row every fiftieth of the run and at its end: step, fvu (training batch), validation_fvu, l0 and dead,
    the share of latents that fired on none of the tokens since the last row.
    """
    generator = torch.Generator().manual_seed(seed)
    mean = train.mean(0)
    scale = 1 / (train - mean).pow(2).mean().sqrt()
    scaled = (train - mean) * scale
    W_dec = nn.Parameter(normalize(torch.randn(width, train.shape[1], generator=generator), dim=1))
    W_enc = nn.Parameter(W_dec.detach().clone())
    b_enc, b_dec = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(train.shape[1]))
    optimiser = torch.optim.Adam([W_enc, W_dec, b_enc, b_dec], lr=lr, betas=(0.9, 0.999), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1.0, (step + 1) / 50, 0.05 + (steps - step) / (0.2 * steps))
    )
    variance = scaled.pow(2).sum(1).mean()
    rows, fired, every = [], torch.zeros(width, dtype=torch.bool), max(1, steps // 50)
    for step in progress(range(steps), "SAE"):
        x = scaled[torch.randint(len(scaled), (batch,), generator=generator)]
        values, indices = TopKEncode.apply(x - b_dec.detach(), W_enc, b_enc, k, dtype)
        x_hat = SparseDecode.apply(values, indices, W_dec) + b_dec
        loss = (x - x_hat).pow(2).sum(1).mean() / variance
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            W_dec.copy_(normalize(W_dec, dim=1))
        fired[indices[values > 0]] = True
        if (step + 1) % every == 0 or step + 1 == steps:
            check_finite(loss, f"SAE training, step {step + 1}")
            sae = _unscaled(W_enc, b_enc, W_dec, b_dec, k, mean, scale, metadata)
            held_out = float("nan") if validation is None else unexplained(sae, validation)
            l0, dead = (values > 0).sum(1).float().mean().item(), 1 - fired.float().mean().item()
            rows.append((step + 1, loss.item(), held_out, l0, dead))
            fired[:] = False
    return sae, pd.DataFrame(rows, columns=["step", "fvu", "validation_fvu", "l0", "dead"])


@torch.no_grad()
def _unscaled(
    W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, b_dec: Tensor, k: int, mean: Tensor, scale: Tensor, metadata: dict | None
) -> SparseAutoencoder:
    """The SAE for activations as they are, from one for (x - mean) * scale: z and b_enc shrink by the scale."""
    return SparseAutoencoder(
        W_enc.T.contiguous().clone(),
        b_enc / scale,
        W_dec.detach().clone(),
        b_dec / scale + mean,
        k=k,
        metadata=metadata,
    ).requires_grad_(False)


@torch.no_grad()
def unexplained(sae: SparseAutoencoder, x: Float[Tensor, "token d"], batch: int = 4096) -> float:
    """Fraction of variance unexplained (FVU) of all activations together."""
    x_hat = torch.cat([sae(part) for part in x.split(batch)])
    return reconstruction(x, x_hat).item()


def latent_unit(answers: AnswerPath, sae: SparseAutoencoder | None) -> float:
    """The scale on which an offset moves: the mean active latent, or without an SAE the residual's RMS entry."""
    if sae is None:
        return answers.residual.sub(answers.residual.mean(0)).pow(2).mean().sqrt().item()
    values = sae.encode_sparse(answers.residual.to(sae.W_dec.device)).values
    if not (values > 0).any():
        raise ValueError("no latent of the SAE fires at the last token of any prompt; was it trained on this layer?")
    return values[values > 0].mean().item()


def fit_delta(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    survey: Survey,
    *,
    train: Positions | None = None,
    validation: Positions | None = None,
    stages: Sequence[str] = ("shared", "deviation"),
    **settings: float | int,
) -> tuple[GroupDelta, pd.DataFrame]:
    """Fit Delta_shared and then the groups' deviations to the survey's answers, with the SAE frozen.

    Minimises KL(h_g || p_g) + l1 (|Delta_shared|_1 + mean_g |D_g|_1) / unit over the training questions (all if not
    given), with `unit` the mean active latent. `stages`: the shared part is fitted first, alone; then both. Each stage
    keeps the epoch with the lowest KL on the validation questions and stops after `patience` epochs without a lower
    one. `settings` go to `fit_offset`. History: a row per stage and epoch.
    """
    delta = GroupDelta(survey.groups, sae.width).to(answers.lm.device)
    return delta, _fit_stages(answers, delta, sae, survey, train, validation, stages, settings)


def fit_dense(
    answers: AnswerPath,
    survey: Survey,
    *,
    train: Positions | None = None,
    validation: Positions | None = None,
    **settings: float | int,
) -> tuple[DenseOffset, pd.DataFrame]:
    """The same fit for an offset straight in the residual stream: no SAE, no rectifier, no L1 term."""
    offset = DenseOffset(survey.groups, answers.lm.width).to(answers.lm.device)
    settings = {**settings, "l1_weight": 0.0}
    return offset, _fit_stages(answers, offset, None, survey, train, validation, ("shared", "deviation"), settings)


def _fit_stages(
    answers: AnswerPath,
    offset: Offset,
    sae: SparseAutoencoder | None,
    survey: Survey,
    train: Positions | None,
    validation: Positions | None,
    stages: Sequence[str],
    settings: dict[str, float | int],
) -> pd.DataFrame:
    if answers.questions != survey.questions:
        raise ValueError(f"the answers are to other questions than those of the survey {survey.name}")
    shares = torch.from_numpy(survey.shares).float()
    train = range(len(survey.questions)) if train is None else train
    histories = []
    for stage in stages:
        only = stage == "shared"
        history = fit_offset(answers, offset, sae, shares, train, validation, shared_only=only, **settings)
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
    epochs: int = 30,
    batch: int = 16,
    lr: float = 0.05,
    l1_weight: float = 0.0,
    patience: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """Train `offset` in place by Adam with a proximal step for the L1 term, so that zeros are exact.

    Keeps the epoch with the lowest KL on the validation questions (on the training questions if none are given); epoch
    0 is the start, so that no fit ends worse than it began. Stops after `patience` epochs without a lower one since the
    first. Questions that no group answered are passed over. History: a row per epoch. Raises ValueError if no question
    is left, FloatingPointError for a loss that is not finite.
    """
    train = torch.as_tensor(list(train))
    train = train[~shares.isnan().any(-1).all(0)[train]]
    if not len(train):
        raise ValueError("none of the training questions was answered by any of the groups")
    judged = train if validation is None else torch.as_tensor(list(validation))
    unit = latent_unit(answers, sae)
    parts = [offset.shared] if shared_only else [offset.shared, offset.deviation]
    steering = SharedOnly(offset) if shared_only else offset
    optimiser = torch.optim.Adam(parts, lr=lr * unit)
    generator = torch.Generator().manual_seed(seed)
    scores, rows = [], []
    for epoch in progress(range(epochs + 1), "shared" if shared_only else "deviation"):
        train_kl = np.nan
        if epoch:
            chunks = train[torch.randperm(len(train), generator=generator)].split(batch)
            train_kl = _pass(answers, offset, steering, sae, shares, chunks, optimiser, l1_weight / unit, epoch)
        kl = mean_kl(shares[:, judged], answers.predict(sae, steering, judged)).item()
        rows.append(_row(epoch, train_kl, np.nan if validation is None else kl, offset, l1_weight / unit))
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
    offset: Offset,
    steering: Steering,
    sae: SparseAutoencoder | None,
    shares: Float[Tensor, "group question option"],
    chunks: Sequence[Tensor],
    optimiser: torch.optim.Adam,
    weight: float,
    epoch: int,
) -> float:
    """One step per chunk of questions; the mean KL on the way, in nats. `weight` is that of |Delta|_1."""
    total = 0.0
    for chunk in chunks:
        log_probs = answers.log_probs(sae, steering, chunk)
        loss = mean_kl(shares[:, chunk].to(log_probs.device), log_probs)
        check_finite(loss, f"fitting the offset, epoch {epoch}, questions {chunk.tolist()}")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        proximal_step(optimiser, offset, weight)
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
def proximal_step(optimiser: torch.optim.Adam, offset: Offset, weight: float) -> None:
    """Soft-threshold each parameter of the L1 term by Adam's own step size for it: lr * weight / (sqrt(v) + eps).

    Taken in Adam's metric it keeps the stated objective: an entry rests at zero just when its gradient is below the
    weight.
    """
    for group in optimiser.param_groups:
        for part in group["params"]:
            state, share = optimiser.state[part], 1 / len(part) if part is offset.deviation else 1.0
            corrected = state["exp_avg_sq"] / (1 - group["betas"][1] ** float(state["step"]))
            part.copy_(soft_threshold(part, group["lr"] * weight * share / (corrected.sqrt() + group["eps"])))
