"""Losses and activations of other architectures, on the top-k training step: one dense product, the rest sparse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from opinion_sae.sae.topk import SparseDecode, TopKEncode, batch_top_k, top_k
from opinion_sae.sae.train import SparseStep, TopKTraining

Values, Indices = Float[Tensor, "batch active"], Int[Tensor, "batch active"]


class HierarchicalTraining(TopKTraining):
    """HierarchicalTopK (Balagansky et al. 2025): every smaller budget is to reconstruct too.

        L = mean over j in J of |x - x_hat_j|^2,   x_hat_j = b_dec + sum over the j largest latents of z_i W_dec_i

    J are the powers of two up to k, and k.
    """

    def loss(self, x: Float[Tensor, "batch d"], values: Values, indices: Indices) -> Float[Tensor, ""]:
        values, order = values.sort(dim=1, descending=True)
        ends = [2**i for i in range(self.k.bit_length()) if 2**i < self.k] + [self.k]
        masks = [torch.arange(values.shape[1]).expand_as(values) < end for end in ends]
        return nested_loss(self, x, values, indices.gather(1, order), masks)


class MatryoshkaTraining(TopKTraining):
    """Matryoshka SAE over BatchTopK (Bussmann et al. 2025): the first latents are to reconstruct by themselves.

        L = mean over prefixes w of |x - x_hat_w|^2,   x_hat_w = b_dec + sum over latents i < w of z_i W_dec_i

    The prefixes are m/16, m/8, m/4, m/2 and m. Which latents are active is decided for all of them together.
    """

    def loss(self, x: Float[Tensor, "batch d"], values: Values, indices: Indices) -> Float[Tensor, ""]:
        ends = [len(self.W_dec) // part for part in (16, 8, 4, 2, 1)]
        return nested_loss(self, x, values, indices, [indices < end for end in ends])


def nested_loss(
    training: TopKTraining,
    x: Float[Tensor, "batch d"],
    values: Values,
    indices: Indices,
    masks: Sequence[Bool[Tensor, "batch active"]],
) -> Float[Tensor, ""]:
    """Mean error of the reconstructions from what is in each mask; each mask holds the one before."""
    x_hat, before = training.b_dec, torch.zeros_like(masks[0])
    total = torch.zeros(())
    for mask in masks:
        x_hat = x_hat + SparseDecode.apply(values * (mask & ~before), indices, training.W_dec)
        total, before = total + training.error(x, x_hat), mask
    return total / len(masks)


class ThresholdTraining(TopKTraining):
    """Threshold-activated SAE (Hu et al. 2025): z = pre 1[pre >= tau], one tau for all latents.

    tau follows the level that k latents a token pass, a tenth of the way with each batch, so that no term for sparsity
    is needed. The paper's inner product, which whitens the stream, is left to the encoder, which is trained.
    """

    def __init__(self, *given: Any, **settings: Any):
        super().__init__(*given, **settings)
        self.tau: float | None = None
        self.select = self.over

    def over(self, pre: Float[Tensor, "batch m"], k: int) -> tuple[Tensor, Tensor]:
        """Those at tau or above; each row's 4k largest are looked at, and further ones are taken for silent."""
        values, indices = top_k(pre, min(4 * k, pre.shape[1]))
        level = values.flatten().float().topk(k * len(pre)).values[-1].item()
        self.tau = level if self.tau is None else self.tau
        kept = values * (values >= self.tau)
        self.tau += 0.1 * (level - self.tau)
        return kept, indices


class MaskedTraining(TopKTraining):
    """Adaptive temporal masking (Li and Ren 2025): unimportant latents are left out at random.

        I_j = (m_j + f_j + c_j) / 3, each over its mean over latents     theta = mean I + c std I
        p(latent j is masked in a batch) = 1 - exp(-r (theta - I_j) / theta)  where I_j < theta, else 0

    m, f and c are running means of a latent's value, of how often it fires, and of how much the squared error would
    grow without it, over the batches in which it is not masked. Of the rest, k a token are active, as in BatchTopK.
    How the three are put together, the decay of 0.9, c = 0 and r = 0.5 are ours; no latent is masked after training.
    """

    decay, spread, rate = 0.9, 0.0, 0.5

    def __init__(self, W_dec: Float[Tensor, "m d"], *given: Any, seed: int = 0, **settings: Any):
        super().__init__(W_dec, *given, **settings)
        self.select = batch_top_k
        self.means = torch.zeros(3, len(W_dec))
        self.generator = torch.Generator().manual_seed(seed)
        self.masked = torch.zeros(len(W_dec), dtype=torch.bool)

    def encode(self, centred: Float[Tensor, "batch d"]) -> tuple[Tensor, Tensor]:
        self.masked = torch.rand(len(self.W_dec), generator=self.generator) < mask_chance(
            importance(self.means), self.spread, self.rate
        )
        bias = torch.where(self.masked, -torch.inf, self.b_enc)
        return TopKEncode.apply(centred, self.W_enc, bias, self.k, self.dtype, self.select, self.place(len(centred)))

    def step(self, x: Float[Tensor, "batch d"]) -> SparseStep:
        W_dec, b_dec = self.W_dec.detach().clone(), self.b_dec.detach().clone()
        step = super().step(x)
        z, at = step.values, step.indices
        error = x - torch.nn.functional.embedding_bag(at, W_dec, per_sample_weights=z, mode="sum") - b_dec
        without = 2 * z * torch.einsum("bad,bd->ba", W_dec[at], error) + z.square()  # rows of W_dec have norm 1
        seen = torch.stack([z, (z > 0).float(), without * (z > 0)]).flatten(1)
        batch = torch.zeros_like(self.means).index_add_(1, at.flatten(), seen) / len(x)
        self.means = torch.where(self.masked, self.means, torch.lerp(batch, self.means, self.decay))
        return step


def importance(means: Float[Tensor, "3 m"]) -> Float[Tensor, "m"]:
    """I of `MaskedTraining`; a loss that a latent makes larger counts for nothing."""
    means = means.clamp_min(0.0)
    return (means / means.mean(1, keepdim=True).clamp_min(1e-12)).mean(0)


def mask_chance(found: Float[Tensor, "m"], spread: float, rate: float) -> Float[Tensor, "m"]:
    """p of `MaskedTraining` from the importance of all latents; 0 before anything has fired."""
    theta = found.mean() + spread * found.std(correction=0)
    if theta <= 0:
        return torch.zeros_like(found)
    return 1 - torch.exp(-rate * ((theta - found) / theta).clamp_min(0.0))
