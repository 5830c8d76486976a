r"""SAE-SSV: a vector in the few latents by which a linear probe tells the group (He et al. 2025).

    probe: w_g = argmin sum_i (w . z_i + b - [i is g])^2 + ridge |w|^2  over persona prompts i of the attribute's groups
    x_g = x + decode(max(z + v_g, 0)) - decode(z),   v_gj = 0 unless |w_gj| is among the largest

v starts at the difference of the two sides' mean latents in that subspace and is trained on. The published loss is a
language model's on texts of the wanted kind, with a pull towards the class' mean; here it is KL(h_g || p_g), and the
pull is the start. The probe sees the stream under personas (`personas.py`): survey answers say nothing of who answers.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from opinion_sae.delta.held_out import Split
from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.methods.contract import STRENGTHS, Bench, Outcome, best_of, steered, trained
from opinion_sae.survey import Survey

LATENTS = 64
RIDGE = 0.1  # in units of the mean |z - mean z|^2


def sae_ssv(bench: Bench) -> Outcome:
    """Subspaces of `LATENTS` latents, the strength of the start chosen on validation."""
    survey, sae, count = bench.survey, bench.sae, min(LATENTS, bench.sae.width)

    def fit(split: Split) -> GroupDelta:
        with torch.no_grad():
            z = sae.encode(bench.personas_of(split).flatten(0, 1)).unflatten(0, (len(survey.groups), -1))
        weights, difference = probes(survey, z)
        chosen = largest(weights, count)
        begin = [GroupDelta(survey.groups, sae).with_parts(deviation=s * difference * chosen) for s in STRENGTHS]
        return trained(bench, split, best_of(bench, split, begin), chosen)

    return steered(bench, fit, len(survey.groups) * count)


def probes(
    survey: Survey, z: Float[Tensor, "group asked m"]
) -> tuple[Float[Tensor, "group m"], Float[Tensor, "group m"]]:
    """Each group's probe against its attribute's other groups, and the difference of the mean latents; 0 for a group
    without others."""
    weights, difference = torch.zeros(len(z), z.shape[2]), torch.zeros(len(z), z.shape[2])
    for group, attribute in enumerate(survey.attributes):
        others = [g for g, a in enumerate(survey.attributes) if a == attribute and g != group]
        if not others:
            continue
        own, rest = z[group], z[others].flatten(0, 1)
        x = torch.cat([own, rest])
        x = x - x.mean(0)
        wanted = torch.cat([torch.ones(len(own)), torch.zeros(len(rest))])
        kernel = x @ x.T
        level = RIDGE * kernel.diagonal().mean().clamp_min(1e-12)
        weights[group] = x.T @ torch.linalg.solve(kernel + level * torch.eye(len(x)), wanted - wanted.mean())
        difference[group] = own.mean(0) - rest.mean(0)
    return weights, difference


def largest(weights: Float[Tensor, "group m"], count: int) -> Bool[Tensor, "group m"]:
    """Each group's latents of the largest |w|, without those of none."""
    size = weights.abs()
    return torch.zeros_like(size, dtype=torch.bool).scatter(1, size.topk(count, dim=1).indices, True) & (size > 0)
