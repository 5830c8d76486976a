r"""Three tiers of steering a latent: always, where the prompt fires it, where the token does (Goyal et al. 2025).

    x_g = x + s sum_j m_j (zbar_gj - zbar_j) W_dec,j      zbar: mean latents under the group's persona, and under all

    tier-constant  m_j = 1
    tier-prompt    m_j = 1 where latent j fires on any token of the question
    tier-token     m_j = 1 where it fires on the very token that is steered

Published for detoxification, with latents that tell toxic from other text; here they tell a group's persona from the
others', the few with the largest differences. How many, and the strength s, are chosen on validation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from opinion_sae.delta.held_out import Split
from opinion_sae.methods.contract import STRENGTHS, Bench, Outcome, Scaled, best_of, steered
from opinion_sae.sae.autoencoder import SparseAutoencoder

COUNTS = (1, 16)  # latents of a group
TIERS = ("constant", "prompt", "token")


class Tiered:
    """Amounts of latents, added when their tier says so. Without a prompt to read, `steer`'s items are taken for the
    tokens of one text, and a latent counts from where it first fires."""

    def __init__(self, groups: Sequence[str], sae: SparseAutoencoder, amounts: Float[Tensor, "group m"], tier: str):
        self.groups, self.sae, self.amounts, self.tier = tuple(groups), sae, amounts, tier
        self.reads = "question" if tier == "prompt" else None

    @torch.no_grad()
    def steer(self, x: Float[Tensor, "item d"], read: Float[Tensor, "item m"] | None = None) -> Tensor:
        used = self.amounts.abs().amax(0).nonzero()[:, 0]
        amounts, rows = self.amounts[:, used], self.sae.W_dec[used]
        if self.tier == "constant":
            return x[:, None] + amounts @ rows
        fires = (self.sae.encode(x) > 0) if read is None else read != 0
        fires = fires[:, used].float()
        if self.tier == "prompt" and read is None:
            fires = fires.cummax(0).values
        return x[:, None] + (fires[:, None] * amounts) @ rows


def tiered(tier: str) -> Callable[[Bench], Outcome]:
    """The method of one tier. ValueError for another."""
    if tier not in TIERS:
        raise ValueError(f"tier {tier!r} is not one of {', '.join(TIERS)}")

    def method(bench: Bench) -> Outcome:
        groups, sae = bench.survey.groups, bench.sae

        def fit(split: Split) -> Scaled:
            with torch.no_grad():
                z = sae.encode(bench.personas_of(split).flatten(0, 1)).unflatten(0, (len(groups), -1)).mean(1)
            difference = z - z.mean(0)
            kinds = [Tiered(groups, sae, most(difference, count), tier) for count in COUNTS]
            return best_of(bench, split, [Scaled(one, s) for one in kinds for s in STRENGTHS])

        return steered(bench, fit, len(groups) * max(COUNTS))

    return method


def most(difference: Float[Tensor, "group m"], count: int) -> Float[Tensor, "group m"]:
    """Each group's `count` largest differences in either direction, 0 elsewhere."""
    kept = difference.abs().topk(min(count, difference.shape[1]), dim=1).indices
    return torch.zeros_like(difference).scatter(1, kept, difference.gather(1, kept))
