"""Factors at option ends: the equation by hand, passes from the first end on beside whole ones, slopes beside steps."""

import dataclasses

import numpy as np
import pytest
import torch

from opinion_sae.delta.held_out import by_question
from opinion_sae.delta.settings import FitSettings
from opinion_sae.methods.contract import Bench
from opinion_sae.methods.option_ends import Ends, Linear, fitted, gain_option_ends
from opinion_sae.model.answers import NEVER, AnswerPath


@pytest.fixture(scope="module", params=["llama", "gemma2"])
def answers(request, tiny):
    return AnswerPath(tiny.lm(request.param), tiny.questions, 1, orders=2)


@pytest.fixture(scope="module")
def ends(answers, tiny):
    return Ends(answers, tiny.sae(), 3)


def test_what_is_active_where_an_option_ends_grows_by_the_factor(ends, tiny):
    s = torch.zeros(2, 24)
    latent, size = int(ends.latents[1, 0]), float(ends.values[1, 0])
    s[0, latent], s[1] = 0.5, -1.0
    change = ends.change(s)
    torch.testing.assert_close(change[0, 1], 0.5 * size * tiny.sae().W_dec[latent])
    x = ends.tail[ends.at]
    torch.testing.assert_close(
        change[1], tiny.sae().decode(torch.zeros(len(x), 24)) - tiny.sae().decode_sparse(tiny.sae().encode_sparse(x))
    )  # a factor of 0 takes all of z out


def test_passes_from_the_first_end_on_are_those_of_the_whole_prompt(answers, ends):
    lm, prompt = answers.lm, answers.prompts[3]
    s = torch.rand(3, 24, generator=torch.Generator().manual_seed(1)) - 0.5
    s[0] = 0
    found = ends.logits(ends.change(s))
    whole = lm.residual(torch.tensor([prompt.tokens]), 1).repeat(3, 1, 1)
    whole[:, list(prompt.ends)] += ends.change(s)
    top = lm.run_layers(whole, range(2, len(lm.layers)), *lm.causal(*whole.shape[:2]))[:, -1]
    torch.testing.assert_close(found, lm.logits(top, torch.tensor(prompt.letters).expand(3, -1)), atol=1e-4, rtol=1e-4)
    plain = answers.option_logits(torch.tensor([3]), answers.steered(torch.tensor([3])))[0, :, : len(prompt.letters)]
    torch.testing.assert_close(found[:1], plain, atol=1e-4, rtol=1e-4)
    assert (found[1] - found[0]).abs().max() > 1e-3


def test_slopes_are_those_of_small_steps(ends):
    s = torch.full((24,), 0.3)
    logits, G = ends.linear(s)
    torch.testing.assert_close(logits, ends.logits(ends.change(s[None]))[0], atol=1e-5, rtol=1e-5)
    step = 1e-2 * torch.randn(24, generator=torch.Generator().manual_seed(2))
    moved = [ends.logits(ends.change((s + sign * step)[None]))[0] for sign in (1, -1)]
    torch.testing.assert_close((moved[0] - moved[1]) / 2, G @ step, atol=2e-4, rtol=0.05)
    assert not G[:, [j for j in range(24) if j not in ends.latents]].any()


def test_a_step_goes_to_the_answers_as_far_as_it_is_let():
    """One latent that raises the first of two options: log odds s; and a third option that is not there."""
    logits, G = torch.tensor([[0.0, 0.0, NEVER]] * 2), torch.zeros(2, 3, 2)
    G[:, 0, 1] = 1.0
    odds = torch.tensor([1.0, -2.0]).sigmoid()
    shares = torch.stack([odds, 1 - odds, 0 * odds], dim=-1)[:, None].expand(-1, 2, -1).clone()
    shares[0, 1] = torch.nan  # the first group did not answer the second prompt
    some = Linear(logits, G, shares)
    step = fitted(some, some, 2)
    assert step[:, 0].tolist() == [0, 0] and step[:, 1].tolist() == pytest.approx([1.0, -2.0], abs=0.05)
    one = fitted(some, some, 1)
    assert -2 < one[0, 1] < 1 and one.shape == (1, 2)


def test_it_answers_held_out_and_sees_no_answer_to_a_test_question(tiny, six_questions, tmp_path):
    survey = six_questions
    answers, splits = AnswerPath(tiny.lm("llama"), survey.questions, 1, orders=1), by_question(np.arange(6) % 3)
    bench = Bench(answers, tiny.sae(), survey, splits, FitSettings(), tmp_path)
    found = gain_option_ends(bench)
    there = found.log_probs > -np.inf
    assert (there[0] == (survey.counts[0] > 0)).all() and not found.steering and found.parameters > 0
    np.testing.assert_allclose(np.exp(found.log_probs).sum(-1), 1, atol=1e-5)
    counts = survey.counts.copy()
    counts[:, splits[0].test, :2] = counts[:, splits[0].test, 1::-1] + 1
    other = dataclasses.replace(bench, survey=dataclasses.replace(survey, counts=counts, everyone=counts.sum(0)))
    np.testing.assert_allclose(
        gain_option_ends(other).log_probs[:, splits[0].test], found.log_probs[:, splits[0].test], atol=1e-5
    )


def test_a_tokenizer_that_does_not_know_places_is_refused(answers, tiny):
    part = answers.for_questions(torch.tensor([0]))
    part.prompts = [dataclasses.replace(prompt, ends=()) for prompt in part.prompts]
    with pytest.raises(ValueError, match="does not say where in the text an option ends"):
        Ends(part, tiny.sae(), 0)
