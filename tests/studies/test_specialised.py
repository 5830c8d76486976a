"""The study of specialised SAEs on a small model: what is trained on what, and the tables."""

import copy
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from opinion_sae.artifacts import write_json
from opinion_sae.delta.held_out import by_question
from opinion_sae.delta.settings import FitSettings
from opinion_sae.model.activations import PROMPT_ENDS
from opinion_sae.model.answers import AnswerPath
from opinion_sae.sae.train import train_sae, unexplained
from opinion_sae.studies import Given, seeded, shift, specialised
from opinion_sae.studies.pieces import Spliced, chunks, streams
from opinion_sae.studies.seeded import Ground
from opinion_sae.studies.specialised import GENERAL, Variant, train_on

SENTENCES = [f"The {one} is what we are here to speak of, and of the {one} alone. " * 9 for one in "abcdefgh"]


@pytest.fixture(scope="module")
def left(lm, tiny, tmp_path_factory):
    """What the book of a small model left: 24 questions of three topics in three folds."""
    work = tmp_path_factory.mktemp("specialised")
    rng = np.random.default_rng(0)
    topics = rng.permutation(np.repeat(list("xyz"), 8)).tolist()
    questions = [
        tiny.question(f"q{i}", "ab", f"Should {'abcdefgh'[i % 8]} be {('cheap', 'dear')[i % 2]}?", topics[i])
        for i in range(24)
    ]
    questions = [dataclasses.replace(question, survey="one") for question in questions]
    survey = tiny.survey(rng.dirichlet(np.ones(2), (4, 24)), questions, "fmdr", ["sex", "sex", "party", "party"])
    answers = AnswerPath(lm, survey.questions, 1, orders=1)
    write_json(work / "texts.json", {"training": SENTENCES, "prompts": [], "held_out": SENTENCES[::-1][:2]})
    tokens = streams(lm, chunks(lm, SENTENCES), 1).x.float()
    sae, _ = train_sae(tokens, 48, 4, steps=30, batch=64, lr=1e-3)
    sae.save(work / "sae")
    training = {"width": 48.0, "k": 4.0, "steps": 80.0, "batch": 64.0, "lr": 1e-3}
    splits = by_question(np.arange(24) % 3)
    folder = work / "study-specialised"
    return Given(answers, survey, splits, FitSettings(epochs=1), training, work, folder, 20, texts="self")


def embed(texts):
    """Sentence embeddings that know the first letter of a question's subject alone."""
    return np.array([[float(f" {letter} " in text) for letter in "abcdefgh"] for text in texts])


@pytest.fixture
def ground(left):
    return Ground(left, embed)


def test_the_seed_set_knows_no_test_question(ground):
    assert not set(ground.seed_questions) & set(ground.given.splits[0].test)
    prompts = ground.given.answers.prompts
    asked = sum(prompts[i].asked[1] - prompts[i].asked[0] for i in ground.seed_questions)
    assert len(ground.seed) == asked + PROMPT_ENDS * len(ground.seed_questions)
    assert set(ground.asked.piece.tolist()) == set(ground.given.splits[0].test.tolist())
    assert len(ground.last) == len(ground.given.splits[0].test)


def test_strategies_choose_as_many_chunks_of_the_pool(ground):
    every = streams(ground.given.lm, ground.pool, 1)
    whole = [every.x[every.piece == number] for number in range(len(ground.pool))]
    assert ground.count == len(ground.pool) // 5 > 1 and ground.expansion("seed", 0) is None
    for name in ("dense", "bm25", "tracin"):
        expected = torch.cat([whole[number] for number in ground.chosen[name].tolist()])
        torch.testing.assert_close(
            ground.expansion(name, 0).float().sum(0), expected.float().sum(0), atol=0.1, rtol=1e-2
        )
        assert len(ground.expansion(name, 0)) == len(expected)
    assert set(ground.chosen["tracin"].tolist()) <= set(ground.chosen["first"].tolist())
    assert len(ground.expansion("full", 0)) == len(every.x)
    drawn = [ground.expansion("random", seed) for seed in (0, 1, 0)]
    assert len(drawn[0]) and not torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])
    with pytest.raises(ValueError, match="strategy 'best' is not one of dense, random"):
        ground.expansion("best", 0)


def test_an_sae_trained_on_prompts_alone_has_no_pool(left, tmp_path):
    write_json(tmp_path / "texts.json", {"training": [], "prompts": ["a"], "held_out": []})
    with pytest.raises(ValueError, match="texts.json: the SAE was trained on prompts alone"):
        _ = Ground(dataclasses.replace(left, work=tmp_path)).pool


