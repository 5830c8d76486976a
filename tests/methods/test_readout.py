"""Calibration and the unembedding: what their fits can reach, and the logits they start from."""

import dataclasses

import numpy as np
import pytest
import torch

from opinion_sae.delta.held_out import Split
from opinion_sae.methods.readout import (
    RIDGES,
    calibrated,
    fit_ridge,
    in_span,
    last_hidden,
    letter_places,
    log_mean,
    probe,
    unembedding,
    unsteered_logits,
)
from opinion_sae.model.answers import AnswerPath

SAME = [Split("all", *(np.arange(3),) * 3)]  # fitted on what it is judged on: can it fit at all?


@pytest.fixture(scope="module")
def answers(lm, tiny):
    return AnswerPath(lm, tiny.questions, 1, orders=2)


def test_logits_give_back_the_unsteered_answers(answers):
    has_option = answers.has_option.unflatten(0, (3, 2))[:, 0]
    torch.testing.assert_close(log_mean(unsteered_logits(answers)[None], has_option).float(), answers.predict())


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt-neox"])
def test_the_hidden_state_times_the_unembedding_gives_the_logits(family, tiny):
    answers = AnswerPath(tiny.lm(family), tiny.questions, 1, orders=2)
    head, letters = answers.lm.model.get_output_embeddings(), answers.letters.unflatten(0, (3, 2))
    with torch.no_grad():
        logits = torch.einsum("qkd,qkod->qko", last_hidden(answers).float(), head.weight[letters])
        cap = getattr(answers.lm.model.config, "final_logit_softcapping", None)
        logits = logits if cap is None else cap * torch.tanh(logits / cap)
    torch.testing.assert_close(logits, unsteered_logits(answers).float(), atol=1e-5, rtol=1e-4)
    assert not answers.lm.norm._forward_hooks


def test_places_of_the_letters(answers):
    first, reversed_order = letter_places(answers)[1]
    assert first.tolist() == [0, 1, 2, 3] and reversed_order.tolist() == [3, 2, 1, 0]
    assert letter_places(answers)[0, :, :2].tolist() == [[0, 1], [1, 0]]


def test_no_ridge_is_lighter_than_what_it_starts_from(answers, two_groups):
    """With a ridge that forbids any change the answers stay as they are."""
    shares, has_option = torch.from_numpy(two_groups.shares).float(), answers.has_option[::2]
    logits = unsteered_logits(answers)

    def read(parameters, questions):
        return logits[questions] + parameters[:, None, None, :]

    stuck = fit_ridge(read, shares, torch.arange(3), has_option, 4, 1e9)
    assert stuck.shape == (2, 4) and stuck.abs().max() < 1e-6
    free = fit_ridge(read, shares, torch.arange(3), has_option, 4, 1e-4)
    assert (free[0] - free[1]).abs().max() > 0.1
    one = fit_ridge(read, shares, torch.arange(3), has_option, 4, 1e-4, shared_only=True)
    assert one.shape == (1, 4)


def test_rounding_of_the_input_does_not_grow():
    """Another number of threads moves the seventh digit; it must not show in the third, weakest ridge included."""
    draw = torch.Generator().manual_seed(0)
    x = (torch.randn(10, 60, generator=draw, dtype=torch.float64) + 3) / 60**0.5
    shares = torch.rand(6, 10, 4, generator=draw, dtype=torch.float64)
    shares, has_option = shares / shares.sum(-1, keepdim=True), torch.ones(10, 4, dtype=torch.bool)

    def answers(features):
        def read(parameters, questions):
            return torch.einsum("qd,god->gqo", features[questions], parameters.unflatten(1, (4, 60)))[:, :, None]

        fitted = fit_ridge(read, shares[:, :5], torch.arange(5), has_option, 240, RIDGES[0])
        return read(fitted, torch.arange(5, 10)).softmax(-1)

    noise = 1e-6 * torch.randn(x.shape, generator=draw, dtype=torch.float64)
    torch.testing.assert_close(answers(x + noise), answers(x), atol=1e-4, rtol=0)


def test_a_bias_by_hand(answers, tiny):
    """One question, an offset per option, no ridge to speak of: the fit gives back the shares."""
    survey = tiny.survey([[[0.9, 0.1, 0, 0]]], tiny.questions[:1], ("x",))
    flat = torch.zeros(1, 1, 4)
    has_option = answers.has_option[:1]

    def read(parameters, questions):
        return flat[questions] + parameters[:, None, None, :]

    shares = torch.from_numpy(survey.shares).float()
    bias = fit_ridge(read, shares, torch.arange(1), has_option, 4, 1e-7, shared_only=True)
    assert (bias[0, 0] - bias[0, 1]).item() == pytest.approx(np.log(9), rel=1e-3)
    assert bias[0, 2:].abs().max() == 0


@pytest.mark.parametrize("method", [calibrated, lambda *given: unembedding(*given)[0], probe])
def test_all_can_fit_each_group(method, lm, two_groups):
    found = method(AnswerPath(lm, two_groups.questions, 1, orders=1), two_groups, SAME)
    assert found.shape == (2, 3, 4)
    np.testing.assert_allclose(np.exp(found[:, :2]), np.nan_to_num(two_groups.shares)[:, :2], atol=0.05)


def test_one_answer_for_all_cannot(lm, two_groups):
    one = calibrated(AnswerPath(lm, two_groups.questions, 1, orders=1), two_groups, SAME, shared=True)
    assert one.shape == (1, 3, 4) and np.abs(np.exp(one[:, 0]) - np.nan_to_num(two_groups.shares)[:, 0]).max() > 0.2
    np.testing.assert_allclose(np.exp(one).sum(-1), 1, rtol=1e-5)


def test_answers_to_other_questions_are_refused(answers, two_groups):
    other = dataclasses.replace(two_groups, questions=two_groups.questions[::-1])
    with pytest.raises(ValueError, match="other questions than those of the survey made up"):
        calibrated(answers, other, SAME)


def test_vectors_in_their_span_keep_their_inner_products():
    vectors = torch.randn(3, 2, 40, generator=torch.Generator().manual_seed(0))
    found, basis = in_span(vectors)
    assert found.shape == (3, 2, 6) and basis.shape == (40, 6)
    torch.testing.assert_close(found @ basis.T, vectors, atol=1e-4, rtol=1e-5)
    flat, whole = found.flatten(0, 1), vectors.flatten(0, 1)
    torch.testing.assert_close(flat @ flat.T, whole @ whole.T, atol=1e-4, rtol=1e-5)
    many = torch.randn(50, 1, 40)
    assert in_span(many)[0] is many and torch.equal(in_span(many)[1], torch.eye(40))


def test_a_fit_in_the_span_is_the_fit(answers, two_groups, monkeypatch):
    found, rows = unembedding(answers, two_groups, SAME)
    monkeypatch.setattr("opinion_sae.methods.readout.in_span", lambda v: (v, torch.eye(v.shape[-1], dtype=v.dtype)))
    whole, whole_rows = unembedding(answers, two_groups, SAME)
    np.testing.assert_allclose(np.exp(found), np.exp(whole), atol=2e-3)
    torch.testing.assert_close(rows, whole_rows, atol=0.02 * whole_rows.abs().max().item(), rtol=0.05)
