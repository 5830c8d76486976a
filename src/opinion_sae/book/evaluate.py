"""All comparisons of one run, by their names in `alignment.csv`: those on kept answers, and those that take longer.

    python -m opinion_sae.book.evaluate PROFILE

runs the latter for a profile whose book is finished, and goes on where it was stopped.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from safetensors.numpy import save_file
from torch import Tensor

from opinion_sae.artifacts import read_json, replacing, write_csv, write_json
from opinion_sae.book.claims import CLAIMS, claims_page, kl_cells
from opinion_sae.book.paths import open_run
from opinion_sae.book.profile import Profile, load_profile
from opinion_sae.delta.crossfit import CrossFit, load_activations, load_answers
from opinion_sae.delta.fit import fit_dense, fit_frozen
from opinion_sae.delta.held_out import Split, by_question, by_survey, by_topic, held_out, leave_groups_out
from opinion_sae.delta.offsets import DenseOffset, GroupDelta
from opinion_sae.effects.facts import load_facts, load_passages
from opinion_sae.effects.side_effects import Cells, measure, side_effects_table, unsteered
from opinion_sae.effects.text_before import LORA, Elsewhere, Tables, lora, prompts
from opinion_sae.methods.baselines import position_prior, uniform
from opinion_sae.methods.controls import diff_means, from_offsets, from_shared, permuted_decoder, shuffled_groups
from opinion_sae.methods.personas import persona_residuals, read_part, spread
from opinion_sae.methods.readout import calibrated, probe, unembedding
from opinion_sae.model.answers import AnswerPath
from opinion_sae.model.language_model import LanguageModel, load_language_model
from opinion_sae.sae.autoencoder import SparseAutoencoder, load_sae
from opinion_sae.sae.quality import obtain_sae
from opinion_sae.score.metrics import Scores, alignment_table, noise_floor, score
from opinion_sae.score.statistics import claims_table, verdicts
from opinion_sae.score.toplines import everyone
from opinion_sae.survey import Survey, load_survey, question_clusters, question_folds, survey_hash

SEEDS = 5
ANSWERS = tuple(f"answers{part}.safetensors" for part in ("", "-joint", "-controls", "-selected"))  # of the chapters
PACKAGES = ("opinion-sae", "torch", "transformers", "peft", "sae-lens", "numpy")
# where the questions tested come from, by the end of a method's name
SPLITS = {"-by-topic": "topic", "-by-survey": "survey", "left-out-shared": "group", "left-out-sibling": "group"}


def references(
    answers: AnswerPath, survey: Survey, splits: Sequence[Split]
) -> tuple[Tables, Float[Tensor, "split group letter d"]]:
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


def persona_directions(answers: AnswerPath, survey: Survey, splits: Sequence[Split], count: int = 2) -> CrossFit:
    """'diff-means' from the 'portray' prompts of a few questions for each group, each in one order of its options.

    Of each split's test questions `count` are asked, at most a quarter but one at least, spread evenly; each split uses
    those that are its training questions.
    """
    chosen = [spread(split.test, max(1, min(count, len(split.test) // 4))) for split in splits]
    asked = np.unique(np.concatenate(chosen))
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
    return {"shared-delta": shared, "delta": from_shared(answers, sae, survey, splits, shared.offsets, **settings)}


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
    saes: Callable[[int], SparseAutoencoder],
    survey: Survey,
    folds: Int[np.ndarray, "question"],
    folder: Path,
    book: Tables,
    elsewhere: Elsewhere,
    seeds: Sequence[int] = range(SEEDS),
    **settings: float | int,
) -> tuple[dict[str, list[Float[np.ndarray, "_ question option"]]], dict[str, Cells]]:
    """What takes too long for the book: more seeds, other splits, groups left out, persona prompts, LoRA. Resumable.

    Each item is kept in `folder` as soon as it is done, under a hash of all that it depends on; what is there is read.
    Returns held-out log p by method, one table per seed, and side effects of what `told` has, measured on `elsewhere`
    too. `book` has the tables of the first seed, and everything of one. The first seed is that of the other splits too.
    `saes` gives the SAE of a seed. `settings` go to `fit_offset`.
    """
    splits, count, first = by_question(folds), int(folds.max()) + 1, seeds[0]
    sae = saes(first)
    about = [answers.lm.sha256, str(answers.lm.dtype), survey_hash(survey), answers.orders, folds.tolist(), first]
    fitted = [sae.sha256(), answers.hook_layer, sorted(settings.items())]  # prompts and LoRA do without

    def kept(name: str, make: Callable[[], Tables], *more: object) -> Tables:
        return remembered(folder / f"{name}.safetensors", [name, *about, *more], make)

    tables = {name: [table] for name, table in book.items()}
    for seed in seeds[1:]:

        def run(seed: int = seed) -> Tables:
            return one_seed(answers, saes(seed), survey, splits, seed, **settings)

        for name, table in kept(f"seed-{seed}", run, *fitted).items():
            tables[name].append(table)

    def on_others(others: Sequence[Split], suffix: str) -> Tables:
        both = two_stages(answers, sae, survey, others, seed=first, **settings)
        return {name + suffix: fit.log_probs for name, fit in both.items()}

    def without(others: Survey, train: np.ndarray, validation: np.ndarray) -> tuple[GroupDelta, pd.DataFrame]:
        parts = {"train": train.tolist(), "validation": validation.tolist()}
        return fit_frozen(answers, sae, others, **parts, seed=first, **settings)

    once: Tables = {}
    for suffix, others in other_splits(survey, count, first).items():
        once |= kept(f"split{suffix}", partial(on_others, others, suffix), *fitted)
    once |= kept("left-out", lambda: leave_groups_out(answers, sae, survey, splits, without), *fitted)
    asked, cells = prompts(answers, survey, splits, folder, elsewhere, kept)
    adapted, of_lora = lora(answers, survey, splits, first, elsewhere, kept)
    return tables | {name: [table] for name, table in (once | asked | adapted).items()}, cells | of_lora


def other_splits(survey: Survey, count: int, seed: int) -> dict[str, list[Split]]:
    """Topics and surveys left out, where the survey has enough of them."""
    found, topics = {}, {question.topic for question in survey.questions}
    if len(topics) >= 3:
        found["-by-topic"] = by_topic(survey, min(count, len(topics)), seed)
    if len({question.survey for question in survey.questions}) > 1:
        found["-by-survey"] = by_survey(survey, count, seed)
    return found


def remembered(path: Path, about: Sequence[object], make: Callable[[], Tables]) -> Tables:
    """The tables in `path` if they were made under the same `about`; else make them and write them there, and beside
    them in a .json the seconds that it took."""
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()
    tables = read_part(path, key)
    if tables is None:
        start = time.perf_counter()
        tables = make()
        with replacing(path) as side:
            whole = {name: np.ascontiguousarray(table) for name, table in tables.items()}
            save_file(whole, side, metadata={"key": key})
        write_json(path.with_suffix(".json"), {"seconds": round(time.perf_counter() - start, 1)})
    return tables


def evaluation_tables(
    survey: Survey, tables: dict[str, list[Float[np.ndarray, "_ question option"]]], replicates: int, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The columns of `alignment.csv`, cells averaged over seeds, and those of `claims.csv`, with seeds drawn too."""
    clusters, floor = question_clusters(survey), noise_floor(survey, seed=seed)
    scores = {
        name: Scores(*np.mean([score(survey, table) for table in seeds], axis=0)) for name, seeds in tables.items()
    }
    rows = alignment_table(survey, scores, floor, clusters, "question", replicates, seed)
    for ending, split in SPLITS.items():
        rows.loc[rows["method"].str.endswith(ending), "split"] = split
    return rows, claims_table(survey, kl_cells(survey, tables), CLAIMS, clusters, replicates, seed)


