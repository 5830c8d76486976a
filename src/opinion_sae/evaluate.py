"""All comparisons of one run, by their names in `alignment.csv`: those on kept answers, and those that take hours."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from safetensors.numpy import save_file

from opinion_sae.answers import AnswerPath
from opinion_sae.artifacts import replacing
from opinion_sae.baselines import choose, everyone, position_prior, uniform
from opinion_sae.controls import diff_means, from_offsets, from_shared, permuted_decoder, shuffled_groups
from opinion_sae.crossfit import CrossFit
from opinion_sae.delta import DenseOffset, GroupDelta
from opinion_sae.fit import fit_dense, fit_frozen
from opinion_sae.personas import STYLES, few_shot, persona_answers, persona_residuals, read_part, spread_questions
from opinion_sae.readout import calibrated, probe, unembedding
from opinion_sae.sae import SparseAutoencoder
from opinion_sae.splits import Split, by_question, by_survey, by_topic, held_out, leave_groups_out
from opinion_sae.survey import Survey, survey_hash

Tables = dict[str, Float[np.ndarray, "_ question option"]]  # held-out log p by method; one row may stand for all


def references(answers: AnswerPath, survey: Survey, splits: Sequence[Split]) -> Tables:
    """Answers that steer nothing: seconds in all."""
    return {
        "uniform": uniform(survey),
        "everyone": everyone(survey),
        "position-prior": position_prior(survey, splits),
        "calibrated-shared": calibrated(answers, survey, splits, shared=True),
        "calibrated": calibrated(answers, survey, splits),
        "unembedding": unembedding(answers, survey, splits),
        "probe": probe(answers, survey, splits),
    }


def controls(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    survey: Survey,
    splits: Sequence[Split],
    shared: Sequence[GroupDelta],
    deltas: Sequence[GroupDelta],
    seed: int = 0,
    **settings: float | int,
) -> Tables:
    """Controls on kept answers, beside 'shared-delta' (its offsets: `shared`) and 'delta' (`deltas`), one per split.

    Two fits are new: the second stage under shuffled labels, to hold against 'delta', and the first with a permuted
    decoder, to hold against 'shared-delta'. `settings` are those of the fits compared with.
    """
    settings = {**settings, "seed": seed}
    return {
        **from_offsets(answers, sae, splits, deltas, seed),
        "shuffled-groups": shuffled_groups(answers, sae, survey, splits, shared, **settings).log_probs,
        "permuted-decoder": first_stage(answers, permuted_decoder(sae, seed), survey, splits, **settings).log_probs,
    }


def persona_directions(answers: AnswerPath, survey: Survey, splits: Sequence[Split], count: int = 8) -> CrossFit:
    """'diff-means' from the 'portray' prompts of `count` questions for each group, each in one order of its options."""
    asked = spread_questions(survey, count)
    residuals = persona_residuals(answers.lm, survey, answers.hook_layer, "portray", asked)
    return diff_means(answers, survey, splits, residuals, asked)[0]


def first_stage(
    answers: AnswerPath, sae: SparseAutoencoder, survey: Survey, splits: Sequence[Split], **settings: float | int
) -> CrossFit:
    """'shared-delta' for any splits."""

    def fit(train: np.ndarray, validation: np.ndarray) -> tuple[GroupDelta, pd.DataFrame]:
        parts = {"train": train.tolist(), "validation": validation.tolist()}
        return fit_frozen(answers, sae, survey, **parts, stages=("shared",), **settings)

    return held_out(answers, sae, splits, fit)


def two_stages(
    answers: AnswerPath, sae: SparseAutoencoder, survey: Survey, splits: Sequence[Split], **settings: float | int
) -> dict[str, CrossFit]:
    """'shared-delta' and 'delta' for any splits, the first stage fitted once for both."""
    shared = first_stage(answers, sae, survey, splits, **settings)
    return {
        "shared-delta": shared,
        "delta": from_shared(answers, sae, survey, splits, shared.offsets, **settings),
    }


def one_seed(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    survey: Survey,
    splits: Sequence[Split],
    seed: int,
    **settings: float | int,
) -> Tables:
    """Every method that is fitted on kept answers, and its controls, under one seed."""

    def fit(train: np.ndarray, validation: np.ndarray) -> tuple[DenseOffset, pd.DataFrame]:
        return fit_dense(answers, survey, train=train.tolist(), validation=validation.tolist(), seed=seed, **settings)

    fits = two_stages(answers, sae, survey, splits, seed=seed, **settings)
    fits["dense"] = held_out(answers, None, splits, fit)
    shared, deltas = fits["shared-delta"].offsets, fits["delta"].offsets
    others = controls(answers, sae, survey, splits, shared, deltas, seed, **settings)
    return {name: fit.log_probs for name, fit in fits.items()} | others


def evaluation(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    survey: Survey,
    folds: Int[np.ndarray, "question"],
    folder: Path,
    seeds: Sequence[int] = range(5),
    split_seed: int = 0,
    **settings: float | int,
) -> dict[str, list[Float[np.ndarray, "_ question option"]]]:
    """What takes too long for the book: more seeds, other splits, groups left out, persona prompts. Resumable.

    Each item is kept in `folder` as soon as it is done, under a hash of all that it depends on; what is there is read.
    Returns held-out log p by method, one table per seed. `settings` go to `fit_offset`.
    """
    splits, count = by_question(folds), int(folds.max()) + 1
    about = [answers.lm.sha256, str(answers.lm.dtype), sae.sha256(), survey_hash(survey), answers.hook_layer]
    about += [answers.orders, folds.tolist(), split_seed, sorted(settings.items())]

    def kept(name: str, make: Callable[[], Tables]) -> Tables:
        return remembered(folder / f"{name}.safetensors", [name, *about], make)

    def fits(splits: Sequence[Split], suffix: str, seed: int) -> Callable[[], Tables]:
        def make() -> Tables:
            both = two_stages(answers, sae, survey, splits, seed=seed, **settings)
            return {name + suffix: fit.log_probs for name, fit in both.items()}

        return make

    def seeded(seed: int) -> Callable[[], Tables]:
        return lambda: one_seed(answers, sae, survey, splits, seed=seed, **settings)

    tables: dict[str, list[np.ndarray]] = {}
    for seed in seeds:
        found = kept(f"seed-{seed}", seeded(seed))
        for suffix, others in _other_splits(survey, count, split_seed).items():
            found |= kept(f"seed-{seed}{suffix}", fits(others, suffix, seed))
        for name, table in found.items():
            tables.setdefault(name, []).append(table)

    def without(others: Survey, train: np.ndarray, validation: np.ndarray) -> tuple[GroupDelta, pd.DataFrame]:
        parts = {"train": train.tolist(), "validation": validation.tolist()}
        return fit_frozen(answers, sae, others, **parts, seed=split_seed, **settings)

    once = kept("left-out", lambda: leave_groups_out(answers, sae, survey, splits, without))
    once |= prompts(answers, survey, splits, folder)
    return tables | {name: [table] for name, table in once.items()}


def _other_splits(survey: Survey, count: int, seed: int) -> dict[str, list[Split]]:
    """Topics and surveys left out, where the survey has enough of them."""
    found, topics = {}, {question.topic for question in survey.questions}
    if len(topics) >= 3:
        found["-by-topic"] = by_topic(survey, min(count, len(topics)), seed)
    if len({question.survey for question in survey.questions}) > 1:
        found["-by-survey"] = by_survey(survey, count, seed)
    return found


def prompts(answers: AnswerPath, survey: Survey, splits: Sequence[Split], folder: Path) -> Tables:
    """Persona prompts of the three styles, the one chosen on validation, the direction from 'portray', and few-shot."""
    lm, layer, orders = answers.lm, answers.hook_layer, answers.orders
    styles, residuals = {}, {}
    for style in STYLES:
        found = persona_answers(lm, survey, layer, orders, style, folder)
        styles[f"prompt-{style}"], residuals[style] = found
    asked = np.arange(len(survey.questions))
    direction, _ = diff_means(answers, survey, splits, residuals["portray"], asked)
    return {
        **styles,
        "prompt-best": choose(survey, styles, splits)[0],
        "diff-means": direction.log_probs,
        "few-shot": few_shot(lm, survey, splits, layer, orders, folder),
    }


def remembered(path: Path, about: Sequence[object], make: Callable[[], Tables]) -> Tables:
    """The tables in `path` if they were made under the same `about`; else make them and write them there."""
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()
    tables = read_part(path, key)
    if tables is None:
        tables = make()
        with replacing(path) as side:
            whole = {name: np.ascontiguousarray(table) for name, table in tables.items()}
            save_file(whole, side, metadata={"key": key})
    return tables
