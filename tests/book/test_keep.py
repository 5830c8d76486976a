"""What a run keeps for predictions, and that an SAE above the limit is said and not kept."""

import numpy as np
import pytest
import torch

from opinion_sae.artifacts import read_json
from opinion_sae.book import keep
from opinion_sae.book.paths import Run
from opinion_sae.delta.reading import ReadingDelta
from opinion_sae.model.answers import AnswerPath
from opinion_sae.use.published_run import load_published_run


@pytest.mark.parametrize("limit", [10_000_000, 100])
def test_the_run_is_kept_unless_its_sae_is_too_large(tiny, tmp_path, monkeypatch, limit):
    rng = np.random.default_rng(0)
    questions = [tiny.question(f"q{i}", ("Yes", "No"), f"Is {word} so?") for i, word in enumerate("abcdef")]
    survey, lm, sae = tiny.survey(rng.dirichlet([5, 5], (2, 6)), questions), tiny.lm("llama"), tiny.sae()
    offset = ReadingDelta(survey.groups, sae, axes=1)
    monkeypatch.setattr(keep, "LARGEST_SAE", limit)
    monkeypatch.setattr(Run, "work", property(lambda run: tmp_path))
    answers, folds = AnswerPath(lm, questions, 1, orders=1), np.arange(6) % 3
    held_out = answers.predict(offset).numpy()
    said = keep.keep_for_predict(Run("some", tmp_path), answers, offset, survey, held_out, folds, {})
    numbers, hashes = read_json(tmp_path / "numbers-predict.json"), read_json(tmp_path / "hash-published.json")
    assert numbers["coverage_alone"].startswith("alone: intervals made for 90%") and "coverage_toplines" in numbers
    assert "Task *alone*: intervals made for 90%" in said and "Task *toplines*: intervals made for 90%" in said
    if limit > 100:
        assert load_published_run(tmp_path / "published").groups == survey.groups
        assert "about.json" in hashes and said.startswith("Kept")
        assert torch.equal(load_published_run(tmp_path / "published").offset.c, offset.c)
    else:
        assert hashes == {} and not (tmp_path / "published").exists() and "is not kept" in said
