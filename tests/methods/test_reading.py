"""`delta-reading` and its controls on a made-up survey: what may be seen, what is chosen, what is read."""

import numpy as np
import pytest
import torch

from opinion_sae.delta.directions import Effects
from opinion_sae.delta.held_out import Split
from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.delta.reading import DenseReading, ReadingDelta
from opinion_sae.methods import reading as methods_reading
from opinion_sae.methods.controls import shuffled_labels
from opinion_sae.methods.reading import (
    STRENGTHS,
    Base,
    choices_table,
    dense_reading,
    fit_reading,
    fit_to_all,
    held_out_reading,
    items_of,
    random_dictionary,
    random_read_latents,
    reading,
    reading_and_controls,
    refitted,
    shuffled_questions,
    strength,
)
from opinion_sae.model.answers import AnswerPath
from opinion_sae.sae.train import untrained_sae

WORDS = "cold road tax gun school church work law".split()
SPLIT = Split("one", np.arange(12), np.arange(12, 17), np.arange(17, 24))


def made_up(tiny, seed=0):
    """24 questions of two and three options about one of eight words; the first group leans up for four of them."""
    rng, questions = np.random.default_rng(seed), []
    shares = np.zeros((3, 24, 3))
    for q in range(24):
        word, options = WORDS[q % 8], ("No", "Yes", "Very")[: 2 + q % 2]
        questions.append(tiny.question(f"q{q}", options, f"Do you {word}, {word}? ({q})"))
        base = rng.dirichlet(5 * np.ones(len(options)))
        for group, lean in enumerate((1, -1, 0)):
            tilted = base * np.exp(lean * (1 if q % 8 < 4 else -1) * np.linspace(-0.5, 0.5, len(options)))
            shares[group, q, : len(options)] = tilted / tilted.sum()
    return tiny.survey(shares, tuple(questions), ("Up", "Down", "Even"), ["side"] * 3)


@pytest.fixture(scope="module")
def case(tiny):
    survey, lm = made_up(tiny), tiny.lm("llama")
    answers = AnswerPath(lm, survey.questions, 1, orders=2)
    sae = untrained_sae(answers.residual, 64, 6, seed=0).requires_grad_(False)
    return answers, sae, survey, Effects(answers)


def test_test_questions_answers_never_enter_and_training_ones_do(case, tiny):
    answers, sae, survey, effects = case
    for make in (
        lambda s: reading(answers, sae, s),
        lambda s: reading(answers, sae, s, latents=8),
        lambda s: dense_reading(answers, s),
    ):
        offset, choice = fit_reading(make(survey), SPLIT, effects)
        for seen, same in ((SPLIT.test, True), (SPLIT.train[:3], False), (SPLIT.validation, False)):
            counts, everyone = survey.counts.copy(), survey.everyone.copy()
            for q in seen:
                options = len(survey.questions[q].options)
                counts[:, q, :options], everyone[q, :options] = counts[::-1, q, :options], everyone[q, :options][::-1]
            other = tiny.survey(counts / 100, survey.questions, survey.groups, survey.attributes)
            again, choice_again = fit_reading(make(other), SPLIT, effects)
            equal = choice == choice_again and all(
                torch.equal(one, two)
                for one, two in zip(offset.state_dict().values(), again.state_dict().values(), strict=True)
                if one.shape == two.shape
            )
            assert equal == same


def test_everything_is_chosen_within_its_grid_and_an_axis_reads_few_latents(case):
    answers, sae, survey, effects = case
    offset, choice = fit_reading(
        reading(answers, sae, survey, latents=8), SPLIT, effects, places=("question", "options"), axes=(1, 2)
    )
    assert isinstance(offset, ReadingDelta) and offset.sae is sae
    assert choice.reads in ("question", "options") and choice.axes in (1, 2) and choice.split == "one"
    assert len(offset.a) == choice.axes and offset.reads == choice.reads
    assert ((offset.a != 0).any(1).sum(1) <= 8).all()
    dense, _ = fit_reading(dense_reading(answers, survey), SPLIT, effects, axes=(1,))
    assert isinstance(dense, DenseReading) and dense.a.shape == (1, 3, 32)


