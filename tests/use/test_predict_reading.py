"""Predictions of an offset that reads: kept, read back, and what it read of each question, by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from opinion_sae.delta.reading import ReadingDelta
from opinion_sae.model.answers import AnswerPath
from opinion_sae.use.asked import Asked
from opinion_sae.use.predict import predict
from opinion_sae.use.published_run import keep_published, load_published_run

LAYER = 2


@pytest.fixture
def run(tmp_path, lm, tiny, six_questions):
    answers = AnswerPath(lm, six_questions.questions, LAYER)
    offset = ReadingDelta(six_questions.groups, tiny.sae(), axes=2, directions=1)
    offset.learn_weights(answers.read(offset.sae, "question", torch.arange(0, 12, 2)))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for part in (offset.a, offset.b, offset.c):
            part.copy_(2 * torch.randn(part.shape, generator=generator))
    held_out = answers.predict(offset).numpy()
    keep_published(tmp_path / "kept", answers, offset, six_questions, held_out, np.arange(6) % 2)
    return replace(load_published_run(tmp_path / "kept"), labels={4: "roads"})


def test_shares_and_what_was_read(run, lm, tiny):
    asked = [Asked(question) for question in tiny.questions]
    found = predict(run, asked, lm)
    answers = AnswerPath(lm, tiny.questions, LAYER)
    expected = answers.predict(run.offset).exp()
    first = found.shares[(found.shares["question"] == "a") & (found.shares["group"] == "Male")]
    assert first["share"].to_numpy() == pytest.approx(expected[1, 0, :2].numpy(), abs=1e-6)
    r = run.offset.weigh(answers.read(run.offset.sae, "question", torch.arange(0, 6, 2)))
    score = run.offset.scores(answers.read(run.offset.sae, "question", torch.arange(0, 6, 2)))
    for (key, axis), rows in found.read.groupby(["question", "axis"]):
        q = [question.key for question in tiny.questions].index(key)
        assert rows["score"].to_numpy() == pytest.approx(score[q, axis - 1, 0].item(), abs=1e-5)
        assert rows["contribution"].abs().is_monotonic_decreasing and len(rows) <= 10
        assert rows["activation"].to_numpy() == pytest.approx(r[q, rows["latent"].tolist()].numpy(), abs=1e-6)
        assert (rows["contribution"] - rows["activation"] * rows["weight"]).abs().max() < 1e-6
    assert (found.read["label"] == np.where(found.read["latent"] == 4, "roads", "")).all()
    assert set(found.read["axis"]) == {1, 2} and set(found.read["question"]) == {"a", "b", "c"}
