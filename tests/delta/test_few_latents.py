"""Fewer latents, tilted losses, group lasso, and offsets that are added."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opinion_sae.delta.few_latents import (
    compose,
    composition_table,
    fit_crossed,
    latent_path,
    path_table,
    tilt_sweep,
    tilt_table,
)
from opinion_sae.delta.fit import fit_offset, refit_strongest
from opinion_sae.delta.held_out import by_question, whole
from opinion_sae.delta.offsets import DenseOffset, GroupDelta
from opinion_sae.delta.settings import FitSettings
from opinion_sae.losses import tilted, tilted_kl
from opinion_sae.model.answers import AnswerPath
from opinion_sae.sae.train import untrained_sae

WIDTH, SPLITS = 64, by_question(np.array([0, 1, 2]))


@pytest.fixture
def answers(lm, tiny):
    return AnswerPath(lm, tiny.questions, hook_layer=2)


@pytest.fixture
def sae(answers):
    return untrained_sae(answers.residual, WIDTH, 8, 0).requires_grad_(False)


def random_delta(groups, sae, seed=0):
    delta = GroupDelta(groups, sae)
    delta.deviation.data.normal_(generator=torch.Generator().manual_seed(seed))
    return delta


def test_the_tilted_mean_by_hand():
    losses = torch.tensor([0.0, np.log(3.0)])
    assert tilted(losses, 1.0).item() == pytest.approx(np.log(2.0))  # log((1 + 3) / 2)
    assert tilted(losses, 0.0).item() == pytest.approx(np.log(3.0) / 2)
    assert tilted(losses, -1.0).item() == pytest.approx(-np.log((1 + 1 / 3) / 2))


@settings(max_examples=50)
@given(st.lists(st.floats(0, 10, width=32), min_size=1, max_size=6))
def test_the_tilted_mean_runs_from_the_mean_to_the_largest(losses):
    losses = torch.tensor(losses)
    assert tilted(losses, 1e-9).item() == pytest.approx(losses.mean().item(), abs=1e-5)
    assert tilted(losses, 1e9).item() == pytest.approx(losses.max().item(), abs=1e-5)
    assert losses.mean() - 1e-4 <= tilted(losses, 2.0) <= losses.max() + 1e-4


@pytest.mark.parametrize("t", [1e-9, 1.0, 1e9])
def test_gradients_of_the_tilted_mean_are_weights_that_sum_to_one(t):
    losses = torch.tensor([0.1, 2.0, 5.0], requires_grad=True)
    tilted(losses, t).backward()
    assert losses.grad.isfinite().all() and losses.grad.sum().item() == pytest.approx(1.0, abs=1e-5)
    assert (losses.grad[2] > 0.999) == (t == 1e9)


def test_tilting_over_groups_leaves_out_missing_cells(two_groups):
    shares = torch.from_numpy(two_groups.shares).float()
    log_probs = torch.full((1, 3, 4), np.log(0.25))
    cells = (shares.nan_to_num() * (shares.nan_to_num().clamp_min(1e-30).log() - np.log(0.25))).sum(-1)
    by_group = torch.stack([cells[0].mean(), cells[1, :2].mean()])
    assert tilted_kl(shares, log_probs, 5.0).item() == pytest.approx(tilted(by_group, 5.0).item(), rel=1e-5)


def test_the_strongest_latents_never_include_exact_zeros(answers):
    delta = GroupDelta(["a", "b"], untrained_sae(answers.residual, 4, 1, 0))
    delta.deviation.data = torch.tensor([[3.0, -5.0, 1.0, 0.0], [0.0, 0.0, 2.0, 0.0]])
    expected = torch.tensor([[True, True, False, False], [False, False, True, False]])
    assert torch.equal(delta.strongest(2), expected)


def test_refitting_touches_the_chosen_latents_only_and_does_not_end_worse(answers, sae, two_groups):
    start = random_delta(two_groups.groups, sae)
    refitted, history = refit_strongest(answers, two_groups, start, 5, settings=FitSettings(epochs=5, lr=0.05))
    assert torch.equal(refitted.offsets() != 0, (refitted.offsets() != 0) & start.strongest(5))
    assert history.validation_kl.isna().all() and not refitted.shared.any()


def test_group_lasso_gives_the_groups_one_vocabulary(answers, sae, two_groups):
    delta = GroupDelta(two_groups.groups, sae)
    settings = FitSettings(l1=0.3, group_lasso=True, epochs=10, patience=10)
    fit_offset(answers, two_groups, delta, whole(two_groups), settings)
    used = (torch.cat([delta.shared[None], delta.deviation]) != 0).sum(0)
    assert 0 < (used > 0).sum() < WIDTH
    assert set(used.tolist()) <= {0, 3}  # a latent is used by all, or by none


def test_the_path_answers_every_question_under_every_budget(answers, sae, two_groups):
    deltas = [random_delta(two_groups.groups, sae, seed) for seed in range(3)]
    dense = [DenseOffset(two_groups.groups, 32) for _ in range(3)]
    for offset in dense:
        offset.shared.data.fill_(0.1)
    points = latent_path(answers, two_groups, SPLITS, deltas, dense, [WIDTH, 2], FitSettings(epochs=1))
    whole = torch.stack([answers.predict(deltas[q], torch.tensor([q]))[:, 0] for q in range(3)], dim=1)
    for point in points[:2]:  # Delta as it is, and a budget that cuts nothing
        np.testing.assert_allclose(point.cut, whole.numpy(), atol=1e-5)
    assert points[0].latents == WIDTH and points[2].latents <= 2
    table = path_table(two_groups, points, np.arange(3), 20, 0)
    assert set(table.method) == {"cut", "refitted", "dense"} and set(table.group) == {"all", *two_groups.groups}
    assert table.kl.notna().all()


def test_the_sweep_over_tilts_goes_on_from_the_shared_parts_and_is_the_plain_fit_at_zero(answers, sae, two_groups):
    starts = [GroupDelta(two_groups.groups, sae) for _ in range(3)]
    for start in starts:
        start.shared.data.fill_(0.1)
    settings = FitSettings(epochs=2, lr=0.05)
    sweep = tilt_sweep(answers, two_groups, SPLITS, starts, [0.0, 50.0], settings)
    assert not any(start.deviation.any() for start in starts)
    plain = starts[0].with_parts()
    fit_offset(answers, two_groups, plain, SPLITS[0], settings)
    assert np.array_equal(sweep[0.0][:, [0]], answers.predict(plain, torch.tensor([0])).numpy())
    table = tilt_table(two_groups, sweep, np.arange(3), 20, 0)
    worst = table[(table.measure == "kl") & (table.which == "worst-off group")].set_index("t").value
    mean = table[(table.measure == "kl") & (table.which == "mean over groups")].set_index("t").value
    assert (worst >= mean).all() and list(worst.index) == [0.0, 50.0]


def test_composed_offsets_are_the_shared_part_plus_the_members(sae):
    delta = random_delta(["Female", "Black"], sae)
    delta.shared.data.fill_(2.0)
    both = delta.composed([["Female", "Black"], ["Black"]])
    torch.testing.assert_close(both.offsets()[0], 2.0 + delta.deviation[0] + delta.deviation[1])
    torch.testing.assert_close(both.offsets()[1], delta.offsets()[1])
    assert both.groups == ("Female & Black", "Black")


def test_intersections_are_scored_five_ways_and_need_their_members(answers, sae, tiny):
    crossed = tiny.survey(np.full((1, 3, 4), 0.25), groups=("Black & Female",), attributes=("race x sex",))
    crossed.counts[0, 0, 2:] = 0
    crossed.counts[0, 2, 3:] = 0
    deltas = [random_delta(["Female", "Black"], sae, seed) for seed in range(3)]
    direct = fit_crossed(answers, crossed, SPLITS, deltas, FitSettings(epochs=1))
    scores = compose(answers, SPLITS, deltas, crossed, direct)
    table = composition_table(crossed, scores, np.arange(3), 20, 0)
    assert list(table.offset) == ["shared only", "first member", "second member", "sum of members", "fitted directly"]
    assert table.set_index("offset").loc["fitted directly", "minus direct fit"] == 0
    with pytest.raises(KeyError, match="no offset for \\['Black'\\]"):
        compose(answers, SPLITS, [random_delta(["Female"], sae)] * 3, crossed, direct)
