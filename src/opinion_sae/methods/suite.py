"""All methods that are read on kept answers, by their names in `alignment.csv`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from opinion_sae.delta.files import Answers
from opinion_sae.delta.fit import fit_dense, fit_from_shared, fit_frozen
from opinion_sae.delta.held_out import HeldOut, Split, by_survey, by_topic, held_out
from opinion_sae.delta.offsets import DenseOffset, GroupDelta
from opinion_sae.delta.settings import FitSettings
from opinion_sae.methods.baselines import position_prior, uniform
from opinion_sae.methods.controls import diff_means, from_offsets, permuted_decoder, shuffled_groups
from opinion_sae.methods.personas import persona_residuals, spread
from opinion_sae.methods.readout import calibrated, probe, unembedding
from opinion_sae.model.answers import AnswerPath
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.score.toplines import everyone
from opinion_sae.survey import Survey


def first_stage(
    answers: AnswerPath, sae: SparseAutoencoder, survey: Survey, splits: Sequence[Split], settings: FitSettings
) -> HeldOut:
    """'shared-delta': Delta_shared alone."""

    def fit(split: Split) -> tuple[GroupDelta, pd.DataFrame]:
        return fit_frozen(answers, sae, survey, split, settings, stages=("shared",))

    return held_out(answers, splits, fit)


def two_stages(
    answers: AnswerPath, sae: SparseAutoencoder, survey: Survey, splits: Sequence[Split], settings: FitSettings
) -> dict[str, HeldOut]:
    """'shared-delta' and 'delta', as `fit_frozen` fits both, the first stage once for the two of them."""

    def fit(split: Split, start: GroupDelta) -> tuple[GroupDelta, pd.DataFrame]:
        return fit_from_shared(answers, survey, split, start, settings)

    shared = first_stage(answers, sae, survey, splits, settings)
    delta = held_out(answers, splits, fit, shared.offsets)
    return {"shared-delta": shared, "delta": delta._replace(history=pd.concat([shared.history, delta.history]))}


def fit_methods(
    answers: AnswerPath, sae: SparseAutoencoder, survey: Survey, splits: Sequence[Split], settings: FitSettings
) -> dict[str, HeldOut]:
    """Held-out fits of the offsets, beside 'unsteered': `two_stages` and 'dense'."""

    def fit(split: Split) -> tuple[DenseOffset, pd.DataFrame]:
        return fit_dense(answers, survey, split, settings)

    unsteered = HeldOut(answers.predict().numpy(), [], pd.DataFrame())
    fits = {"unsteered": unsteered, **two_stages(answers, sae, survey, splits, settings)}
    return fits | {"dense": held_out(answers, splits, fit)}


def references(
    answers: AnswerPath, survey: Survey, splits: Sequence[Split]
) -> tuple[Answers, Float[Tensor, "split group letter d"]]:
    """Answers that steer nothing, seconds in all; and the rows of the trained unembedding."""
    trained, rows = unembedding(answers, survey, splits)
    return {
        "uniform": uniform(survey),
        "everyone": everyone(survey),
        "position-prior": position_prior(survey, splits),
        "calibrated-shared": calibrated(answers, survey, splits, shared=True),
        "calibrated": calibrated(answers, survey, splits),
        "unembedding": trained,
        "probe": probe(answers, survey, splits),
    }, rows


def controls(
    answers: AnswerPath,
    survey: Survey,
    splits: Sequence[Split],
    shared: Sequence[GroupDelta],
    deltas: Sequence[GroupDelta],
    settings: FitSettings,
) -> Answers:
    """Controls on kept answers, beside 'shared-delta' (its offsets: `shared`) and 'delta' (`deltas`), one per split.

    Two fits are new: the second stage under shuffled labels, to hold against 'delta', and the first with a permuted
    decoder, to hold against 'shared-delta'. `settings` are those of the fits compared with.
    """
    other = permuted_decoder(deltas[0].sae, settings.seed)
    return {
        **from_offsets(answers, splits, deltas, settings.seed),
        "shuffled-groups": shuffled_groups(answers, survey, splits, shared, settings).log_probs,
        "permuted-decoder": first_stage(answers, other, survey, splits, settings).log_probs,
    }


def persona_directions(answers: AnswerPath, survey: Survey, splits: Sequence[Split], count: int = 2) -> HeldOut:
    """'diff-means' from the 'portray' prompts of a few questions for each group, each in one order of its options.

    Of each split's test questions `count` are asked, at most a quarter but one at least, spread evenly; each split uses
    those that are its training questions.
    """
    chosen = [spread(split.test, max(1, min(count, len(split.test) // 4))) for split in splits]
    asked = np.unique(np.concatenate(chosen))
    residuals = persona_residuals(answers.lm, survey, answers.hook_layer, "portray", asked)
    return diff_means(answers, survey, splits, residuals, asked)


def one_seed(
    answers: AnswerPath, sae: SparseAutoencoder, survey: Survey, splits: Sequence[Split], settings: FitSettings
) -> Answers:
    """Every method that is fitted on kept answers, and its controls, under one seed."""
    fits = fit_methods(answers, sae, survey, splits, settings)
    shared, deltas = fits["shared-delta"].offsets, fits["delta"].offsets
    others = controls(answers, survey, splits, shared, deltas, settings)
    return {name: fit.log_probs for name, fit in fits.items() if name != "unsteered"} | others


def other_splits(survey: Survey, count: int, seed: int) -> dict[str, list[Split]]:
    """Topics and surveys left out, where the survey has enough of them, by the ending of a method's name."""
    found, topics = {}, {question.topic for question in survey.questions}
    if len(topics) >= 3:
        found["-by-topic"] = by_topic(survey, min(count, len(topics)), seed)
    if len({question.survey for question in survey.questions}) > 1:
        found["-by-survey"] = by_survey(survey, count, seed)
    return found
