"""Fitting offsets to a tiny model's answers."""

import numpy as np
import pytest
import torch

from opinion_sae.delta import fit
from opinion_sae.delta.fit import fit_dense, fit_frozen, latent_unit, step_unit
from opinion_sae.delta.settings import FitSettings
from opinion_sae.losses import mean_kl
from opinion_sae.model.answers import AnswerPath
from opinion_sae.sae.autoencoder import SparseAutoencoder

WIDTH = 64


@pytest.fixture(scope="module")
def answers(lm, tiny):
    return AnswerPath(lm, tiny.questions, 1, orders=1)  # a letter, not an option, is easy to push


@pytest.fixture(scope="module")
def sae():
    generator = torch.Generator().manual_seed(0)
    W_dec = torch.nn.functional.normalize(torch.randn(WIDTH, 32, generator=generator), dim=1)
    return SparseAutoencoder(W_dec.T.clone(), torch.zeros(WIDTH), W_dec, torch.zeros(32), k=8)


def shares(survey):
    return torch.from_numpy(survey.shares).float()


def test_kl_falls_first_by_the_shared_part_then_by_the_groups(answers, sae, two_groups):
    before = mean_kl(shares(two_groups), answers.predict()).item()
    delta, history = fit_frozen(answers, sae, two_groups, settings=FitSettings(epochs=60, lr=0.03, patience=60))
    after = mean_kl(shares(two_groups), answers.predict(delta)).item()
    assert after < 0.1 * before
    first, then = (part.train_kl for _, part in history.groupby("stage", sort=False))
    assert first.iloc[1] == pytest.approx(before, rel=1e-4)  # one batch, judged before its step
    assert then.iloc[-1] < 0.5 * first.iloc[-1] and first.iloc[-1] < 0.6 * before
    assert history[history.stage == "shared"].latents_deviation.eq(0).all()
    assert history.stage.unique().tolist() == ["shared", "deviation"]
    assert history.validation_kl.isna().all()


def test_no_stage_ends_worse_than_it_began(answers, sae, two_groups):
    """With so large a rate the groups' stage only ever does harm; it must then leave the shared part alone."""
    delta, _ = fit_frozen(answers, sae, two_groups, settings=FitSettings(epochs=4, lr=0.1))
    shared, _ = fit_frozen(answers, sae, two_groups, stages=["shared"], settings=FitSettings(epochs=4, lr=0.1))
    kl = [mean_kl(shares(two_groups), answers.predict(offset)).item() for offset in (delta, shared)]
    before = mean_kl(shares(two_groups), answers.predict()).item()
    assert kl[0] <= kl[1] < before


def test_the_shared_stage_alone_leaves_no_deviation(answers, sae, two_groups):
    delta, history = fit_frozen(answers, sae, two_groups, stages=["shared"], settings=FitSettings(epochs=3))
    assert delta.shared.any() and not delta.deviation.any()
    one = answers.predict(delta.shared_only())
    assert one.shape[0] == 1
    torch.testing.assert_close(answers.predict(delta), one.expand(2, -1, -1), atol=1e-5, rtol=1e-5)
    assert set(history.stage) == {"shared"} and history.epoch.max() <= 9  # at most


def test_a_dense_offset_is_fitted_in_the_same_way(answers, two_groups):
    before = mean_kl(shares(two_groups), answers.predict()).item()
    offset, history = fit_dense(
        answers, two_groups, settings=FitSettings(epochs=40, lr=0.03, shared_lr=0.03, patience=40, l1=5.0)
    )  # has no l1 term
    assert mean_kl(shares(two_groups), answers.predict(offset)).item() < 0.1 * before
    assert set(history.stage) == {"shared", "deviation"} and history.l1_shared.eq(0).all()


def test_the_epoch_with_the_lowest_validation_kl_is_kept(answers, sae, two_groups, tiny):
    # with so large a rate the fit swings about, and gets worse on the question left out
    delta, history = fit_frozen(
        answers,
        sae,
        two_groups,
        split=tiny.split([0, 1], [2]),
        stages=["shared"],
        settings=FitSettings(epochs=30, lr=1.0, patience=4),
    )
    best = history.validation_kl.idxmin()
    assert 0 < best and len(history) == best + 1 + 2 * 4 < 2 * 30 + 1  # the shared stage takes twice both
    kept = mean_kl(shares(two_groups)[:, [2]], answers.predict(delta.shared_only())[:, [2]])
    assert kept.item() == pytest.approx(history.validation_kl[best], rel=1e-5)
    assert history.validation_kl.iloc[-1] > history.validation_kl[best]


