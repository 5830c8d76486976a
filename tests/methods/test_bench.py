"""Every method of the bench on a tiny model keeps the contract; what it does besides can be measured."""

import dataclasses

import numpy as np
import pytest
import torch

from opinion_sae.artifacts import made, recalled
from opinion_sae.book.compare import Comparison
from opinion_sae.book.leaderboard import COLUMNS, Bare, Board, leaderboard
from opinion_sae.delta.held_out import by_question
from opinion_sae.delta.settings import FitSettings
from opinion_sae.effects.beside import Beside
from opinion_sae.effects.facts import load_facts
from opinion_sae.methods import asked, gpo
from opinion_sae.methods.contract import Bench, Outcome, Scaled
from opinion_sae.methods.registry import KINDS, METHODS
from opinion_sae.model.answers import AnswerPath
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.score.names import NAMES

SPLITS = by_question(np.arange(9) % 3)
TAKES_WORDS = ("embedding",)  # a model of its own


@pytest.fixture(scope="module")
def survey(tiny):
    rng = np.random.default_rng(0)
    words = "taxes schools rivers police bread music trains winter horses".split()
    questions = [tiny.question(f"q{i}", "abcd"[: 4 if i == 8 else 3], f"{word}?") for i, word in enumerate(words)]
    shares = np.zeros((4, 9, 4))
    shares[..., :3] = rng.dirichlet(np.ones(3), (4, 9))
    shares[:, 8] = rng.dirichlet(np.ones(4), 4)  # one question, of the last fold, has more options than the others
    return tiny.survey(shares, questions, "fmdr", ["sex", "sex", "party", "party"])


