r"""CAST: a vector that is added only where a condition holds of the stream (Lee et al. 2025).

    x_g = x + f(sim(x, proj_c x)) s v_g,   sim(x, proj_c x) = |c . x| / (|c| |x|),   f = 1 above (or below) theta_g

Behaviour vector v_g: the difference of persona means (`controls.diff_means`). Condition vector c_g: the first principal
component of x over the training questions on which v_g helps and those on which it does not, about the mean of the two
sides' means; theta and its side by a grid search for the highest F1 on them, as published. The strength s, one for all
groups, is chosen on validation. What helps is what lowers KL(h_g || p_g) at strength 1. Departures: the published c is
the first principal component of the centred stream on prompts that meet the condition and prompts that do not, named
beforehand, and not on questions told apart by answers; its similarity is sim(x, tanh(proj_c x)), tanh by coordinate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from opinion_sae.delta.held_out import Split
from opinion_sae.delta.offsets import DenseOffset
from opinion_sae.methods.contract import STRENGTHS, Bench, Outcome, Scaled, best_of, steered
from opinion_sae.score.gaps import cell_kl

GRID = 32  # quantiles of the similarity that are tried as theta


class Condition(NamedTuple):
    """When each group's vector is added."""

    c: Float[Tensor, "group d"]
    theta: Float[Tensor, "group"]
    above: Bool[Tensor, "group"]

    def holds(self, x: Float[Tensor, "item d"]) -> Bool[Tensor, "item group"]:
        return (similarity(x, self.c) > self.theta) == self.above


class Conditional:
    """v_g where its condition holds, and nothing elsewhere."""

    reads = None

    def __init__(self, groups: Sequence[str], v: Float[Tensor, "group d"], condition: Condition):
        self.groups, self.v, self.condition = tuple(groups), v, condition

    def steer(self, x: Float[Tensor, "item d"], read: Tensor | None = None) -> Float[Tensor, "item group d"]:
        return x[:, None] + self.condition.holds(x)[..., None] * self.v


def cast(bench: Bench) -> Outcome:
    """Directions from personas; conditions, and one strength, from the answers."""
    answers, survey = bench.answers, bench.survey
    x = answers.residual.unflatten(0, (-1, answers.orders)).mean(1)
    plain = cell_kl(survey, answers.predict().numpy())

    def fit(split: Split) -> Scaled:
        means = bench.personas_of(split).mean(1)
        v = means - means.mean(0)
        always = DenseOffset(survey.groups, v.shape[1]).with_parts(deviation=v)
        train = torch.from_numpy(split.train)
        some = survey.select(questions=split.train.tolist())
        moved = cell_kl(some, answers.predict(always, train).numpy()[..., : some.counts.shape[-1]])
        condition = conditions(x[train], torch.from_numpy(moved - plain[:, split.train]).float())
        steering = Conditional(survey.groups, v, condition)
        return best_of(bench, split, [Scaled(steering, s) for s in STRENGTHS])

    return steered(bench, fit, len(survey.groups) * 2 * (x.shape[1] + 1))


def similarity(x: Float[Tensor, "item d"], c: Float[Tensor, "group d"]) -> Float[Tensor, "item group"]:
    """cos(x, proj_c x)."""
    return (x @ c.T).abs() / (x.norm(dim=1)[:, None] * c.norm(dim=1)).clamp_min(1e-12)


def conditions(x: Float[Tensor, "item d"], change: Float[Tensor, "group item"]) -> Condition:
    """Each group's condition from the items on which its vector changes KL by so much; NaN: no answer. A group whose
    vector helps on all of them, or on none, has the first component of all, and the grid settles the rest."""
    c, theta, above = [], [], []
    for row in change:
        there = ~row.isnan()
        some, helped = x[there], row[there] < 0
        sides = [some[side].mean(0) for side in (helped, ~helped) if side.any()]
        centre = torch.stack(sides).mean(0)
        c.append(torch.linalg.svd(some - centre, full_matrices=False).Vh[0])
        sim = similarity(some, c[-1][None])[:, 0]
        tried = torch.quantile(sim, torch.linspace(0, 1, GRID + 1)) - 1e-7
        scores = [(f1((sim > t) == side, helped), -i, side) for i, t in enumerate(tried) for side in (True, False)]
        _, place, side = max(scores)
        theta.append(tried[-place])
        above.append(side)
    return Condition(torch.stack(c), torch.stack(theta), torch.tensor(above))


def f1(found: Bool[Tensor, "item"], wanted: Bool[Tensor, "item"]) -> float:
    """2 TP / (found + wanted), 0 if there are none of either."""
    return float(2 * (found & wanted).sum() / max(1, int(found.sum() + wanted.sum())))
