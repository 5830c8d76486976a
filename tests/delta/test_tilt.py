"""Tilted losses in fits: over questions and groups, and over the tokens that an SAE is trained on."""

import pytest
import torch

from opinion_sae.delta.fit import fit_offset
from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.losses import kl, tilted, tilted_kl
from opinion_sae.model.answers import AnswerPath
from opinion_sae.sae.train import train_sae, untrained_sae


def test_tilting_over_questions_by_hand():
    log_probs = torch.tensor([[[0.5, 0.5], [0.25, 0.75]]]).log()
    shares = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [float("nan")] * 2]])
    by_question = torch.tensor([0.5, 0.25]).log().neg()  # the first has two answers, both log 2
    for t in (1e-9, 2.0, 1e9):
        expected = tilted(by_question, t).item()
        assert tilted_kl(shares, log_probs, t, "questions").item() == pytest.approx(expected, rel=1e-5)
    assert tilted_kl(shares, log_probs, 1e9, "questions").item() == pytest.approx(by_question[1].item())
    assert tilted_kl(shares, log_probs, 1e-9, "questions").item() == pytest.approx(by_question.mean().item(), rel=1e-4)


@pytest.mark.parametrize("over", ["groups", "questions"])
def test_a_fit_with_a_large_tilt_lowers_the_worst_loss_most(over, lm, tiny, two_groups):
    answers = AnswerPath(lm, tiny.questions, hook_layer=2)
    sae = untrained_sae(answers.residual, 64, 8, 0).requires_grad_(False)
    shares, axis = torch.from_numpy(two_groups.shares).float(), {"groups": 1, "questions": 0}[over]
    worst = {}
    for t in (0.0, 1e9):
        delta = GroupDelta(two_groups.groups, 64)
        fit_offset(
            answers, delta, sae, shares, range(3), epochs=30, batch=3, lr=0.05, tilt=t, tilt_over=over, patience=30
        )
        worst[t] = kl(shares, answers.predict(sae, delta)).nanmean(axis).max().item()
    assert worst[1e9] < worst[0.0]


@pytest.fixture(scope="module")
def mixed():
    """Three hundred tokens in one plane, and three elsewhere: more than one latent can serve."""
    generator = torch.Generator().manual_seed(0)
    common = torch.zeros(300, 6)
    common[:, :2] = torch.rand(300, 2, generator=generator) + 1
    rare = torch.zeros(3, 6)
    rare[:, 5] = 2.0
    return torch.cat([common, rare])


def worst_token(sae, x):
    return (x - sae(x)).pow(2).sum(1).max().item()


def test_tilting_over_tokens_serves_the_worst_one(mixed):
    options = {"width": 1, "k": 1, "steps": 300, "batch": 303, "lr": 1e-2}
    plain, level, steep = (train_sae(mixed, tilt=t, **options)[0] for t in (0.0, 1e-9, 1e9))
    assert worst_token(steep, mixed) < 0.8 * worst_token(plain, mixed)
    assert worst_token(level, mixed) == pytest.approx(worst_token(plain, mixed), rel=0.05)  # towards the mean
    assert all(part.isfinite().all() for part in steep.parameters())
