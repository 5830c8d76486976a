"""Controls change what they say and nothing else; persona prompts are asked once and read again."""

import dataclasses

import numpy as np
import pytest
import torch

from opinion_sae.delta.fit import fit_from_shared, fit_frozen
from opinion_sae.delta.held_out import Split, answer_with, by_question
from opinion_sae.delta.offsets import DenseOffset, GroupDelta
from opinion_sae.delta.settings import FitSettings
from opinion_sae.methods.controls import (
    WITH_NONE,
    diff_means,
    from_offsets,
    others_kl,
    others_scores,
    permuted_decoder,
    random_order,
    shuffled_groups,
    shuffled_labels,
)
from opinion_sae.model.answers import AnswerPath
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.score.metrics import transfer_matrix

WIDTH = 48
SETTINGS = FitSettings(epochs=3, lr=0.1, shared_lr=0.5)


@pytest.fixture(scope="module")
def survey(tiny):
    """Nine questions; three groups of one attribute and two of another, one cell missing."""
    rng = np.random.default_rng(0)
    options = ("Yes", "No", "Never")
    questions = [tiny.question(f"q{i}", options[: 2 + i % 2], f"{word}?") for i, word in enumerate("abcdefghi")]
    shares = np.zeros((5, 9, 3))
    for i, question in enumerate(questions):
        shares[:, i, : len(question.options)] = rng.dirichlet(np.ones(len(question.options)), 5)
    shares[1, 4] = np.nan
    return tiny.survey(shares, questions, ("d", "i", "r", "f", "m"), ["party"] * 3 + ["sex"] * 2)


@pytest.fixture(scope="module")
def answers(lm, survey):
    return AnswerPath(lm, survey.questions, 1, orders=2)


