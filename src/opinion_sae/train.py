"""Train a sparse autoencoder on activations."""

from __future__ import annotations

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from opinion_sae.losses import reconstruction, tilted
from opinion_sae.progress import progress
from opinion_sae.sae import SparseAutoencoder
from opinion_sae.topk import SparseDecode, TopKEncode


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
    tilt: float = 0.0,
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
        loss = tilted((x - x_hat).pow(2).sum(1) / variance, tilt)
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
    W_enc: Tensor,
    b_enc: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
    k: int,
    mean: Tensor,
    scale: Tensor,
    metadata: dict | None,
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


def untrained_sae(
    x: Float[Tensor, "token d"], width: int, k: int, seed: int, metadata: dict | None = None
) -> SparseAutoencoder:
    """A top-k SAE before any step: random decoder rows of norm 1, the encoder their transpose, b_dec the mean of x."""
    W_dec = normalize(torch.randn(width, x.shape[1], generator=torch.Generator().manual_seed(seed)), dim=1)
    return SparseAutoencoder(W_dec.T.clone(), torch.zeros(width), W_dec, x.mean(0), k=k, metadata=metadata)
