"""Fit offsets to all questions of a survey: the constant one, or one that reads the question."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from opinion_sae.delta.directions import Effects
from opinion_sae.delta.held_out import by_question
from opinion_sae.delta.joint import fit_constant
from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.delta.reading import ReadingDelta
from opinion_sae.delta.settings import FitSettings
from opinion_sae.methods.reading import AXES, fit_reading, reading
from opinion_sae.model.answers import AnswerPath
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.survey import Survey, question_folds

FOLDS = 5  # one fifth of the questions chooses, where something is to be chosen


def fit_delta(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    survey: Survey,
    *,
    reads: str | None = None,
    axes: int | None = None,
    latents: int | None = None,
    tokens: Float[Tensor, "token d"] | None = None,
    settings: FitSettings | None = None,
) -> tuple[GroupDelta | ReadingDelta, pd.DataFrame]:
    """Offsets of every group, fitted to all questions, and the fit's history.

    Without `reads`: Delta_g = Delta_shared + D_g, the same for every question; with `tokens`, activations to
    reconstruct, the SAE is trained along. With `reads` ('last', 'question' or 'options'):
    Delta_g(r) = D_g + sum_k c_gk sum_w (a_kw . r) b_kw, where r is the bag of latents over the place read
    (`delta.reading`). The strengths and, if it is not given, the number of `axes` are chosen on a fifth of the
    questions, near-duplicates together; then all are fitted to. `latents` bounds how many an axis may read, or how many
    a group's constant offset may move.

    Raises ValueError for a place that cannot be read, for `axes` of an offset that reads nothing, and for `tokens` or
    `settings` of one that reads, whose fit has neither.
    """
    if reads is None:
        if axes is not None:
            raise ValueError("axes are those of an offset that reads: say what, such as reads='question'")
        mode = "frozen" if tokens is None else "joint"
        return fit_constant(answers, sae, survey, mode, latents, tokens, settings)
    if tokens is not None or settings is not None:
        raise ValueError("an offset that reads is fitted from a read-out: it takes no `tokens` and no `settings`")
    split = by_question(question_folds(survey, FOLDS, 0))[0]
    everything = split._replace(train=np.sort(np.concatenate([split.train, split.test])), test=np.arange(0))
    counts = AXES if axes is None else (axes,)
    read_out = reading(answers, sae, survey, latents)
    offset, choice = fit_reading(read_out, everything, Effects(answers), places=(reads,), axes=counts)
    assert isinstance(offset, ReadingDelta)
    return offset, pd.DataFrame([choice])