def test_the_same_seed_gives_the_same_offset(answers, sae, two_groups):
    one, two, other = (
        fit_frozen(answers, sae, two_groups, settings=FitSettings(epochs=3, batch=1, seed=seed))[0].offsets()
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_the_l1_weight_sets_how_many_latents_move(answers, sae, two_groups):
    moved = []
    for weight in (0.0, 0.02, 100.0):
        delta, history = fit_frozen(answers, sae, two_groups, settings=FitSettings(epochs=15, l1=weight))
        moved.append(int((delta.shared != 0).sum() + (delta.deviation != 0).sum()))
    assert moved[0] > moved[1] > moved[2] == 0  # exactly


def test_a_group_without_answers_keeps_a_deviation_of_zero(answers, sae, tiny, two_groups):
    nan = np.full((1, 3, 4), np.nan)
    survey = tiny.survey(np.concatenate([two_groups.shares, nan]), groups=("Female", "Male", "Other"))
    delta, _ = fit_frozen(answers, sae, survey, settings=FitSettings(epochs=3, lr=0.01))
    assert delta.deviation[:2].any(1).all() and not delta.deviation[2].any()


def test_questions_that_nobody_answered_are_passed_over(answers, sae, tiny):
    nan = np.nan
    survey = tiny.survey([[[0.5, 0.5, 0, 0], [nan] * 4, [0.2, 0.2, 0.6, 0]]], groups=("Female",))
    _, history = fit_frozen(answers, sae, survey, settings=FitSettings(epochs=2, batch=1))
    assert history.train_kl[history.epoch > 0].notna().all()
    with pytest.raises(ValueError, match="none of the training questions was answered by any of the groups"):
        fit_frozen(answers, sae, survey, split=tiny.split([1], ()), settings=FitSettings(epochs=2))
    with pytest.raises(ValueError, match="none of the 1 questions was answered"):
        fit_frozen(answers, sae, survey, split=tiny.split([0], [1]), settings=FitSettings(epochs=2))


def test_a_loss_that_is_not_finite_names_epoch_and_questions(answers, sae, two_groups, monkeypatch):
    monkeypatch.setattr(fit, "units", lambda *_: (float("inf"), 1.0))  # steps without bound
    with pytest.raises(
        FloatingPointError, match=r"epoch [123], questions \[.*: the loss is (nan|inf).*lower learning rate"
    ):
        fit_frozen(answers, sae, two_groups, settings=FitSettings(epochs=3, batch=1))


def test_answers_to_other_questions_are_refused(answers, sae, two_groups):
    with pytest.raises(ValueError, match="other questions than those of the survey made up"):
        fit_frozen(answers, sae, two_groups.select(questions=[0, 1]))
    with pytest.raises(ValueError, match="other questions"):
        fit_frozen(answers, sae, two_groups.select(questions=[1, 0, 2]))


def test_the_unit_is_the_mean_active_latent(answers, sae):
    z = sae.encode(answers.residual)
    assert latent_unit(answers, sae) == pytest.approx(z[z > 0].mean().item(), rel=1e-5)
    shut = SparseAutoencoder(sae.W_enc, torch.full((WIDTH,), -1e6), sae.W_dec, sae.b_dec, k=8)
    with pytest.raises(ValueError, match="no latent of this SAE fires"):
        latent_unit(answers, shut)


def test_the_step_unit_moves_x_by_its_own_spread(answers, sae):
    """All entries at once: sqrt(d) of them in the residual stream; along the rows of a decoder, measured here."""
    x = answers.residual
    spread = (x - x.mean(0)).norm(dim=1).mean().item()
    assert step_unit(answers, None) * x.shape[1] ** 0.5 == pytest.approx(spread, rel=1e-5)
    rows = torch.nn.functional.normalize(
        torch.randn(4096, x.shape[1], generator=torch.Generator().manual_seed(0)), dim=1
    )
    towards = torch.nn.functional.normalize(torch.ones(x.shape[1]), dim=0)
    wide = SparseAutoencoder(rows.T.clone(), torch.zeros(4096), rows, x.mean(0), k=8)
    moved = step_unit(answers, wide) * ((rows @ towards).sign() @ rows) @ towards
    assert moved.item() == pytest.approx(spread, rel=0.05)
