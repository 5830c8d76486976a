"""Settings that no fit could use are refused where they are made."""

import pytest

from opinion_sae.book.profile import load_profile
from opinion_sae.delta.settings import FitSettings, JointSettings


def test_a_wrong_setting_is_named():
    for wrong, message in (
        ({"epochs": -1}, "epochs must be finite and at least 0, not -1"),
        ({"batch": 0}, "batch must be finite and at least 1, not 0"),
        ({"lr": float("nan")}, "lr must be finite and at least 0, not nan"),
        ({"l1": -0.1}, "l1 must be finite and at least 0, not -0.1"),
    ):
        with pytest.raises(ValueError, match=message):
            FitSettings(**wrong)
    assert FitSettings(tilt=-1.0).tilt == -1
    with pytest.raises(ValueError, match="token_steps must be finite and at least 1, not 0"):
        JointSettings(token_steps=0)


def test_the_first_stage_is_longer_and_bolder():
    first = FitSettings(epochs=3, patience=2, lr=0.1, shared_lr=0.5, l1=0.2).first_stage
    assert first == FitSettings(epochs=6, patience=4, lr=0.5, shared_lr=0.5, l1=0.2)


def test_the_profile_gives_its_settings():
    profile = load_profile("default")
    fit, joint = profile.fit_settings(seed=7), profile.joint_settings(kl_weight=2.0)
    assert (fit.lr, fit.l1, fit.batch, fit.seed) == (profile.delta_lr, profile.l1, profile.batch_questions, 7)
    assert (joint.lr, joint.patience, joint.sae_lr) == (profile.refit_lr, profile.epochs, profile.joint_lr)
    assert (joint.kl_weight, joint.sparsity, joint.shared_lr) == (2.0, profile.sparsity, profile.shared_lr)
