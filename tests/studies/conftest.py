"""A small model, a survey and speeches to run studies on."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from opinion_sae.artifacts import write_json
from opinion_sae.delta.held_out import by_question
from opinion_sae.delta.settings import FitSettings
from opinion_sae.model.answers import AnswerPath
from opinion_sae.sae.train import train_sae
from opinion_sae.studies import Given, ground

WORDS = "taxes schools rivers police bread music trains winter horses banks islands towers".split()


@pytest.fixture(scope="session")
def book(lm, tiny, tmp_path_factory):
    """What the book of a small model left, with 24 questions in three folds and a SAE of 48 latents."""
    work = tmp_path_factory.mktemp("book")
    rng = np.random.default_rng(0)
    questions = [tiny.question(f"q{i}", "ab", f"{WORDS[i % 12]} {i}?", "xyz"[i % 3]) for i in range(24)]
    questions = [dataclasses.replace(question, survey="one") for question in questions]
    survey = tiny.survey(rng.dirichlet(np.ones(2), (4, 24)), questions, "fmdr", ["sex", "sex", "party", "party"])
    answers = AnswerPath(lm, survey.questions, 1, orders=1)
    tokens = torch.randn(600, lm.width, generator=torch.Generator().manual_seed(0)) @ torch.randn(lm.width, lm.width)
    save_file({"tokens": tokens[:500].half(), "held_out": tokens[500:].half()}, work / "activations.safetensors")
    write_json(work / "texts.json", {"training": [], "prompts": [], "held_out": ["It is so, and so it was. " * 20]})
    sae, _ = train_sae(tokens, 48, 4, steps=5, batch=64)
    sae.save(work / "sae")
    training = {"width": 48, "k": 4, "steps": 5, "batch": 64, "lr": 1e-3}
    splits = by_question(np.arange(24) // 3 % 3)
    return Given(answers, survey, splits, FitSettings(epochs=1), training, work, work, replicates=20)


@pytest.fixture
def given(book, tmp_path, monkeypatch):
    """The same, with a folder of its own speeches of two parties, and words, none of which its tokenizer has."""
    speech = "We are here to say what is to be done about the roads and the rivers. " * 30
    monkeypatch.setattr(ground, "addresses", lambda: [(year, f"{year} {speech}") for year in range(1901, 1941)])
    monkeypatch.setattr(ground, "parties", lambda: {year: "LR"[year // 4 % 2] for year in range(1901, 1941)})
    made = {"words": np.random.default_rng(0).normal(size=(60, 32)).astype(np.float32), "letters": np.arange(60) % 3}
    monkeypatch.setattr(ground, "words", lambda lm, hook_layer: made)
    return dataclasses.replace(book, folder=tmp_path)