@pytest.fixture(scope="module")
def sae():
    W_dec = torch.nn.functional.normalize(torch.randn(WIDTH, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    return SparseAutoencoder(W_dec.T.clone(), torch.zeros(WIDTH), W_dec, torch.zeros(32), k=8)


@pytest.fixture
def delta(survey, sae):
    delta = GroupDelta(survey.groups, sae)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        delta.shared[:6] = torch.randn(6, generator=generator)
        delta.deviation[:, 3:9] = 3 * torch.randn(5, 6, generator=generator)
    return delta


SPLITS = by_question(np.arange(9) % 3)


def test_shuffled_labels_keep_each_questions_answers_within_the_attribute(survey):
    shuffled = shuffled_labels(survey, 0)
    for groups in ([0, 1, 2], [3, 4]):
        for question in range(9):
            before = sorted(survey.counts[g, question].tolist() for g in groups)
            assert sorted(shuffled.counts[g, question].tolist() for g in groups) == before
    assert ((shuffled.respondents > 0) == (survey.respondents > 0)).all()  # the gap stays where it is
    assert np.isnan(shuffled.shares[1, 4]).all()
    np.testing.assert_allclose(np.nansum(shuffled.shares, 0), np.nansum(survey.shares, 0))
    assert (shuffled.counts != survey.counts).any()


def test_shuffled_labels_are_drawn_for_each_question_on_its_own(tiny):
    rng = np.random.default_rng(3)
    questions = [tiny.question(f"q{i}") for i in range(600)]
    survey = tiny.survey(rng.dirichlet(np.ones(2), (3, 600)), questions, ("d", "i", "r"), ["party"] * 3)
    shuffled = shuffled_labels(survey, 0)
    for group in range(3):
        for origin in range(3):
            same = (shuffled.counts[group] == survey.counts[origin]).all(-1).mean()
            assert same == pytest.approx(1 / 3, abs=0.08)
    assert (shuffled_labels(survey, 1).counts != shuffled.counts).any()


def test_the_shuffled_fit_starts_from_the_shared_part_and_sees_other_answers(answers, sae, survey):
    starts = []
    for split in SPLITS:
        starts.append(fit_frozen(answers, sae, survey, split, SETTINGS, stages=("shared",))[0])
    still = shuffled_groups(answers, survey, SPLITS, starts, FitSettings(epochs=0))
    for offset, start in zip(still.offsets, starts, strict=True):
        assert torch.equal(offset.shared, start.shared) and not offset.deviation.any()
    found = shuffled_groups(answers, survey, SPLITS, starts, SETTINGS)
    assert found.log_probs.shape == (5, 9, 3) and len(found.offsets) == 3
    again = shuffled_groups(answers, survey, SPLITS, starts, SETTINGS)
    np.testing.assert_array_equal(found.log_probs, again.log_probs)


def test_the_second_stage_from_the_shared_part_is_the_fit_of_both(answers, sae, survey):
    split = Split("all", np.arange(6), np.arange(6), np.arange(6, 9))  # so that the best epoch is not the start
    start, _ = fit_frozen(answers, sae, survey, split, SETTINGS, stages=("shared",))
    both, _ = fit_frozen(answers, sae, survey, split, SETTINGS)
    found, _ = fit_from_shared(answers, survey, split, start, SETTINGS)
    assert both.deviation.any()
    assert torch.equal(found.shared, both.shared) and torch.equal(found.deviation, both.deviation)


def test_the_shared_part_is_the_same_under_any_labels(answers, sae, survey):
    """So that the shuffled fit may start from it."""
    fits = [
        fit_frozen(
            answers,
            sae,
            people,
            split=Split("s", np.arange(6), np.arange(0), np.arange(0)),
            stages=("shared",),
            settings=FitSettings(epochs=3, lr=0.003),
        )[0]
        for people in (survey, shuffled_labels(survey, 0))
    ]
    assert fits[0].shared.any()
    torch.testing.assert_close(fits[0].shared, fits[1].shared, atol=1e-4, rtol=1e-3)


def test_moved_latents_keep_number_and_values(answers, sae, delta):
    order = random_order(answers, sae, 0)
    assert sorted(order.tolist()) == list(range(WIDTH)) and (order != torch.arange(WIDTH)).any()
    moved = delta.moved(order)
    for before, after in zip(delta.offsets(), moved.offsets(), strict=True):
        assert torch.equal(before.sort().values, after.sort().values)
    assert (moved.offsets() != delta.offsets()).any()
    kept = delta.moved(order, keep_shared=True)
    assert torch.equal(kept.shared, delta.shared) and torch.equal(kept.deviation, moved.deviation)
    with torch.no_grad():
        fires = (sae.encode(answers.residual) > 0).any(0)
    assert torch.equal(fires[order], fires) and 0 < fires.sum() < WIDTH  # silent ones change places among themselves


def test_flipped_twice_is_the_same(delta):
    assert torch.equal(delta.flip().flip().offsets(), delta.offsets())
    torch.testing.assert_close(delta.flip(keep_shared=True).offsets(), delta.shared - delta.deviation)
    assert torch.equal(delta.flip().offsets(), -delta.offsets())


def test_controls_from_offsets_answer_each_split_with_its_own(answers, sae, delta):
    none = GroupDelta(delta.groups, sae)
    found = answer_with(answers, SPLITS, [delta, none, none])
    expected, unsteered = answers.predict(delta).numpy(), answers.predict().numpy()
    np.testing.assert_allclose(found[:, SPLITS[0].test], expected[:, SPLITS[0].test], atol=1e-5)
    np.testing.assert_allclose(found[0, SPLITS[1].test], unsteered[0, SPLITS[1].test], atol=1e-5)
    controls = from_offsets(answers, SPLITS, [delta] * 3, seed=0)
    assert list(controls) == ["random-latents", "random-latents-deviation", "sign-flip", "sign-flip-deviation"]
    tables = [expected, *controls.values()]
    for i, one in enumerate(tables):
        for other in tables[:i]:
            assert np.abs(np.exp(one) - np.exp(other)).max() > 1e-3


def test_a_permuted_decoder_fires_alike_and_changes_nothing_under_a_zero_offset(answers, sae, delta):
    other = permuted_decoder(sae, 0)
    assert torch.equal(other.encode(answers.residual), sae.encode(answers.residual))
    assert {tuple(row) for row in other.W_dec.tolist()} == {tuple(row) for row in sae.W_dec.tolist()}
    zero = GroupDelta(delta.groups, sae)
    assert torch.equal(answers.predict(zero.on(other)), answers.predict(zero))
    assert not torch.allclose(answers.predict(delta.on(other)).exp(), answers.predict(delta).exp(), atol=1e-3)


def test_kl_under_others_offsets_is_the_matrix_off_its_diagonal(survey):
    rng = np.random.default_rng(2)
    log_probs = np.where(survey.counts[:1] > 0, np.log(rng.dirichlet(np.ones(3), (5, 9))), -np.inf)
    found = others_kl(survey, log_probs, same_attribute=True)
    full = others_kl(survey, log_probs)
    assert np.isnan(found[1, 4]) and np.isfinite(np.delete(found, 1, 0)).all()
    matrix = transfer_matrix(survey, log_probs).to_numpy()
    own = np.array([np.nanmean(others_kl(survey, np.stack([p] * 5))[g]) for g, p in enumerate(log_probs)])
    for group, others in enumerate(([1, 2], [0, 2], [0, 1], [4], [3])):
        assert np.nanmean(found[group]) - own[group] == pytest.approx(matrix[others, group].mean())
        assert np.nanmean(full[group]) - own[group] == pytest.approx(np.delete(matrix[:, group], group).mean())
    methods = others_scores(survey, log_probs)
    np.testing.assert_array_equal(methods["sibling-delta"].kl, found)
    np.testing.assert_array_equal(methods["other-delta"].kl, full)
    alone = survey.select(groups=[0, 3])
    assert np.isnan(others_kl(alone, log_probs[[0, 3]], same_attribute=True)).all()


def test_the_difference_of_means_is_scaled_by_validation_and_reads_training_prompts_only(answers, survey):
    rng = np.random.default_rng(0)
    asked = np.array([0, 1, 2, 4, 5, 7])
    residuals = rng.normal(0, 1, (5, 6, 32)).astype(np.float32)
    split = SPLITS[0]
    found = diff_means(answers, survey, [split], residuals, asked)
    strengths = found.history["strength"].tolist()
    assert strengths[0] in WITH_NONE and found.history["split"].tolist() == [split.name]
    offset, seen = found.offsets[0], np.isin(asked, split.train)
    assert isinstance(offset, DenseOffset) and seen.sum() == 2
    means = residuals[:, seen].mean(1)
    np.testing.assert_allclose(offset.deviation.detach(), strengths[0] * (means - means.mean(0)), atol=1e-6)
    assert np.isnan(found.log_probs[:, split.train]).all()
    elsewhere = residuals.copy()
    elsewhere[:, ~seen] = 0
    np.testing.assert_array_equal(diff_means(answers, survey, [split], elsewhere, asked).log_probs, found.log_probs)
    with pytest.raises(ValueError, match="'none': none of its training questions was asked with a persona"):
        diff_means(answers, survey, [Split("none", np.array([3]), np.array([0]), np.array([1]))], residuals, asked)


def test_diff_means_takes_the_strength_that_validation_likes_best(answers, survey):
    """Answers made at strength 4 along the direction: that strength is chosen."""
    rng = np.random.default_rng(1)
    residuals = rng.normal(0, 0.3, (5, 9, 32)).astype(np.float32)
    split = Split("s", np.arange(0, 5), np.arange(5, 7), np.arange(7, 9))
    means = torch.from_numpy(residuals[:, :5].mean(1))
    offset = DenseOffset(survey.groups, 32)
    offset.deviation.data.copy_(4 * (means - means.mean(0)))
    counts = 100 * answers.predict(offset).exp().double().numpy()
    people = dataclasses.replace(survey, counts=counts, respondents=np.full((5, 9), 100))
    found = diff_means(answers, people, [split], residuals, np.arange(9))
    assert found.history["strength"].tolist() == [4.0]
    np.testing.assert_allclose(np.exp(found.log_probs[:, 7:]), counts[:, 7:] / 100, atol=1e-5)