def test_splicing_the_stream_itself_changes_nothing_and_zeros_do(lm, left):
    pieces = chunks(lm, SENTENCES)[:3]
    whole = Spliced.of(lm, pieces, 1)
    plain = whole.loss(lm, 1, lambda x: x)
    tokens, at = whole.tokens, whole.at
    losses = lm.next_token_loss(tokens)
    assert plain == pytest.approx(losses[at[:, :-1]].mean().item(), rel=1e-4)
    assert whole.loss(lm, 1, torch.zeros_like) != pytest.approx(plain, rel=1e-3)
    part = Spliced.of(lm, pieces, 1, [(2, 5)] * 3)
    assert part.at.sum(1).tolist() == [3, 3, 3] and part.at[:, 2:5].all()


def test_text_that_is_too_short_is_refused(lm):
    with pytest.raises(ValueError, match="none of the 1 texts has 32 tokens"):
        chunks(lm, ["short"])


def test_no_step_leaves_the_sae_as_it_was_and_steps_go_on_from_it(left, ground):
    settings = {"batch": 32, "lr": 1e-3, "seed": 0}
    same = train_on(left.sae, ground.seed, ground.expansion("full", 0), steps=1, **{**settings, "lr": 0.0})
    x = ground.seed[:20]
    torch.testing.assert_close(same(x), left.sae(x), rtol=1e-3, atol=1e-3)
    after = train_on(left.sae, ground.seed, None, steps=60, **settings)
    assert unexplained(after, ground.seed) < unexplained(left.sae, ground.seed)


def test_a_tilted_loss_lowers_the_largest_error(left, ground):
    settings = {"steps": 400, "batch": 64, "lr": 1e-3, "seed": 0}
    mean, tilted = (train_on(left.sae, ground.seed, None, tilt=tilt, **settings) for tilt in (0.0, 1e9))
    worst = [(ground.seed - sae(ground.seed)).pow(2).sum(1).max() for sae in (mean, tilted)]
    assert worst[1] < worst[0] and unexplained(tilted, ground.seed) > unexplained(mean, ground.seed)


def test_the_study_runs_and_its_tables_have_a_row_for_each_sae(left, monkeypatch):
    monkeypatch.setattr(seeded.Ground, "embed", staticmethod(embed))
    monkeypatch.setattr(specialised, "LATENTS", (2, 4, 8))
    monkeypatch.setattr(specialised, "NEEDED", (2,))
    items = specialised.items(left)
    first = [
        "general-0",
        "tuned-dense-0",
        "tuned-dense-t500-0",
        "scratch-seed-0",
        "map",
        "gaps-general-0",
        "gaps-tuned-dense-0",
        "needed-general-0",
        "labels-general-0",
    ]
    assert set(first) <= set(items)
    parts = {name: items[name].make() for name in first}
    tables = specialised.tables(left, parts)
    quality = tables["quality"]
    assert set(quality["start"]) == {"model", "general", "tuned", "scratch"}
    assert len(quality) == 1 + 4 * 3 and (quality["perplexity_text"] > 1).all()
    assert sorted(quality.loc[quality["start"] == "general", "l0_text"].round()) == [2, 4, 8]
    own = tables["dictionary"][tables["dictionary"]["measure"] == "own"]
    assert set(own["start"]) == {"tuned"} and own["value"].between(-1, 1.0001).all()
    gaps = tables["gaps"].set_index(["start", "latents"])
    assert (gaps.loc["general", ["gap_r_gain", "gap_r_gain_low"]] == 0).all().all()
    assert sorted(gaps.index) == [("general", 0), ("general", 2), ("general", 64), ("tuned", 0), ("tuned", 64)]
    assert set(tables["map"]["sae"]) == set(specialised.MAPPED)
    assert tables["labels"]["detection"].between(0, 1).all() and len(tables["labels"]) == 1
    assert isinstance(tables["unexplained"], pd.DataFrame) and len(tables["unexplained"]) == 4


def test_names_tell_sae_tilt_and_seed():
    assert GENERAL.name == "general-0" and Variant("tuned", "dense", 1e9, 2).name == "tuned-dense-t1000000000-2"


def test_an_sae_of_another_kind_is_refused(left):
    other = dataclasses.replace(left)
    sae = copy.copy(left.sae)
    sae.k = None
    other.__dict__["sae"] = sae
    with pytest.raises(ValueError, match="trains top-k SAEs on from the book's, which is none"):
        specialised.items(other)


def test_probes_are_fitted_to_every_kind_of_features(left, monkeypatch):
    monkeypatch.setattr(seeded.Ground, "embed", staticmethod(embed))
    for name, value in (("DRAWS", 2), ("TAKEN", (4,)), ("LEAST", 0.0)):
        monkeypatch.setattr(shift, name, value)
    items = shift.items(left)
    found = shift.tables(left, {name: items[name].make() for name in ("stream", "general", "narrow")})["accuracy"]
    assert set(found["features"]) == {"stream", "general", "narrow"} and found["worst"].between(0, 1).all()
    assert set(found["treatment"]) == set(shift.TREATMENTS) and (found["draws"] == 2).all()
    assert not found.loc[found["features"] == "stream", "treatment"].str.endswith("cards").any()
