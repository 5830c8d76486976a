r"""`delta-purified`: of each group's own part, what no other attribute has (after Personality as a Probe, 2025).

    v_g = D_g W_dec,   v_g' = v_g - P v_g,   P the projection on the span of v_k of all groups k of other attributes

Party without race, and race without party: x_g = x + (Delta_g's change of x) - P v_g. Nothing is fitted anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from opinion_sae.delta.held_out import Split
from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.methods.contract import Bench, Outcome, steered
from opinion_sae.methods.suite import two_stages


class Purified:
    """An offset less what its groups share with those of other attributes."""

    reads = None

    def __init__(self, delta: GroupDelta, removed: Float[Tensor, "group d"]):
        self.delta, self.removed, self.groups = delta, removed, delta.groups

    def steer(self, x: Float[Tensor, "item d"], read: Tensor | None = None) -> Float[Tensor, "item group d"]:
        return self.delta.steer(x) - self.removed


def purified(bench: Bench) -> Outcome:
    """From the offsets of `delta`, fitted first if the bench does not know them."""
    deltas: Sequence[Any] | None = bench.known.get("delta")
    if deltas is None:
        deltas = two_stages(bench.answers, bench.sae, bench.survey, bench.splits, bench.settings)["delta"].offsets
    of_split = {split.name: delta for split, delta in zip(bench.splits, deltas, strict=True)}

    def fit(split: Split) -> Purified:
        delta = of_split[split.name]
        vectors = (delta.deviation @ bench.sae.W_dec).detach()
        return Purified(delta, shared_with_others(vectors, bench.survey.attributes))

    return steered(bench, fit, len(bench.survey.groups) * bench.sae.width)


def remaining(vectors: Float[Tensor, "group d"], attributes: Sequence[str]) -> dict[str, float]:
    """'party without race', and so on for each two attributes: the share of sum_g |v_g|^2 of the one's groups that is
    left outside the span of the other's; nothing for an attribute whose vectors are all 0."""
    found, names = {}, list(dict.fromkeys(attributes))
    of = {name: vectors[[g for g, a in enumerate(attributes) if a == name]] for name in names}
    for one in (name for name in names if of[name].any()):
        for other in (name for name in names if name != one):
            left = of[one] - _within(of[one], of[other])
            found[f"{one} without {other}"] = float(left.square().sum() / of[one].square().sum())
    return found


def _within(rows: Float[Tensor, "row d"], span: Float[Tensor, "other d"]) -> Float[Tensor, "row d"]:
    """The rows' projections; directions that rounding alone gives do not count."""
    if not span.any():
        return torch.zeros_like(rows)
    _, size, along = torch.linalg.svd(span, full_matrices=False)
    basis = along[size > 1e-5 * size[0]]
    return rows @ basis.T @ basis


def shared_with_others(vectors: Float[Tensor, "group d"], attributes: Sequence[str]) -> Float[Tensor, "group d"]:
    """P v_g of every group."""
    found = torch.zeros_like(vectors)
    for group, attribute in enumerate(attributes):
        others = vectors[[g for g, a in enumerate(attributes) if a != attribute]]
        found[group] = _within(vectors[group : group + 1], others)[0]
    return found
