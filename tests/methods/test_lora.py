"""The adapter changes nothing before it is trained and nothing afterwards; in between its loss falls."""

import dataclasses

import numpy as np
import pytest
import torch

from opinion_sae.delta.held_out import Split
from opinion_sae.methods.lora import GroupPrompts, adapter, draw, fit_lora
from opinion_sae.methods.personas import persona
from opinion_sae.model.answers import AnswerPath

SPLIT = Split("s", np.arange(0, 4), np.arange(4, 6), np.arange(6, 8))


@pytest.fixture(scope="module")
def survey(tiny):
    rng = np.random.default_rng(0)
    questions = [tiny.question(f"q{i}", "abc"[: 2 + i % 2], f"{word}?") for i, word in enumerate("klmnopqr")]
    shares = np.zeros((3, 8, 3))
    for i, question in enumerate(questions):
        shares[:, i, : len(question.options)] = rng.dirichlet(np.ones(len(question.options)), 3)
    shares[1, 2] = np.nan
    return tiny.survey(shares, questions, ("d", "i", "r"), ["party"] * 3)


@pytest.fixture(scope="module")
def prompts(lm, survey):
    return GroupPrompts(lm, survey, orders=2)


def fitted(prompts, **settings):
    """Answers to the test questions by a fitted adapter, and its history."""
    with fit_lora(prompts, SPLIT, **settings) as history:
        return prompts.predict(SPLIT.test).log_probs, history


def test_whole_passes_give_the_answers_of_the_kept_path(prompts, lm, survey):
    found = prompts.predict(np.array([5, 1]))
    for group in range(3):
        kept = AnswerPath(lm, survey.questions, 1, 2, persona("portray", survey, group))
        np.testing.assert_allclose(found.log_probs[group], kept.predict()[0, [5, 1]], atol=1e-4)
        np.testing.assert_allclose(found.option_mass[group], kept.next_token().mass.mean(-1)[0, [5, 1]], rtol=1e-4)
    assert np.isneginf(found.log_probs[:, 1, 2]).all() == (len(survey.questions[1].options) == 2)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3", "qwen2", "gpt-neox"])
def test_an_untrained_adapter_changes_nothing_and_leaves_nothing_behind(family, tiny, survey):
    lm = tiny.lm(family)
    prompts, names = GroupPrompts(lm, survey, orders=1), [name for name, _ in lm.model.named_parameters()]
    before = prompts.predict(np.arange(3)).log_probs
    state = torch.random.get_rng_state()
    with adapter(lm, 2, 0) as parameters:
        assert parameters and all(one.requires_grad and one.dtype == torch.float32 for one in parameters)
        np.testing.assert_array_equal(prompts.predict(np.arange(3)).log_probs, before)
        with torch.no_grad():
            for one in parameters:
                one.add_(0.5)
        assert np.abs(np.exp(prompts.predict(np.arange(3)).log_probs) - np.exp(before)).max() > 1e-3
    np.testing.assert_array_equal(prompts.predict(np.arange(3)).log_probs, before)
    assert [name for name, _ in lm.model.named_parameters()] == names
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_loss_falls_and_the_best_epoch_is_kept(prompts):
    answers, history = fitted(prompts, rank=4, epochs=8, examples=12, lr=0.02)
    assert history["epoch"].tolist() == list(range(9)) and np.isnan(history["train_kl"][0])
    assert history["train_kl"].iloc[-1] < 0.7 * history["train_kl"].iloc[1]
    assert answers.shape == (3, 2, 3)
    np.testing.assert_allclose(np.exp(answers).sum(-1), 1, rtol=1e-5)
    again, _ = fitted(prompts, rank=4, epochs=8, examples=12, lr=0.02)
    np.testing.assert_array_equal(answers, again)


def test_without_epochs_it_is_the_prompt(prompts):
    answers, history = fitted(prompts, epochs=0)
    np.testing.assert_array_equal(answers, prompts.predict(SPLIT.test).log_probs)
    expected = prompts.mean_loss(draw(prompts.survey, SPLIT.validation, 4, 2, np.random.default_rng(0)))
    assert history["validation_kl"].tolist() == [expected]


def test_examples_are_of_the_questions_given_and_of_groups_that_answered(survey):
    found = draw(survey, np.array([2, 3]), 2, 2, np.random.default_rng(0))
    assert len(found) == 4 and {question for _, question, _ in found} == {2, 3}
    assert {group for group, question, _ in found if question == 2} == {0, 2}  # group 1 did not answer it
    assert len(set(found)) == 4 and {order for *_, order in found} <= {0, 1}


def test_a_loss_that_is_not_finite_stops_the_fit(prompts):
    with pytest.raises(FloatingPointError, match="fitting the adapter, s, epoch"):
        fitted(prompts, epochs=3, examples=12, batch=2, lr=1e37)


def test_no_answer_to_a_test_question_enters_the_fit(lm, survey, prompts):
    counts = survey.counts.copy()
    counts[:, SPLIT.test] = counts[:, SPLIT.test, ::-1]
    other = GroupPrompts(lm, dataclasses.replace(survey, counts=counts), orders=2)
    settings = {"epochs": 2, "examples": 8, "lr": 0.02}
    np.testing.assert_array_equal(fitted(other, **settings)[0], fitted(prompts, **settings)[0])
