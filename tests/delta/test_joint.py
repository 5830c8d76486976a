"""Joint training: gradients of the shift, all terms, exports, and the two modes behind one call."""

import copy

import numpy as np
import pytest
import torch

from opinion_sae.delta import joint
from opinion_sae.delta.held_out import by_question
from opinion_sae.delta.joint import (
    code_and_output,
    cross_fit_joint,
    fit_constant,
    fit_joint,
    joint_variants,
    scratch_alone,
)
from opinion_sae.delta.offsets import AdditiveDelta, GroupDelta, MultiplicativeDelta, RectifiedShift
from opinion_sae.delta.settings import FitSettings, JointSettings
from opinion_sae.losses import mean_kl
from opinion_sae.model.activations import Activations
from opinion_sae.model.answers import AnswerPath
from opinion_sae.sae.autoencoder import load_sae
from opinion_sae.sae.train import train_sae, unexplained, untrained_sae

D, WIDTH, K = 32, 64, 8
SPLITS = by_question(np.array([0, 1, 2]))


@pytest.fixture
def answers(lm, tiny):
    return AnswerPath(lm, tiny.questions, hook_layer=2)


@pytest.fixture
def tokens():
    directions = torch.randn(24, D, generator=torch.Generator().manual_seed(1))
    on = torch.rand(2000, 24, generator=torch.Generator().manual_seed(2)) < 0.2
    return on.float() @ directions


@pytest.fixture
def sae(tokens):
    return train_sae(tokens, WIDTH, K, steps=200, batch=256, lr=3e-3)[0]


def texts(tokens):
    return Activations(tokens, tokens[:4096])


def shares_of(survey):
    return torch.from_numpy(survey.shares).float()


def dense_shift(delta, values, indices, W_dec):
    z = torch.zeros(len(values), len(W_dec)).scatter(1, indices, values)
    return ((z[:, None] + delta).relu() - z[:, None]) @ W_dec


def test_the_shift_gives_the_sae_the_gradients_of_the_dense_formula():
    generator = torch.Generator().manual_seed(0)
    delta = torch.randn(3, 10, generator=generator)
    values, W_dec = torch.rand(5, 4, generator=generator) + 0.1, torch.randn(10, 6, generator=generator)
    indices = torch.stack([torch.randperm(10, generator=generator)[:4] for _ in range(5)])
    weight = torch.randn(5, 3, 6, generator=generator)
    grads = []
    for shift in (RectifiedShift.apply, dense_shift):
        v, W = values.clone().requires_grad_(), W_dec.clone().requires_grad_()
        (shift(delta, v, indices, W) * weight).sum().backward()
        grads.append((v.grad, W.grad))
    for ours, dense in zip(*grads, strict=True):
        torch.testing.assert_close(ours, dense, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["topk", "standard"])
def test_the_fast_code_has_the_values_and_gradients_of_the_plain_one(tokens, kind):
    plain = untrained_sae(tokens, WIDTH, K, 0)
    plain.k = K if kind == "topk" else None
    fast, x = copy.deepcopy(plain), tokens[:50]
    values, x_hat = code_and_output(fast, x)
    code = plain.encode_sparse(x)
    torch.testing.assert_close(x_hat, plain.decode_sparse(code), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(values.sum(1), code.values.sum(1), rtol=1e-4, atol=1e-4)
    weight = torch.randn(50, D, generator=torch.Generator().manual_seed(3))
    ((x_hat * weight).sum() + values.sum()).backward()
    ((plain.decode_sparse(code) * weight).sum() + code.values.sum()).backward()
    for (name, found), expected in zip(fast.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-3, atol=1e-3, msg=name)


def test_joint_training_lowers_every_term_and_changes_the_sae_in_place(answers, sae, tokens, two_groups):
    before, kl_before = copy.deepcopy(sae), mean_kl(shares_of(two_groups), answers.predict()).item()
    delta, history = fit_joint(
        answers, sae, two_groups, texts(tokens), settings=JointSettings(epochs=15, sae_lr=1e-3, lr=0.1)
    )
    assert mean_kl(shares_of(two_groups), answers.predict(delta)).item() < 0.7 * kl_before
    assert not torch.equal(before.W_dec, sae.W_dec) and not sae.W_dec.requires_grad
    assert unexplained(sae, tokens) < unexplained(before, tokens) + 0.02
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(WIDTH), atol=1e-5)
    rows = history[history.stage == "joint"]
    terms = ["train_kl", "validation_kl", "reconstruction", "validation_reconstruction", "sparsity"]
    terms += ["validation_sparsity", "l1_deviation"]
    assert rows[terms].iloc[1:].notna().all().all() and list(history.stage.unique()) == ["shared", "joint"]