def test_the_strength_is_that_at_which_the_groups_answered(case, tiny):
    answers, sae, survey, effects = case
    offset, choice = fit_reading(reading(answers, sae, survey), SPLIT, effects, places=("question",), axes=(2,))
    assert choice.strength in STRENGTHS
    log_probs = answers.predict(offset).numpy()
    there = np.isfinite(log_probs)
    logs = np.where(there, log_probs, 0.0)
    for right in (0.4, 1.2):
        said = np.where(there, np.exp(right * (logs - logs.mean(0))), 0.0)
        shares = said / said.sum(-1, keepdims=True)
        of_them = tiny.survey(shares, survey.questions, survey.groups, survey.attributes)
        assert strength(answers, of_them, offset, torch.arange(24)) == pytest.approx(right, abs=0.11)
    assert strength(answers, survey, offset, torch.arange(0)) == 1


def test_weights_come_from_the_questions_fitted_to(case):
    answers, sae, survey, effects = case
    read_out = reading(answers, sae, survey)
    for refit, seen in ((False, SPLIT.train), (True, np.arange(17))):
        offset, _ = fit_reading(read_out, SPLIT, effects, places=("last",), refit=refit)
        fires = (read_out.read("last")[items_of(seen, 2)] != 0).sum(0)
        expected = torch.where(fires > 0, (2 * len(seen) / fires.clamp_min(1)).log(), 0.0)
        torch.testing.assert_close(offset.idf, expected)


