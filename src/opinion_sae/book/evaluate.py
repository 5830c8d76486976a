"""All comparisons of one run, by their names in `alignment.csv`: those on kept answers, and those that take longer.

    python -m opinion_sae.book.evaluate PROFILE

runs the latter for a profile whose book is finished, and goes on where it was stopped.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from opinion_sae.artifacts import check_fields, read_csv, read_json, remembered, write_csv, write_json
from opinion_sae.book.claims import CLAIMS, claims_page, kl_cells
from opinion_sae.book.paths import open_run
from opinion_sae.book.profile import Profile, load_profile
from opinion_sae.delta.files import Answers, load_answers
from opinion_sae.delta.fit import fit_frozen
from opinion_sae.delta.held_out import Split, by_question, fold_of, leave_groups_out
from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.delta.settings import FitSettings
from opinion_sae.effects.facts import load_facts, load_passages
from opinion_sae.effects.readers import Cells
from opinion_sae.effects.side_effects import measure, side_effects_table
from opinion_sae.effects.text_before import LORA, Elsewhere, Keep, Tables, lora, prompts
from opinion_sae.methods.suite import one_seed, other_splits, two_stages
from opinion_sae.model.activations import load_activations
from opinion_sae.model.answers import AnswerPath
from opinion_sae.model.language_model import LanguageModel, load_language_model
from opinion_sae.sae.autoencoder import SparseAutoencoder, load_sae
from opinion_sae.sae.quality import obtain_sae
from opinion_sae.score.metrics import Scores, alignment_table, noise_floor, score
from opinion_sae.score.statistics import claims_table, verdicts
from opinion_sae.survey import Survey, load_survey, question_clusters, question_folds, survey_hash

SEEDS = 5
EVALUATED = (  # end of a table's name, columns that are needed, and those of them that hold numbers
    ("", ("method", "group", "n_questions", "kl", "tv", "alignment"), ("kl", "tv", "alignment")),
    ("_claims", ("claim", "method", "reference", "group", "effect", "low", "high"), ("effect",)),
    ("_side_effects", ("method", "group", "quantity", "value", "low", "high"), ("value",)),
)
ANSWERS = tuple(f"answers{part}.safetensors" for part in ("", "-joint", "-controls", "-selected"))  # of the chapters
PACKAGES = ("opinion-sae", "torch", "transformers", "peft", "sae-lens", "numpy")
# where the questions tested come from, by the end of a method's name
SPLITS = {"-by-topic": "topic", "-by-survey": "survey", "left-out-shared": "group", "left-out-sibling": "group"}


def evaluation(
    answers: AnswerPath,
    saes: Callable[[int], SparseAutoencoder],
    survey: Survey,
    splits: Sequence[Split],
    folder: Path,
    book: Answers,
    elsewhere: Elsewhere,
    settings: Sequence[FitSettings],
) -> tuple[dict[str, list[Float[np.ndarray, "_ question option"]]], dict[str, Cells]]:
    """What takes too long for the book: more seeds, other splits, groups left out, persona prompts, LoRA. Resumable.

    Each item is kept in `folder` as soon as it is done, under a hash of all that it depends on; what is there is read.
    Returns held-out log p by method, one table per seed, and side effects of the methods with a text before the
    question, measured on `elsewhere` too. `settings`, one per seed, are those of the fits; `book` has the tables of the
    first seed, which is that of the other splits too, and everything of one. `saes` gives the SAE of a seed.
    """
    first = settings[0]
    sae = saes(first.seed)
    about = [answers.lm.sha256, str(answers.lm.dtype), survey_hash(survey), answers.orders]
    about += [fold_of(splits, len(survey.questions)).tolist(), first.seed]

    def kept(name: str, make: Callable[[], Tables], *more: object) -> Tables:
        return remembered(folder / f"{name}.safetensors", [name, *about, *more], make)

    fitted = [sae.sha256(), answers.hook_layer, sorted(asdict(first).items())]  # prompts and LoRA do without
    tables = {name: [table] for name, table in book.items()}
    for chosen in settings[1:]:

        def run(chosen: FitSettings = chosen) -> Tables:
            return one_seed(answers, saes(chosen.seed), survey, splits, chosen)

        for name, table in kept(f"seed-{chosen.seed}", run, *fitted).items():
            tables[name].append(table)
    once = on_other_splits(answers, sae, survey, splits, first, lambda name, make: kept(name, make, *fitted))
    asked, cells = prompts(answers, survey, splits, folder, elsewhere, kept)
    adapted, of_lora = lora(answers, survey, splits, first.seed, elsewhere, kept)
    return tables | {name: [table] for name, table in (once | asked | adapted).items()}, cells | of_lora


def on_other_splits(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    survey: Survey,
    splits: Sequence[Split],
    settings: FitSettings,
    kept: Keep,
) -> Tables:
    """'shared-delta' and 'delta' on topics and surveys left out, and groups left out of the question splits."""

    def both(others: Sequence[Split], suffix: str) -> Tables:
        fits = two_stages(answers, sae, survey, others, settings)
        return {name + suffix: fit.log_probs for name, fit in fits.items()}

    def without(others: Survey, split: Split) -> tuple[GroupDelta, pd.DataFrame]:
        return fit_frozen(answers, sae, others, split, settings)

    once: Tables = {}
    for suffix, others in other_splits(survey, len(splits), settings.seed).items():
        once |= kept(f"split{suffix}", partial(both, others, suffix))
    return once | kept("left-out", lambda: leave_groups_out(answers, survey, splits, without))


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
    splits = by_question(question_folds(survey, profile.folds, profile.seed))
    folder, seeds = run.work / "evaluate", range(profile.seed, profile.seed + SEEDS)
    facts = load_facts(profile.max_questions)
    passages = load_passages(profile.folds if profile.max_questions else 0)
    settings = [profile.fit_settings(seed=seed) for seed in seeds]
    elsewhere = Elsewhere(lm, facts, passages)
    tables, cells = evaluation(answers, saes, survey, splits, folder, book, elsewhere, settings)
    rows, claims = evaluation_tables(survey, tables, profile.bootstrap, profile.seed)
    plain = measure(answers, survey, splits, {"unsteered": [None] * len(splits)}, facts, passages)
    effects = side_effects_table(survey, plain | cells, question_clusters(survey), profile.bootstrap, profile.seed)
    write_csv(run.results / "evaluate.csv", rows)
    write_csv(run.results / "evaluate_claims.csv", claims)
    write_csv(run.results / "evaluate_side_effects.csv", effects[effects["method"] != "unsteered"])
    hashes = {"data": survey_hash(survey), "model": lm.sha256, "sae": saes(profile.seed).sha256()}
    write_json(run.results / "evaluate.json", {"hashes": hashes, **_about(profile, seeds, folder)})
    return run.results / "evaluate.csv"


def _about(profile: Profile, seeds: Sequence[int], folder: Path) -> dict[str, object]:
    """What was run, where, and how long each item took."""
    items = {path.stem: read_json(path)["seconds"] for path in sorted(folder.glob("*.json"))}
    versions = {"python": platform.python_version()}
    return {
        "profile": asdict(profile),
        "seeds": list(seeds),
        "lora": LORA,
        "seconds": {**items, "total": round(sum(items.values()), 1)},
        "machine": f"{os.cpu_count()} CPU cores ({platform.system()}, {platform.machine()})",
        "versions": versions | {name: importlib.metadata.version(name) for name in PACKAGES},
    }


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
        about = read_json(results / "evaluate.json")
        check_fields(about, {"hashes": dict}, str(results / "evaluate.json"), more=True)
        hashes = about["hashes"]
        check_fields(hashes, {"data": str, "model": str}, f"{results / 'evaluate.json'}: hashes", more=True)
        wrong = [name for name, ours in (("data", survey_hash(survey)), ("model", model)) if hashes[name] != ours]
        if not wrong:
            rows, claims, effects = (
                read_csv(results / f"evaluate{name}.csv", columns, numbers) for name, columns, numbers in EVALUATED
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
