"""Train a sparse autoencoder on activations."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from opinion_sae.losses import reconstruction, tilted
from opinion_sae.progress import progress
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.sae.topk import SparseDecode, TopKEncode, batch_top_k, top_k


def check_finite(loss: Tensor, where: str) -> None:
    if not torch.isfinite(loss):
        raise FloatingPointError(f"{where}: the loss is {loss.item()}; try a lower learning rate")


class SparseStep(NamedTuple):
    """What a training step found before it changed the weights."""

    loss: Float[Tensor, ""]
    values: Float[Tensor, "batch active"]
    indices: Int[Tensor, "batch active"]


class TopKTraining:
    """A top-k SAE in training (Gao et al. 2024): its weights, and steps of Adam on sum |x - x_hat|^2 / variance.

    Latents are the k largest of W_enc (x - b_dec) + b_enc, x_hat = W_dec z + b_dec; b_dec is trained as the decoder's
    bias alone. The encoder starts as the decoder's transpose, and decoder rows keep norm 1. With `batch_topk` the
    k * batch largest latents of a batch are active instead of k a row. `clip` bounds the norm of all gradients
    together, as other trainers do. With `tilt` t the loss of a batch is (1/t) log mean exp(t l) over its tokens' losses
    l, their mean at 0 and the largest as t grows. `dtype` is that of the encoder product; the rest stays in float32.
    """

    def __init__(
        self,
        W_dec: Float[Tensor, "m d"],
        k: int,
        *,
        lr: float,
        variance: float = 1.0,
        dtype: torch.dtype = torch.float32,
        batch_topk: bool = False,
        clip: float | None = None,
        tilt: float = 0.0,
    ):
        width, d = W_dec.shape
        self.W_dec, self.W_enc = nn.Parameter(W_dec.clone()), nn.Parameter(W_dec.clone())
        self.b_enc, self.b_dec = (nn.Parameter(torch.zeros(n, device=W_dec.device)) for n in (width, d))
        parameters = [self.W_enc, self.W_dec, self.b_enc, self.b_dec]
        self.optimiser = torch.optim.Adam(parameters, lr=lr, betas=(0.9, 0.999), fused=True)
        self.k, self.variance, self.dtype, self.clip, self.tilt = k, variance, dtype, clip, tilt
        self.select = batch_top_k if batch_topk else top_k
        self.product = torch.empty(0, dtype=dtype, device=W_dec.device)  # takes the size of the first batch

    def step(self, x: Float[Tensor, "batch d"]) -> SparseStep:
        """One step on a batch."""
        values, indices = self.encode(x - self.b_dec.detach())
        loss = self.loss(x, values, indices)
        self.optimiser.zero_grad()
        loss.backward()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.optimiser.param_groups[0]["params"], self.clip)
        self.optimiser.step()
        with torch.no_grad():
            self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True).clamp_min(1e-12))
        return SparseStep(loss.detach(), values.detach(), indices)

    def encode(self, centred: Float[Tensor, "batch d"]) -> tuple[Tensor, Tensor]:
        """Values and indices of the active latents."""
        place = self.place(len(centred))
        return TopKEncode.apply(centred, self.W_enc, self.b_enc, self.k, self.dtype, self.select, place)

    def place(self, rows: int) -> Float[Tensor, "rows m"]:
        """Where the encoder's product for so many tokens goes: the same memory in every step."""
        if len(self.product) != rows:
            self.product = self.product.new_empty(rows, len(self.W_enc))
        return self.product

    def loss(
        self, x: Float[Tensor, "batch d"], values: Float[Tensor, "batch active"], indices: Int[Tensor, "batch active"]
    ) -> Float[Tensor, ""]:
        """sum |x - x_hat|^2 / variance of each token, averaged over the batch or tilted towards its largest."""
        return self.error(x, SparseDecode.apply(values, indices, self.W_dec) + self.b_dec)

    def error(self, x: Float[Tensor, "batch d"], x_hat: Float[Tensor, "batch d"]) -> Float[Tensor, ""]:
        return tilted((x - x_hat).pow(2).sum(1) / self.variance, self.tilt)


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

    History, a row every 25th of the run and at its end: step, fvu (training batch), validation_fvu, l0 and dead, the
    share of latents that fired on none of the tokens since the last row.
    """
    generator = torch.Generator().manual_seed(seed)
    mean = train.mean(0)
    scale = 1 / train.var(0, correction=0).mean().sqrt()
    W_dec = normalize(torch.randn(width, train.shape[1], generator=generator), dim=1)
    training = TopKTraining(W_dec, k, lr=lr, variance=float(train.shape[1]), dtype=dtype)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        training.optimiser, lambda step: min(1.0, (step + 1) / 50, 0.05 + (steps - step) / (0.2 * steps))
    )
    rows, fired, every = [], torch.zeros(width, dtype=torch.bool), max(1, steps // 25)
    for step in progress(range(steps), "SAE"):
        # a batch at a time, as a scaled copy of everything would be the largest tensor by far
        x = (train[torch.randint(len(train), (batch,), generator=generator)] - mean) * scale
        loss, values, indices = training.step(x)
        schedule.step()
        fired[indices[values > 0]] = True
        if (step + 1) % every == 0 or step + 1 == steps:
            check_finite(loss, f"SAE training, step {step + 1}")
            sae = unscaled(training, mean, scale, metadata)
            held_out = float("nan") if validation is None else unexplained(sae, validation)
            l0, dead = (values > 0).sum(1).float().mean().item(), 1 - fired.float().mean().item()
            rows.append((step + 1, loss.item(), held_out, l0, dead))
            fired[:] = False
    return sae, pd.DataFrame(rows, columns=["step", "fvu", "validation_fvu", "l0", "dead"])


@torch.no_grad()
def unscaled(training: TopKTraining, mean: Tensor, scale: Tensor, metadata: dict | None) -> SparseAutoencoder:
    """The SAE for activations as they are, from one for (x - mean) * scale: z and b_enc shrink by the scale."""
    return SparseAutoencoder(
        training.W_enc.T.contiguous().clone(),
        training.b_enc / scale,
        training.W_dec.detach().clone(),
        training.b_dec / scale + mean,
        k=training.k,
        metadata=metadata,
    ).requires_grad_(False)


@torch.no_grad()
def unexplained(sae: SparseAutoencoder, x: Float[Tensor, "token d"], batch: int = 4096) -> float:
    """Fraction of variance unexplained (FVU) of all activations together."""
    x_hat = torch.cat([sae(part) for part in x.split(batch)])
    return reconstruction(x, x_hat).item()


def untrained_sae(
    x: Float[Tensor, "token d"], width: int, k: int, seed: int, metadata: dict | None = None
) -> SparseAutoencoder:
    """A top-k SAE before any step: random decoder rows of norm 1, the encoder their transpose, b_dec the mean of x."""
    W_dec = normalize(torch.randn(width, x.shape[1], generator=torch.Generator().manual_seed(seed)), dim=1)
    return SparseAutoencoder(W_dec.T.clone(), torch.zeros(width), W_dec, x.mean(0), k=k, metadata=metadata)