def test_a_shuffled_question_reads_anothers_tokens_in_the_same_order_of_options(case):
    answers, sae, survey, _ = case
    items = torch.arange(48)
    own = answers.read(sae, "question", items)
    other = shuffled_questions(answers, 0).read(sae, "question", items)
    found = torch.cdist(other, own).argmin(1)
    assert (found % 2 == items % 2).all() and sorted(found.tolist()) == items.tolist()
    assert (found != items).float().mean() > 0.8
    assert torch.equal(found[0::2] // 2, found[1::2] // 2)
    again = shuffled_questions(answers, 0).read(sae, "question", items)
    assert torch.equal(other, again)


def test_random_latents_fire_as_often_and_are_others(case):
    answers, sae, survey, effects = case
    read_out = reading(answers, sae, survey, latents=4)
    offset, _ = fit_reading(read_out, SPLIT, effects, places=("question",), axes=(2,))
    control = random_read_latents(read_out, offset, seed=0)
    own = (offset.a != 0).any(0).any(0).numpy()
    assert control.only.sum() == own.sum() and not (control.only & own).any()
    fires = (read_out.read("question") != 0).sum(0).numpy()
    assert abs(fires[control.only].mean() - fires[own].mean()) < 8  # of 48
    drawn, _ = fit_reading(control, SPLIT, effects, places=("question",), axes=(2,))
    assert not drawn.a[..., ~control.only].any() and drawn.a.any()


def test_a_random_dictionary_is_as_wide_and_as_active(case):
    answers, sae, _, _ = case
    other = random_dictionary(answers, sae, seed=1)
    assert other.width == 64 and other.k == 6 and not torch.allclose(other.W_dec, sae.W_dec)
    assert not any(part.requires_grad for part in other.parameters())


@torch.no_grad()
def test_an_offset_that_reads_options_in_both_orders_turns_with_them(case, tiny):
    """Asked with its options reversed, a question is answered as before, option by option."""
    answers, sae, survey, effects = case
    offset, _ = fit_reading(reading(answers, sae, survey), SPLIT, effects, places=("options",), axes=(1,))
    turned = tuple(tiny.question(q.key, q.options[::-1], q.text) for q in survey.questions)
    other = AnswerPath(answers.lm, turned, 1, orders=2)
    forwards, reversed_ = answers.predict(offset), other.predict(offset)
    for q, question in enumerate(survey.questions):
        options = len(question.options)
        torch.testing.assert_close(reversed_[:, q, :options].flip(-1), forwards[:, q, :options], atol=1e-4, rtol=1e-4)
    assert (forwards[0] - forwards[1]).nan_to_num().abs().max() > 1e-3


def test_the_methods_answer_every_question_of_the_splits_held_out(case):
    answers, sae, survey, effects = case
    splits = [SPLIT, Split("two", np.arange(12, 24), np.arange(5), np.arange(5, 12))]
    found = reading_and_controls(answers, sae, survey, [Base(split, effects) for split in splits], latents=8)
    names = "delta-reading delta-reading-8 shuffled-questions shuffled-groups-reading".split()
    names += ["dense-reading", "random-dictionary", "random-read-latents"]
    assert list(found) == names
    tested = np.zeros(24, bool)
    tested[5:12] = tested[17:] = True
    for held in found.values():
        assert (np.isnan(held.log_probs).any((0, 2)) == ~tested).all()
        np.testing.assert_allclose(np.exp(held.log_probs[:, tested]).sum(-1), 1, atol=1e-5)
        assert [choice.split for choice in held.choices] == ["one", "two"]
    own, _ = fit_reading(reading(answers, sae, survey), SPLIT, effects)
    expected = answers.predict(own, torch.from_numpy(SPLIT.test)).numpy()
    np.testing.assert_allclose(found["delta-reading"].log_probs[:, SPLIT.test], expected, atol=1e-5)
    table = choices_table(found)
    assert table["method"].unique().tolist() == names and len(table) == 14
    labels = reading(answers, sae, shuffled_labels(survey, 0))
    dealt = answers.predict(fit_reading(labels, SPLIT, effects)[0], torch.from_numpy(SPLIT.test)).numpy()
    np.testing.assert_allclose(found["shuffled-groups-reading"].log_probs[:, SPLIT.test], dealt, atol=1e-5)
    assert np.nanmax(np.abs(np.exp(dealt) - np.exp(expected))) > 1e-3


def test_a_refit_reads_the_strongest_latents_alone_and_of_all_it_makes_the_same_offset(case, monkeypatch):
    answers, sae, survey, effects = case
    monkeypatch.setattr(methods_reading, "RIDGES", (0.3,))
    read_out = reading(answers, sae, survey, latents=8)
    held, test = held_out_reading([read_out], [Base(SPLIT, effects)]), SPLIT.test
    found = refitted(read_out, [SPLIT], held, [2, 8])
    np.testing.assert_allclose(found["refitted-8"][:, test], held.log_probs[:, test], atol=1e-4)
    assert list(found) == ["refitted-2", "refitted-8"] and np.isnan(found["refitted-2"][:, SPLIT.train]).all()
    assert not np.allclose(found["refitted-2"][:, test], held.log_probs[:, test], atol=1e-4)
    size, strongest = held.offsets[0].a.detach().norm(dim=1), held.offsets[0].strongest(2)
    assert (strongest.sum(1) == 2).all()
    assert all(axis[most].min() >= axis[~most].max() for axis, most in zip(size, strongest, strict=True))


@torch.no_grad()
def test_offsets_start_from_a_shared_part_whatever_they_are_written_in(case):
    answers, sae, survey, _ = case
    amounts = torch.randn(64, generator=torch.Generator().manual_seed(3))
    shared = GroupDelta(survey.groups, sae).with_parts(shared=amounts)
    base = Base.of(answers, SPLIT, shared)
    expected = answers.steered(torch.arange(48), shared)[:, 0]
    torch.testing.assert_close(base.moved(answers).residual, expected)
    assert base.moved(answers).kept is answers.kept  # what is read is still what was asked
    plain = Base(SPLIT, base.effects)
    assert plain.moved(answers) is answers
    own = held_out_reading([reading(answers, sae, survey)], [base])
    assert torch.equal(own.offsets[0].shared, amounts)
    dense = held_out_reading([dense_reading(answers, survey)], [base], own_shared=False)
    assert not dense.offsets[0].shared.any()
    test = torch.from_numpy(SPLIT.test)
    still = base.moved(answers).predict(dense.offsets[0].dosed(1.0, 0.0), test)
    torch.testing.assert_close(still, answers.predict(shared, test), atol=1e-5, rtol=1e-4)


def test_an_offset_that_reads_nothing_is_its_own_control(case):
    answers, sae, survey, _ = case
    read_out = reading(answers, sae, survey, latents=4)
    assert random_read_latents(read_out, read_out.make("question", 2), seed=0) is read_out


def test_no_more_axes_than_groups(case):
    answers, sae, survey, effects = case
    offset, choice = fit_reading(reading(answers, sae, survey), SPLIT, effects, places=("question",), axes=(9,))
    assert choice.axes == len(offset.a) == 3


def test_the_offset_for_new_questions_has_seen_all_and_the_mean_shared_part(case):
    answers, sae, survey, _ = case
    none = GroupDelta(survey.groups, sae)
    shared = [none.with_parts(shared=torch.full((64,), value)) for value in (0.1, 0.3)]
    splits = [SPLIT, Split("two", np.arange(12, 24), np.arange(5), np.arange(5, 12))]
    read_out = reading(answers, sae, survey)
    offset = fit_to_all(read_out, splits, shared)
    torch.testing.assert_close(offset.shared.detach(), torch.full((64,), 0.2))
    fires = (read_out.read(offset.reads) != 0).sum(0)  # of all 48 prompts
    torch.testing.assert_close(offset.idf, torch.where(fires > 0, (48 / fires.clamp_min(1)).log(), 0.0))
