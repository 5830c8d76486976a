"""The front door's fit: constant offsets and those that read, on all questions of a survey."""

import pytest
import torch

from opinion_sae import AnswerPath, fit_delta, score
from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.delta.reading import ReadingDelta
from opinion_sae.delta.settings import FitSettings

LAYER = 2


@pytest.fixture
def answers(lm, six_questions):
    return AnswerPath(lm, six_questions.questions, LAYER)


def test_a_constant_offset(answers, tiny, six_questions):
    delta, history = fit_delta(answers, tiny.sae(), six_questions, latents=3, settings=FitSettings(epochs=1))
    assert isinstance(delta, GroupDelta) and delta.touched().max() <= 3 and len(history)
    assert score(six_questions, answers.log_probs(delta)).kl.shape == (2, 6)


def test_an_offset_that_reads(answers, tiny, six_questions):
    delta, history = fit_delta(answers, tiny.sae(), six_questions, reads="question", axes=2, latents=3)
    assert isinstance(delta, ReadingDelta) and delta.groups == six_questions.groups
    assert (delta.reads, history["axes"].tolist(), len(delta.a)) == ("question", [2], 2)
    assert (delta.a != 0).any(1).sum(1).max() <= 3
    shares = answers.predict(delta).exp()
    torch.testing.assert_close(shares.nan_to_num().sum(-1), torch.ones(2, 6), atol=1e-5, rtol=0)


def test_what_does_not_go_together_is_refused(answers, tiny, six_questions):
    with pytest.raises(ValueError, match="axes are those of an offset that reads"):
        fit_delta(answers, tiny.sae(), six_questions, axes=2)
    with pytest.raises(ValueError, match="takes no `tokens` and no `settings`"):
        fit_delta(answers, tiny.sae(), six_questions, reads="question", settings=FitSettings())
    with pytest.raises(ValueError, match="may read last, question, options, not 'answers'"):
        fit_delta(answers, tiny.sae(), six_questions, reads="answers")
