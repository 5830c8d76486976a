"""`delta-reading-joint`: what the SAE learns from, what it must not see, and that it can learn to tell groups apart."""

import copy

import numpy as np
import pytest
import torch

from opinion_sae.delta.held_out import Split
from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.delta.settings import JointSettings
from opinion_sae.methods.joint_reading import _Reading, _terms, coefficients, held_out_joint_reading, tune_sae
from opinion_sae.methods.reading import reading
from opinion_sae.model.activations import Activations
from opinion_sae.model.answers import AnswerPath
from opinion_sae.sae.autoencoder import SparseCode
from opinion_sae.sae.train import untrained_sae

from .test_reading import made_up

SPLIT = Split("one", np.arange(12), np.arange(12, 17), np.arange(17, 24))
SETTINGS = JointSettings(epochs=2, batch=4, sae_lr=1e-3, token_batch=16, patience=2, kl_weight=0.01)


@pytest.fixture(scope="module")
def case(tiny):
    survey = made_up(tiny)
    answers = AnswerPath(tiny.lm("llama"), survey.questions, 1, orders=2)
    tokens = answers.kept.tokens("question").stream.float()
    sae = untrained_sae(tokens, 64, 6, seed=0).requires_grad_(False)
    return answers, sae, survey, Activations(tokens[::2], tokens[1::2])


def reader(case, survey=None):
    answers, sae, own, _ = case
    choice = reading(answers, sae, survey or own).choose(SPLIT, places=("question",), refit=False)[0]
    return _Reading(answers, sae, survey or own, SPLIT, choice), choice


def test_counts_are_those_that_offsets_read(case):
    answers, sae, _, _ = case
    found = reader(case)[0].all_counts()
    torch.testing.assert_close(found, answers.read(sae, "question", torch.arange(len(answers.prompts))))


def test_the_gradient_of_a_count_is_the_strength_in_units_of_its_mean(case):
    # two tokens of one prompt: latent 3 fires on both, with 1 and 3 (mean 2), latent 5 on the second with 4
    values = torch.tensor([[1.0, 0.0], [3.0, 4.0]], requires_grad=True)
    code = SparseCode(values, torch.tensor([[3, 5], [3, 5]]))
    counts = reader(case)[0].bag(code, torch.tensor([0, 0]), torch.tensor([1.0, 1.0]), 1)
    assert counts[0, 3] == 2 and counts[0, 5] == 1 and counts.sum() == 3
    counts[0, 3].backward()
    torch.testing.assert_close(values.grad, torch.tensor([[0.5, 0.0], [0.5, 0.0]]))


def test_kl_is_a_share_of_the_toplines_own(case):
    one, _ = reader(case)
    train = torch.from_numpy(SPLIT.train)
    fitted, _, r = one.read_out(one.all_counts(), SPLIT.train)
    nothing = fitted.__class__(fitted.train, 0 * fitted.mean, fitted.weights)
    assert one.kl(nothing, 0 * coefficients(nothing, r), r[train], train).item() == pytest.approx(1, abs=1e-5)
    assert one.kl(fitted, coefficients(fitted, r), r[train], train).item() < 1


def test_the_sae_learns_and_the_one_given_stays(case):
    answers, sae, survey, texts = case
    before, choice = sae.sha256(), reader(case)[1]
    own, history = tune_sae(answers, sae, survey, SPLIT, choice, texts, SETTINGS)
    assert sae.sha256() == before and not own.W_enc.requires_grad
    assert list(history["epoch"]) == [0, 1, 2] and history["reconstruction"].isna().tolist() == [True, False, False]
    assert history["validation_reconstruction"].iloc[-1] < history["validation_reconstruction"].iloc[0]
    torch.testing.assert_close(own.W_dec.norm(dim=1), torch.ones(64))
    again, _ = tune_sae(answers, sae, survey, SPLIT, choice, texts, SETTINGS)
    assert again.sha256() == own.sha256() != before


def test_its_gradient_moves_latents_to_where_a_read_out_tells_groups_apart(case):
    answers, sae, survey, texts = case
    one, _ = reader(case)
    one.sae = copy.deepcopy(sae).requires_grad_(True)
    fitted, idf, r = one.read_out(one.all_counts(), SPLIT.train)
    weights, questions = coefficients(fitted, r), torch.from_numpy(SPLIT.test)
    optimiser = torch.optim.Adam(one.sae.parameters(), lr=1e-2)
    found = []
    for _ in range(20):
        kl, _ = _terms(one, fitted, weights, idf, questions, texts.tokens[:16])
        optimiser.zero_grad()
        kl.backward()
        optimiser.step()
        found.append(kl.item())
    assert min(found[-5:]) < 0.98 * found[0]


def test_answers_to_test_questions_never_enter(case, tiny):
    answers, sae, survey, texts = case
    counts, everyone = survey.counts.copy(), survey.everyone.copy()
    for q in SPLIT.test:
        options = len(survey.questions[q].options)
        counts[:, q, :options], everyone[q, :options] = counts[::-1, q, :options], everyone[q, :options][::-1]
    other = tiny.survey(counts / 100, survey.questions, survey.groups, survey.attributes)
    shared = [GroupDelta(survey.groups, sae)]
    (one, history), (two, _) = (
        held_out_joint_reading(answers, sae, people, [SPLIT], texts, shared, SETTINGS) for people in (survey, other)
    )
    np.testing.assert_array_equal(one.log_probs[:, SPLIT.test], two.log_probs[:, SPLIT.test])
    assert np.isnan(one.log_probs[:, SPLIT.train]).all() and set(history["split"]) == {"one"}
    assert one.offsets[0].sae is not sae


def test_a_split_with_three_training_questions_is_no_error(case):
    """Half of them is one question, of which a read-out can learn nothing but its mean."""
    answers, sae, survey, texts = case
    few, choice = Split("few", np.arange(3), np.arange(12, 17), np.arange(17, 24)), reader(case)[1]
    for place in ("question", "last"):
        _, history = tune_sae(answers, sae, survey, few, choice._replace(reads=place), texts, SETTINGS)
    assert history[["validation_kl", "validation_reconstruction"]].notna().all().all()
