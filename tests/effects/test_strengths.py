"""Answers at several strengths, and without one of the latents that are read."""

import pytest
import torch

from opinion_sae.delta.reading import ReadingDelta
from opinion_sae.effects.strengths import STRENGTHS, TAKEN_OUT, at_strengths, reach, without_nth
from opinion_sae.model.answers import AnswerPath


@pytest.fixture(scope="module")
def case(tiny):
    answers = AnswerPath(tiny.lm("llama"), tiny.questions, 2, orders=1)
    offset = ReadingDelta(("Female", "Male"), tiny.sae(), axes=2, directions=1)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for part in (offset.a, offset.b, offset.c, offset.shared):
            part.copy_(torch.randn(part.shape, generator=generator))
    return answers, offset


def test_reach_by_hand(case):
    """One axis, one direction: |c| of 1 and 3 is 2 on average, |b| is 5; what is read stands at r = (0.6, 0.8)."""
    _, offset = case
    part = ReadingDelta(("Female", "Male"), offset.sae, axes=1, directions=1)
    with torch.no_grad():
        part.c.copy_(torch.tensor([[1.0], [-3.0]]))
        part.b[0, 0, :2] = torch.tensor([3.0, -4.0])
        part.a[0, 0, :2] = torch.tensor([-1.0, 0.5])
    part.weigh = lambda read: read
    read = torch.zeros(1, offset.sae.width)
    read[0, :3] = torch.tensor([0.6, 0.8, 9.0])
    assert reach(part, read)[0, :3].tolist() == pytest.approx([2 * 5 * 0.6, 2 * 5 * 0.4, 0.0])


def test_strength_0_is_the_model_and_1_the_offset(case):
    answers, offset = case
    questions = torch.tensor([2, 0])
    found = at_strengths(answers, offset, questions)
    plain, whole = answers.predict(None, questions), answers.predict(offset, questions)
    torch.testing.assert_close(found.log_probs[0], plain.expand_as(whole), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.log_probs[STRENGTHS.index(1.0)], whole)
    assert (found.log_probs[-1] - whole).nan_to_num().abs().max() > 1e-3


def test_without_a_latent_is_as_if_its_weights_were_0(case):
    answers, offset = case
    questions = torch.arange(3)
    found = at_strengths(answers, offset, questions)
    assert found.latents.shape == (3, TAKEN_OUT) and len(set(found.latents[0].tolist())) == TAKEN_OUT
    for q in range(3):
        for n, latent in enumerate(found.latents[q].tolist()):
            if latent < 0:
                torch.testing.assert_close(found.without[n][:, q], found.log_probs[2][:, q])
                continue
            part = offset.copy()
            part.a.data[:, :, latent] = 0
            torch.testing.assert_close(found.without[n][:, q], answers.predict(part, questions[q : q + 1])[:, 0])


def test_the_offset_itself_goes_on_reading(case):
    answers, offset = case
    read = answers.read(offset.sae, "question", torch.arange(3))
    before = offset.weigh(read)
    assert not torch.equal(without_nth(offset, 0).weigh(read), before) and torch.equal(offset.weigh(read), before)
