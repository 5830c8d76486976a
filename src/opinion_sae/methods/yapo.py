r"""A sparse vector per group in the SAE's latents, trained through the model (YaPO, 2026), here for the groups' KL.

    x_g = x + decode(max(z + v_g, 0)) - decode(z),   v_g from 0, no shared part, no L1 term

The published loss compares a preferred with a rejected answer, under v and -v. A survey has no such pairs but shares,
so the loss here is KL(h_g || p_g), under v alone: all other things are as published.
"""

from __future__ import annotations

import torch

from opinion_sae.delta.held_out import Split
from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.methods.contract import Bench, Outcome, steered, trained


def yapo(bench: Bench) -> Outcome:
    """One vector per group, all entries free."""
    survey, sae = bench.survey, bench.sae
    everywhere = torch.ones(len(survey.groups), sae.width, dtype=torch.bool)

    def fit(split: Split) -> GroupDelta:
        return trained(bench, split, GroupDelta(survey.groups, sae), everywhere)

    return steered(bench, fit, len(survey.groups) * sae.width)