def evaluate(profile: Profile) -> Path:
    """Run `evaluation` on what the book of a profile left, and write its tables to the results folder.

    `evaluate.csv`, `evaluate_claims.csv`, `evaluate_side_effects.csv` and, last, `evaluate.json`: hashes, versions,
    machine and seconds per item.
    """
    run = open_run(profile.output)
    book = {name: table for file in ANSWERS for name, table in load_answers(run.work, file).items()}
    survey = load_survey(profile.survey, profile.min_respondents, profile.attributes, profile.max_questions)
    lm = load_language_model(profile.model, profile.dtype)
    saes = partial(sae_of_seed, profile, lm)
    answers = AnswerPath(lm, survey.questions, profile.hook_layer, profile.option_orders)
    folds, folder = question_folds(survey, profile.folds, profile.seed), run.work / "evaluate"
    seeds = range(profile.seed, profile.seed + SEEDS)
    facts = load_facts(profile.max_questions)
    passages = load_passages(profile.folds if profile.max_questions else 0)
    elsewhere = Elsewhere(lm, facts, passages)
    tables, cells = evaluation(answers, saes, survey, folds, folder, book, elsewhere, seeds, **fit_settings(profile))
    rows, claims = evaluation_tables(survey, tables, profile.bootstrap, profile.seed)
    plain = measure(lm, answers, survey, folds, {"unsteered": unsteered(folds)}, facts, passages)
    effects = side_effects_table(survey, plain | cells, question_clusters(survey), profile.bootstrap, profile.seed)
    write_csv(run.results / "evaluate.csv", rows)
    write_csv(run.results / "evaluate_claims.csv", claims)
    write_csv(run.results / "evaluate_side_effects.csv", effects[effects["method"] != "unsteered"])
    items = {path.stem: read_json(path)["seconds"] for path in sorted(folder.glob("*.json"))}
    about = {
        "hashes": {"data": survey_hash(survey), "model": lm.sha256, "sae": saes(profile.seed).sha256()},
        "profile": asdict(profile),
        "seeds": list(seeds),
        "lora": LORA,
        "seconds": {**items, "total": round(sum(items.values()), 1)},
        "machine": f"{os.cpu_count()} CPU cores ({platform.system()}, {platform.machine()})",
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    write_json(run.results / "evaluate.json", about)
    return run.results / "evaluate.csv"


def sae_of_seed(profile: Profile, lm: LanguageModel, seed: int) -> SparseAutoencoder:
    """The SAE of the book for the profile's seed; for another, one trained anew on the same activations, if the
    profile trains it at all."""
    run = open_run(profile.output)
    if seed == profile.seed or profile.sae != "train":
        return load_sae(run.work / "sae").requires_grad_(False)
    size = {"width": profile.sae_width, "k": profile.sae_k, "steps": profile.sae_steps}
    size |= {"batch": profile.sae_batch, "lr": profile.sae_lr, "seed": seed}
    sae, _ = obtain_sae("train", lm, *load_activations(run.work), profile.hook_layer, **size)
    return sae.requires_grad_(False)


def fit_settings(profile: Profile) -> dict[str, float | int]:
    """The profile's settings under the names of `fit_offset`."""
    return {
        "epochs": profile.epochs,
        "batch": profile.batch_questions,
        "lr": profile.delta_lr,
        "shared_lr": profile.shared_lr,
        "l1_weight": profile.l1,
        "patience": profile.patience,
    }


class Evaluated(NamedTuple):
    """What `make evaluate` left for a run; tables without rows, and a note that says why, if it is of another."""

    rows: pd.DataFrame  # the columns of alignment.csv
    claims: pd.DataFrame  # the columns of claims.csv
    side_effects: pd.DataFrame  # the columns of side_effects.csv
    note: str


def load_evaluated(results: Path, survey: Survey, model: str) -> Evaluated:
    """The tables of `evaluate` in a results folder, if they are of this survey and of the model of this hash."""
    if not (results / "evaluate.json").is_file():
        note = "`make evaluate` has not been run for this profile, so what takes longer is not here."
    else:
        hashes = read_json(results / "evaluate.json")["hashes"]
        wrong = [name for name, ours in (("data", survey_hash(survey)), ("model", model)) if hashes[name] != ours]
        if not wrong:
            rows, claims, effects = (
                pd.read_csv(results / f"evaluate{name}.csv") for name in ("", "_claims", "_side_effects")
            )
            claims["verdict"] = verdicts(claims)  # by today's rule, whenever the table was made
            return Evaluated(rows, claims, effects, "Of this survey and model are also the tables of `make evaluate`.")
        note = f"The tables of `make evaluate` are of other {' and '.join(wrong)} than this run, and are left out."
    return Evaluated(pd.DataFrame({"method": []}), pd.DataFrame({"claim": []}), pd.DataFrame({"method": []}), note)


def with_evaluated(table: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """A table with a row for each method and, below it, the rows of the methods that only `make evaluate` has."""
    new = rows[~rows["method"].isin(table["method"])]
    return pd.concat([table, new], ignore_index=True) if len(new) else table


def evaluated_page(evaluated: Evaluated) -> str:
    """MyST text: the claims page of `make evaluate`, after the note on where it comes from."""
    claims = [replace(claim, figure="fig-evaluated", command="make evaluate") for claim in CLAIMS]
    pages = [claims_page(claims, evaluated.claims)] if len(evaluated.claims) else []
    return "\n\n".join([evaluated.note, *pages])


def main(arguments: list[str]) -> None:
    if len(arguments) != 1:
        sys.exit(__doc__)
    try:
        print(f"written: {evaluate(load_profile(arguments[0]))}")
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