@pytest.fixture(scope="module")
def bench(lm, survey, tmp_path_factory):
    W_dec = torch.nn.functional.normalize(torch.randn(48, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    sae = SparseAutoencoder(W_dec.T.clone(), torch.zeros(48), W_dec, torch.zeros(32), k=8).requires_grad_(False)
    answers = AnswerPath(lm, survey.questions, 1, orders=1)
    folder = tmp_path_factory.mktemp("work") / "compare"
    return Bench(answers, sae, survey, SPLITS, FitSettings(epochs=1, lr=0.1, shared_lr=0.5), folder)


@pytest.fixture(scope="module")
def beside(bench):
    texts = ["Boil the water, then put in the rice and wait.", "Dear aunt, the train was late and we walked."]
    return Beside(bench, load_facts(120), texts)


@pytest.fixture(scope="module")
def fitted(bench):
    """Each method once, with steps that a test can wait for."""
    changed = {(gpo, "STEPS"): 4, (gpo, "EVERY"): 2, (asked, "ASKED"): 1}
    before = {place: getattr(*place) for place in changed}
    for place, value in changed.items():
        setattr(*place, value)
    trained = gpo.trained
    gpo.trained = lambda points, split, seed: trained(points, split, seed, 4)
    found = {name: entry.fit(bench) for name, entry in METHODS.items() if entry.fit and name not in TAKES_WORDS}
    gpo.trained = trained
    for place, value in before.items():
        setattr(*place, value)
    return found


def test_every_method_has_a_kind_and_a_name():
    assert {entry.kind for entry in METHODS.values()} <= set(KINDS) and set(METHODS) <= set(NAMES)
    without = [name for name, entry in METHODS.items() if entry.fit is None]
    assert without == ["delta-joint", "delta-reading-joint"]


def test_every_method_answers_each_question_it_is_asked_with_log_probabilities(fitted, survey):
    for name, outcome in fitted.items():
        table = outcome.log_probs
        assert table.shape[1:] == survey.shares.shape[1:] and len(table) in (1, 4), name
        silent = np.isnan(table).any(-1)
        assert (silent == np.isnan(table).all(-1)).all(), name
        np.testing.assert_allclose(np.exp(table[~silent].astype(float)).sum(-1), 1, atol=1e-4, err_msg=name)
        assert silent.any() == (METHODS[name].kind == "prompt" or name == "lora"), name
        assert len(outcome.steering) in (0, 3) and len(outcome.texts) in (0, 3) and outcome.parameters >= 0, name


def test_what_steers_answers_as_its_table_says_and_not_at_all_at_strength_zero(fitted, bench):
    steering = {name: outcome for name, outcome in fitted.items() if len(outcome.steering)}
    assert {"cast", "loreft", "yapo", "tier-prompt", "delta-reading", "diff-means"} <= set(steering)
    for name, outcome in steering.items():
        for split, one in zip(SPLITS, outcome.steering, strict=True):
            test = torch.from_numpy(split.test)
            answered = bench.answers.predict(one, test).numpy()
            np.testing.assert_allclose(answered, outcome.log_probs[:, split.test], atol=1e-5, err_msg=name)
            unmoved = bench.answers.predict(Scaled(one, 0.0), test).numpy()
            plain = np.broadcast_to(bench.answers.predict(None, test).numpy(), unmoved.shape)
            np.testing.assert_allclose(unmoved, plain, atol=1e-5, err_msg=name)


def test_no_method_looks_at_the_test_questions(bench, survey, fitted):
    """Other answers to the first split's test questions leave its fit as it was."""
    first = SPLITS[0]
    counts = survey.counts.copy()
    counts[:, first.test, :3] = counts[:, first.test, 2::-1] + 3.0
    other = dataclasses.replace(survey, counts=counts, everyone=counts.sum(0))
    again = dataclasses.replace(bench, survey=other)
    for name in ("corrsteer", "cast", "loreft", "yapo", "sae-ssv", "tier-token", "persona-vector", "direct-max"):
        fit = METHODS[name].fit
        assert fit is not None
        found = fit(again).log_probs[:, first.test]
        np.testing.assert_allclose(found, fitted[name].log_probs[:, first.test], atol=1e-5, err_msg=name)


def test_effects_are_measured_of_all_that_steers_and_of_texts(fitted, beside):
    for name in ("cast", "tier-prompt", "tier-token", "delta-reading", "dense-reading", "prompt-portray", "loreft"):
        found = beside.measure(fitted[name])
        for quantity in ("accuracy", "text_loss", "next_token_kl"):
            assert np.isfinite(found[quantity]).any(), (name, quantity)
        assert (found["next_token_kl"][np.isfinite(found["next_token_kl"])] > -1e-6).all()
    assert beside.measure(fitted["words"]) == {}


def test_a_method_that_changes_nothing_has_no_side_effects(beside, bench, fitted):
    nothing = [Scaled(one, 0.0) for one in fitted["loreft"].steering]
    found = beside.measure(Outcome(fitted["unsteered"].log_probs, nothing))
    assert np.nanmax(np.abs(found["next_token_kl"])) < 1e-6
    there = ~np.isnan(found["text_loss"])
    np.testing.assert_allclose(found["text_loss"][there], beside.plain["text_loss"][there], atol=1e-5)


def test_the_leaderboard_has_a_row_for_each(fitted, beside, bench, tmp_path):
    names = ("unsteered", "uniform", "delta-reading", "corrsteer", "loreft", "direct-max", "prompt-portray", "words")
    parts = {name: beside.measure(fitted[name]) for name in names} | {"unsteered": beside.plain}
    parts = {name: {**part, "log_probs": fitted[name].log_probs} for name, part in parts.items()}
    mass = np.array([0.25, np.nan, 0.75])
    parts["words-cost"] = {"fit_seconds": np.array([2.0]), "parameters": np.array([7]), "option_mass": mass}
    board = Board(bench, Bare(20, 0, tmp_path))
    table = leaderboard(board, {}, parts).set_index("method")
    assert list(table.columns) == COLUMNS[1:] and set(table.index) == {"toplines", *names}
    assert (
        table.loc["words", "fit_seconds"] == table.loc["words", "total_seconds"] == 2
        and table.loc["words", "parameters"] == 7
    )
    assert table.loc["words", "option_mass"] == 0.5
    assert table.loc["toplines", "gap_r"] == 0 and table.loc["unsteered", "gap_r"] == 0
    assert np.isnan(table.loc["prompt-portray", "rank"]) and table.loc["prompt-portray", "n_questions"] == 3
    assert table.loc["delta-reading", "minus_reading"] == 0
    whole = table[table["rank"].notna()]
    assert whole["rank"].min() == 1 and (whole["rank_low"] <= whole["rank_high"]).all()
    assert table.loc["loreft", "next_token_kl"] > 0 and np.isnan(table.loc["words", "next_token_kl"])
    assert table.loc[["loreft", "corrsteer"], "wording_r"].notna().all()
    assert ((table["harmonic_mean"] >= 0) & (table["harmonic_mean"] <= 1)).all()
    again = leaderboard(board, {}, parts).set_index("method")
    assert table.equals(again)


def test_what_the_book_has_is_taken_from_it_and_what_is_made_is_made_once(bench, beside, fitted, tmp_path):
    seeds = {"words": [fitted["words"].log_probs], "shared-delta": [fitted["shared-delta"].log_probs]}
    known = dataclasses.replace(bench, known={"shared-delta": fitted["shared-delta"].steering})
    comparison = Comparison(known, seeds, lambda: beside)
    items = comparison.items(["words", "shared-delta", "direct-max", "prompt-qa", "delta-joint"])
    assert list(items) == "words shared-delta direct-max prompt-qa words-cost shared-delta-cost prompt-qa-cost".split()
    parts = {name: made(tmp_path / f"{name}.safetensors", item) for name, item in items.items()}
    assert [name for name, part in parts.items() if "log_probs" in part] == ["direct-max", "prompt-qa"]
    timed = {name for name, part in parts.items() if "fit_seconds" in part}
    assert timed == {"direct-max", "words-cost", "shared-delta-cost"} and parts["prompt-qa-cost"]["step_ms"] > 0
    assert "next_token_kl" in parts["shared-delta"] and "text_loss" not in parts["words"]
    np.testing.assert_allclose(parts["direct-max"]["log_probs"], fitted["direct-max"].log_probs, atol=1e-5)
    again = Comparison(known, seeds, lambda: beside).items(["direct-max"])["direct-max"]
    assert recalled(tmp_path / "direct-max.safetensors", again.about) is not None
    other = dataclasses.replace(known, settings=FitSettings(epochs=2))
    changed = Comparison(other, seeds, lambda: beside).items(["direct-max"])["direct-max"]
    assert recalled(tmp_path / "direct-max.safetensors", changed.about) is None
