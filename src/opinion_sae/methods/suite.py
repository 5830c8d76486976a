"""All methods that are read on kept answers, by their names in `alignment.csv`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from opinion_sae.delta.directions import Effects
from opinion_sae.delta.files import Answers
from opinion_sae.delta.fit import fit_dense, fit_from_shared, fit_frozen
from opinion_sae.delta.held_out import HeldOut, Split, by_survey, by_topic, held_out
from opinion_sae.delta.offsets import DenseOffset, GroupDelta
from opinion_sae.delta.reading import BETWEEN
from opinion_sae.delta.settings import FitSettings
from opinion_sae.methods.baselines import position_prior, uniform
from opinion_sae.methods.controls import diff_means, from_offsets, permuted_decoder, shuffled_groups
from opinion_sae.methods.from_features import all_candidates, read_only, word_candidates
from opinion_sae.methods.personas import persona_residuals, spread
from opinion_sae.methods.question_tokens import QuestionTokens
from opinion_sae.methods.reading import (
    Base,
    fit_reading,
    held_out_reading,
    held_out_readings,
    read_outs,
    reading,
    reading_and_controls,
)
from opinion_sae.methods.readout import calibrated, probe, unembedding
from opinion_sae.model.answers import AnswerPath
from opinion_sae.progress import progress
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.score.toplines import everyone
from opinion_sae.survey import Survey

READ_OUTS_OF_SAE = ("direct", "words+direct", "direct-shuffled")  # the others are the same under every seed
ON_OTHER_SPLITS = ("delta-reading", "delta-reading-64", "dense-reading")
LEARNING = ("delta-reading", "dense-reading", "words")


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


def of_seed(
    answers: AnswerPath,
    tokens: QuestionTokens,
    sae: SparseAutoencoder,
    survey: Survey,
    splits: Sequence[Split],
    settings: FitSettings,
) -> tuple[Answers, dict[str, HeldOut]]:
    """Under one seed 'shared-delta' and 'delta', the offsets that read with their controls, and the read-outs of the
    SAE's latents; and the fits of the first two."""
    fits = two_stages(answers, sae, survey, splits, settings)
    bases = bases_of(answers, splits, fits["shared-delta"].offsets)
    reads = reading_and_controls(answers, sae, survey, bases, seed=settings.seed)
    candidates = all_candidates(survey, tokens, sae, settings.seed)
    tables, _ = read_only(survey, splits, {name: candidates[name] for name in READ_OUTS_OF_SAE})
    return {name: fit.log_probs for name, fit in (fits | reads).items()} | tables, fits


def rest_of_seed(
    answers: AnswerPath,
    survey: Survey,
    splits: Sequence[Split],
    shared: Sequence[GroupDelta],
    deltas: Sequence[GroupDelta],
    settings: FitSettings,
) -> Answers:
    """'dense', and the `controls` of the two stages' offsets, under one seed."""
    dense = held_out(answers, splits, lambda split: fit_dense(answers, survey, split, settings))
    return {"dense": dense.log_probs, **controls(answers, survey, splits, shared, deltas, settings)}


def bases_of(answers: AnswerPath, splits: Sequence[Split], shared: Sequence[GroupDelta]) -> list[Base]:
    """What offsets that read start from: each split's shared part."""
    return [Base.of(answers, split, offset) for split, offset in zip(splits, shared, strict=True)]


def on_other_splits(
    answers: AnswerPath,
    tokens: QuestionTokens,
    sae: SparseAutoencoder,
    survey: Survey,
    splits: Sequence[Split],
    settings: FitSettings,
) -> Answers:
    """'shared-delta' and 'delta', `ON_OTHER_SPLITS` of the offsets that read, and read-outs of words and of latents."""
    fits = two_stages(answers, sae, survey, splits, settings)
    each = read_outs(answers, sae, survey, seed=settings.seed)
    bases = bases_of(answers, splits, fits["shared-delta"].offsets)
    reads = held_out_readings({name: each[name] for name in ON_OTHER_SPLITS}, bases)
    candidates = all_candidates(survey, tokens, sae, settings.seed)
    tables, _ = read_only(survey, splits, {name: candidates[name] for name in ("words", "direct", "words+direct")})
    return {name: fit.log_probs for name, fit in (fits | reads).items()} | tables


def with_fewer(split: Split, share: float, seed: int) -> Split:
    """A share of the split's training and of its validation questions, two of each at least; a smaller share is part of
    a larger one."""
    rng = np.random.default_rng(seed)
    train, validation = (
        np.sort(rng.permutation(part)[: max(2, round(share * len(part)))]) for part in (split.train, split.validation)
    )
    return split._replace(train=train, validation=validation)


def learned_from(
    answers: AnswerPath, sae: SparseAutoencoder, survey: Survey, splits: Sequence[Split], settings: FitSettings
) -> Answers:
    """`LEARNING`: reading latents, the stream or words, for the learning curve."""
    shared = first_stage(answers, sae, survey, splits, settings).offsets
    each = read_outs(answers, sae, survey, seed=settings.seed)
    chosen = {name: each[name] for name in LEARNING if name in each}
    reads = held_out_readings(chosen, bases_of(answers, splits, shared))
    words, _ = read_only(survey, splits, {"words": word_candidates(survey)})
    return {name: held.log_probs for name, held in reads.items()} | words


def leave_intersections_out(
    answers: AnswerPath, sae: SparseAutoencoder, crossed: Survey, splits: Sequence[Split]
) -> Answers:
    """`delta-reading` for intersections of groups, from toplines, so without a shared part: fitted to all of them
    ('delta-reading-fitted'), and each by the sum of its groups' codes as fitted to the other intersections
    ('delta-reading-left-out'). NaN for one with a group that is in no other."""
    effects = Effects(answers)
    bases = [Base(split, effects) for split in splits]
    fitted = held_out_reading([reading(answers, sae, crossed)] * len(splits), bases).log_probs
    out = np.full_like(fitted, np.nan)
    for number, group in enumerate(progress(crossed.groups, "intersections left out")):
        others = [other for other in range(len(crossed.groups)) if other != number]
        parts = {part for other in others for part in crossed.groups[other].split(BETWEEN)}
        if not parts >= set(group.split(BETWEEN)):
            continue
        read_out = reading(answers, sae, crossed.select(groups=others))
        for base in bases:
            offset = fit_reading(read_out, base.split, effects)[0].for_groups([group])
            out[number, base.split.test] = answers.predict(offset, torch.from_numpy(base.split.test))[0]
    return {"delta-reading-fitted": fitted, "delta-reading-left-out": out}


def other_splits(survey: Survey, count: int, seed: int) -> dict[str, list[Split]]:
    """Topics and surveys left out, where the survey has enough of them, by the ending of a method's name."""
    found, topics = {}, {question.topic for question in survey.questions}
    if len(topics) >= 3:
        found["-by-topic"] = by_topic(survey, min(count, len(topics)), seed)
    if len({question.survey for question in survey.questions}) > 1:
        found["-by-survey"] = by_survey(survey, count, seed)
    return found
