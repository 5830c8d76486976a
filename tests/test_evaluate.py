"""All comparisons together: every name, resumed where it stopped, and a claims page from them."""

import dataclasses

import numpy as np
import pytest
import torch

from opinion_sae import evaluate
from opinion_sae.answers import AnswerPath
from opinion_sae.claims import CLAIMS, claims_page
from opinion_sae.controls import others_kl
from opinion_sae.metrics import score
from opinion_sae.sae import SparseAutoencoder
from opinion_sae.splits import by_question
from opinion_sae.statistics import claims_table

FOLDS = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2])
SETTINGS = {"epochs": 1, "lr": 0.1, "shared_lr": 0.5}
FITTED = {"shared-delta", "delta"}


@pytest.fixture(scope="module")
def survey(tiny):
    rng = np.random.default_rng(0)
    words = "taxes schools rivers police bread music trains winter horses banks islands towers".split()
    questions = [
        dataclasses.replace(tiny.question(f"q{i}", "ab", f"{word}?", "xyz"[i % 3]), survey="one" if i < 6 else "two")
        for i, word in enumerate(words)
    ]
    return tiny.survey(rng.dirichlet(np.ones(2), (4, 12)), questions, "fmdr", ["sex", "sex", "party", "party"])


@pytest.fixture(scope="module")
def answers(lm, survey):
    return AnswerPath(lm, survey.questions, 1, orders=1)


@pytest.fixture(scope="module")
def sae():
    W_dec = torch.nn.functional.normalize(torch.randn(48, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    return SparseAutoencoder(W_dec.T.clone(), torch.zeros(48), W_dec, torch.zeros(32), k=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def tables(answers, sae, survey, folder):
    return evaluate.evaluation(answers, sae, survey, FOLDS, folder, seeds=range(2), **SETTINGS)


def test_every_method_is_there_with_its_seeds(tables):
    moved = {"random-latents", "random-latents-deviation", "sign-flip", "sign-flip-deviation"}
    by_split = {name + suffix for name in FITTED for suffix in ("-by-topic", "-by-survey")}
    twice = FITTED | by_split | moved | {"dense", "shuffled-groups", "permuted-decoder"}
    once = {"left-out-shared", "left-out-sibling", "prompt-qa", "prompt-bio", "prompt-portray", "prompt-best"}
    once |= {"diff-means", "few-shot"}
    assert set(tables) == twice | once
    assert {len(tables[name]) for name in twice} == {2} and {len(tables[name]) for name in once} == {1}
    for found in tables.values():
        for table in found:
            assert table.shape == (4, 12, 2)
            np.testing.assert_allclose(np.exp(table).sum(-1), 1, rtol=1e-5)  # so every question is answered


def test_what_is_done_is_read_and_other_settings_are_fitted_anew(answers, sae, survey, folder, tables, monkeypatch):
    def refuse(*args, **settings):
        raise AssertionError("fitted again")

    for name in ("fit_frozen", "fit_dense", "from_shared", "shuffled_groups"):
        monkeypatch.setattr(evaluate, name, refuse)
    again = evaluate.evaluation(answers, sae, survey, FOLDS, folder, seeds=range(2), **SETTINGS)
    for name, found in tables.items():
        np.testing.assert_array_equal(found, again[name])
    with pytest.raises(AssertionError, match="fitted again"):
        evaluate.evaluation(answers, sae, survey, FOLDS, folder, seeds=range(2), epochs=2, lr=0.1)


def test_what_was_made_under_other_terms_is_made_anew(tmp_path):
    path, made = tmp_path / "a.safetensors", []

    def make():
        made.append(1)
        return {"x": np.full((1, 2, 2), float(len(made)))}

    for about, expected in ((["one"], 1), (["one"], 1), (["two"], 2), (["one"], 3)):
        assert evaluate.remembered(path, about, make)["x"][0, 0, 0] == expected


def test_references_and_a_claims_page_from_all_of_it(answers, survey, folder, tables):
    tables = dict(tables)
    found = evaluate.references(answers, survey, by_question(FOLDS))
    fitted = {"calibrated-shared", "calibrated", "unembedding", "probe"}
    assert set(found) == {"uniform", "everyone", "position-prior"} | fitted
    tables |= {name: [table] for name, table in found.items()} | {"unsteered": [answers.predict().numpy()]}
    cells = {name: [score(survey, table).kl for table in seeds] for name, seeds in tables.items()}
    cells["other-delta"] = [others_kl(survey, table, same_attribute=True) for table in tables["delta"]]
    table = claims_table(survey, cells, CLAIMS, np.arange(12), 100)
    assert table["claim"].nunique() == len(CLAIMS)  # no claim names a method that no code makes
    assert "Not tested" not in claims_page(CLAIMS, table)


def test_the_default_books_direction_needs_few_prompts(answers, survey):
    found = evaluate.persona_directions(answers, survey, by_question(FOLDS), count=6)
    assert found.log_probs.shape == (4, 12, 2) and len(found.offsets) == 3
