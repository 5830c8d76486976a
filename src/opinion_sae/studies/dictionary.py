"""What a dictionary of latents is like: which tokens it has latents for, where it errs, and whose rows it keeps."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from opinion_sae.sae.autoencoder import SparseAutoencoder

FREQUENCIES = (0, 1, 4, 16, 64, 256, 1024)  # a token's bin begins at so many times in the pool
RANKS = (1, 11, 101, 1001)  # a token's bin begins at this rank by frequency in the pool
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


class Firing(NamedTuple):
    """Where latents fire on some tokens, one entry per token and latent that fires on it; and each token's error
    |x - x_hat|^2, in the squared units of the stream."""

    token: Int[Tensor, "entry"]
    latent: Int[Tensor, "entry"]
    value: Float[Tensor, "entry"]
    error: Float[Tensor, "place"]


@torch.no_grad()
def firing(sae: SparseAutoencoder, x: Float[Tensor, "place d"], ids: Int[Tensor, "place"], batch: int = 2048) -> Firing:
    """Of the tokens `ids` at which the stream is x."""
    found = []
    for part, own in zip(x.split(batch), ids.split(batch), strict=True):
        code = sae.encode_sparse(part.float())
        row, place = (code.values > 0).nonzero(as_tuple=True)
        error = (part.float() - sae.decode_sparse(code)).pow(2).sum(1)
        found.append((own[row], code.indices[row, place], code.values[row, place], error))
    return Firing(*(torch.cat(part) for part in zip(*found, strict=True)))


def covered(found: Firing, ids: Int[Tensor, "place"], counts: Int[Tensor, "vocabulary"]) -> Float[Tensor, "bin"]:
    """Of the different tokens among `ids`, the share that some latent has for its own, by their `counts` in the pool
    (`FREQUENCIES`). A latent's own token is that of its strongest firing; NaN for a bin without tokens."""
    order = found.value.argsort(stable=True)
    own = torch.full((int(found.latent.max()) + 1,) if len(found.latent) else (0,), -1, dtype=torch.long)
    own[found.latent[order]] = found.token[order]  # the last to be written is the strongest
    there = torch.zeros(len(counts), dtype=torch.bool)
    there[own[own >= 0]] = True
    kinds = ids.unique()
    bins = torch.bucketize(counts[kinds], torch.tensor(FREQUENCIES[1:]), right=True)
    return _means(there[kinds].float(), bins, len(FREQUENCIES))


def ranks(counts: Int[Tensor, "vocabulary"]) -> Int[Tensor, "vocabulary"]:
    """The rank of each token by its count, from 1; of equals the lower number first."""
    found = torch.empty_like(counts)
    found[counts.argsort(descending=True, stable=True)] = torch.arange(1, len(counts) + 1)
    return found


def error_by_rank(
    found: Firing, x: Float[Tensor, "place d"], ids: Int[Tensor, "place"], rank: Int[Tensor, "vocabulary"]
) -> Float[Tensor, "bin"]:
    """Mean |x - x_hat|^2 over the mean |x - mean(x)|^2 of all, by the tokens' rank (`RANKS`)."""
    spread = x.float().var(0, correction=0).sum()
    bins = torch.bucketize(rank[ids], torch.tensor(RANKS[1:]), right=True)
    return _means(found.error / spread, bins, len(RANKS))


def entropies(found: Firing) -> tuple[Float[Tensor, "live"], Float[Tensor, "live"]]:
    """Of each latent that fires: the entropy in nats of the tokens that its activation is spread over, and its maximum.

    H_j = -sum_t p_jt log p_jt, p_jt the share of latent j's activation, summed, that falls on token t.
    """
    width = int(found.token.max()) + 1
    pairs, which = (found.latent * width + found.token).unique(return_inverse=True)
    mass = torch.zeros(len(pairs), dtype=torch.double).index_add_(0, which, found.value.double())
    latents, of = (pairs // width).unique(return_inverse=True)
    total = torch.zeros(len(latents), dtype=torch.double).index_add_(0, of, mass)
    share = mass / total[of]
    entropy = torch.zeros(len(latents), dtype=torch.double).index_add_(0, of, -share * share.log())
    most = torch.zeros(int(found.latent.max()) + 1).scatter_reduce(0, found.latent, found.value, "amax")
    return entropy.float(), most[latents]


def nearest_rows(
    W_dec: Float[Tensor, "some d"], other: Float[Tensor, "m d"], batch: int = 1024
) -> Float[Tensor, "some"]:
    """The largest cosine of each row with a row of another dictionary."""
    other = normalize(other, dim=1)
    return torch.cat([(normalize(part, dim=1) @ other.T).amax(1) for part in W_dec.split(batch)])


def plane(
    rows: Float[Tensor, "row d"], of: Float[Tensor, "other d"]
) -> tuple[Float[Tensor, "row axis"], Float[Tensor, "axis"]]:
    """The rows' places along the first two principal axes of `of`, and the share of its variance along each."""
    centred = of - of.mean(0)
    _, size, axes = torch.linalg.svd(centred, full_matrices=False)
    sign = torch.sign(axes[:2].gather(1, axes[:2].abs().argmax(1, keepdim=True)))  # an axis has no direction of its own
    return (rows - of.mean(0)) @ (sign * axes[:2]).T, size[:2].square() / size.square().sum()


def quantiles(values: Float[Tensor, "any"]) -> Float[Tensor, "quantile"]:
    """At `QUANTILES`; NaN where there are no values."""
    if not len(values):
        return torch.full((len(QUANTILES),), torch.nan)
    return torch.quantile(values.float(), torch.tensor(QUANTILES))


def _means(values: Float[Tensor, "any"], bins: Int[Tensor, "any"], count: int) -> Float[Tensor, "bin"]:
    total = torch.zeros(count).index_add_(0, bins, values.float())
    return total / torch.bincount(bins, minlength=count)
