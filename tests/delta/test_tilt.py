"""Tilted losses in fits: the worst group's loss is lowered most."""

import torch

from opinion_sae.delta.fit import fit_offset
from opinion_sae.delta.held_out import whole
from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.delta.settings import FitSettings
from opinion_sae.losses import kl
from opinion_sae.model.answers import AnswerPath
from opinion_sae.sae.train import untrained_sae


def test_a_fit_with_a_large_tilt_lowers_the_worst_groups_loss_most(lm, tiny, two_groups):
    answers = AnswerPath(lm, tiny.questions, hook_layer=2)
    sae = untrained_sae(answers.residual, 64, 8, 0).requires_grad_(False)
    shares, worst = torch.from_numpy(two_groups.shares).float(), {}
    for t in (0.0, 1e9):
        delta = GroupDelta(two_groups.groups, sae)
        settings = FitSettings(epochs=30, batch=3, lr=0.05, tilt=t, patience=30)
        fit_offset(answers, two_groups, delta, whole(two_groups), settings)
        worst[t] = kl(shares, answers.predict(delta)).nanmean(1).max().item()
    assert worst[1e9] < worst[0.0]