def test_without_the_error_the_model_reads_the_sae_alone(answers, sae, tokens, two_groups):
    delta, _ = fit_joint(answers, sae, two_groups, texts(tokens), settings=JointSettings(epochs=2, keep_error=False))
    zero = GroupDelta(delta.groups, sae, keep_error=False)
    x = answers.residual
    assert not delta.keep_error
    torch.testing.assert_close(zero.steer(x)[:, 0], sae(x), rtol=1e-4, atol=1e-5)


def test_the_outcome_exports_and_reads_back(tmp_path, answers, sae, tokens, two_groups):
    delta, _ = fit_joint(answers, sae, two_groups, texts(tokens), settings=JointSettings(epochs=2, keep_error=False))
    sae.save(tmp_path / "sae")
    delta.save(tmp_path / "delta.safetensors")
    again = GroupDelta.load(tmp_path / "delta.safetensors", load_sae(tmp_path / "sae"))
    assert not again.keep_error
    torch.testing.assert_close(answers.predict(again), answers.predict(delta))


def test_every_fold_trains_its_own_sae_and_leaves_the_given_one(answers, sae, tokens, two_groups):
    before = sae.sha256()
    starts = [GroupDelta(two_groups.groups, sae) for _ in range(3)]
    fitted = cross_fit_joint(answers, sae, two_groups, SPLITS, texts(tokens), starts, JointSettings(epochs=1))
    assert sae.sha256() == before
    assert fitted.log_probs.shape == (2, 3, 4) and len({offset.sae.sha256() for offset in fitted.offsets}) > 1
    assert set(fitted.history.fold) == {0, 1, 2}


def test_variants_start_from_a_trained_or_a_random_sae(answers, sae, tokens, two_groups):
    start = GroupDelta(two_groups.groups, sae)
    variants = joint_variants(
        answers, two_groups, SPLITS[0], texts(tokens), start, JointSettings(epochs=6), scratch_steps=40
    )
    assert list(variants) == ["trained SAE, e dropped", "from scratch, e kept", "from scratch, e dropped"]
    start = unexplained(untrained_sae(tokens, WIDTH, K, 0), tokens)
    assert unexplained(variants["from scratch, e kept"].offset.sae, tokens) < 0.9 * start
    assert all(np.isfinite(variant.test_kl) for variant in variants.values())


def test_reconstruction_alone_gets_as_many_token_batches_as_joint_training_from_scratch(sae, tokens, monkeypatch):
    asked = {}
    monkeypatch.setattr(joint, "train_sae", lambda *given, **more: asked.update(more, given=given) or (sae, None))
    settings = JointSettings(epochs=6, batch=1, token_batch=7)
    split = SPLITS[0]
    assert scratch_alone(texts(tokens), sae, split, settings, 40) is sae
    assert (asked["steps"], asked["batch"]) == (6 * len(split.train) * 40, 7)
    assert asked["given"][1:] == (WIDTH, K)


def test_both_modes_and_a_budget_behind_one_call(answers, sae, tokens, two_groups):
    delta, history = fit_constant(answers, sae, two_groups, mode="frozen", latents=3, settings=FitSettings(epochs=2))
    assert ((delta.offsets() != 0).sum(1) <= 3).all() and "3 latents" in set(history.stage)
    fit_constant(answers, sae, two_groups, mode="joint", tokens=tokens, latents=3, settings=JointSettings(epochs=1))
    with pytest.raises(ValueError, match="give the activations to reconstruct as `tokens`"):
        fit_constant(answers, sae, two_groups, mode="joint")
    with pytest.raises(ValueError, match="mode 'melted' is not 'frozen' or 'joint'"):
        fit_constant(answers, sae, two_groups, mode="melted")


def test_multiplicative_offsets_leave_silent_latents_silent(answers, sae):
    code = sae.encode_sparse(answers.residual)
    silent = torch.ones(WIDTH, dtype=torch.bool)
    silent[code.indices[code.values > 0]] = False
    delta = MultiplicativeDelta(["a"], sae)
    delta.shared.data[silent] = 5.0
    torch.testing.assert_close(delta.steer(answers.residual)[:, 0], answers.residual)
    delta.shared.data[:] = -1.0  # z (1 - 1) = 0: what is left is the bias and the error
    expected = answers.residual - (sae(answers.residual) - sae.b_dec)
    torch.testing.assert_close(delta.steer(answers.residual)[:, 0], expected, rtol=1e-4, atol=1e-4)


def test_an_additive_offset_is_a_dense_vector(answers, sae, tmp_path):
    delta = AdditiveDelta(["a", "b"], sae)
    delta.deviation.data.normal_(generator=torch.Generator().manual_seed(0))
    expected = answers.residual[:, None] + delta.deviation @ sae.W_dec
    torch.testing.assert_close(delta.steer(answers.residual), expected)
    delta.save(tmp_path / "delta.safetensors")
    assert isinstance(GroupDelta.load(tmp_path / "delta.safetensors", sae), AdditiveDelta)
