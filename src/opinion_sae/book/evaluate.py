"""What takes too long for the book, item by item: seeds, other splits, a learning curve, persona prompts, LoRA.

Resumable: each item is kept in a file of its own as soon as it is done, and after each the tables are written anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from opinion_sae.artifacts import Item, made, recalled, write_csv, write_json
from opinion_sae.book.chapter import Chapter
from opinion_sae.book.claims import CLAIMS, kl_cells
from opinion_sae.book.execute import machine, versions
from opinion_sae.book.gap_claims import gap_claims_table
from opinion_sae.book.paths import open_run
from opinion_sae.book.profile import Profile
from opinion_sae.book.reach import code_hash
from opinion_sae.book.recorded import read_cost
from opinion_sae.delta.files import WITH_READING, Answers, load_all_answers, load_deltas
from opinion_sae.delta.fit import fit_frozen
from opinion_sae.delta.held_out import Split, fold_of, leave_groups_out
from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.delta.settings import FitSettings
from opinion_sae.effects.facts import load_facts, load_passages
from opinion_sae.effects.latent_table import found_again
from opinion_sae.effects.readers import Cells
from opinion_sae.effects.side_effects import measure, side_effects_table
from opinion_sae.effects.text_before import Elsewhere, Tables, lora, lora_items, prompt_items, prompts
from opinion_sae.methods import suite
from opinion_sae.methods.lora import LORA
from opinion_sae.methods.question_tokens import QuestionTokens, question_tokens
from opinion_sae.model.activations import load_activations
from opinion_sae.model.answers import AnswerPath
from opinion_sae.model.language_model import LanguageModel
from opinion_sae.sae.autoencoder import SparseAutoencoder, load_sae
from opinion_sae.sae.quality import obtain_sae
from opinion_sae.score.gap_pairs import correlations, pair_gaps, pair_to_show, pairs_table
from opinion_sae.score.gaps_table import gaps_by_fold, gaps_table
from opinion_sae.score.metrics import Scores, alignment_table, noise_floor, score
from opinion_sae.score.statistics import claims_table
from opinion_sae.survey import Survey, load_survey, question_clusters, survey_hash

SEEDS = 5
SHARES = (0.125, 0.25, 0.5)  # of the training questions, for the learning curve; all of them are the book's own run
PACKAGES = ("opinion-sae", "torch", "transformers", "peft", "sae-lens", "numpy")
# where the questions tested come from, by the end of a method's name
SPLITS = {"-by-topic": "topic", "-by-survey": "survey", "left-out-shared": "group", "left-out-sibling": "group"}
BySeed = dict[str, list[Float[np.ndarray, "_ question option"]]]  # held-out log p by method, one table per seed
# what may be asked for by name, in the order in which it runs
KINDS = ("seeds", "splits", "learning", "prompts", "lora")


@dataclass(frozen=True, eq=False)
class Inputs:
    """What an evaluation is made from. `settings`, one per seed, are those of the fits; `book` has the tables of the
    first seed, which is that of everything of one seed too; `saes` gives the SAE of a seed."""

    answers: AnswerPath
    saes: Callable[[int], SparseAutoencoder]
    survey: Survey
    splits: Sequence[Split]
    folder: Path
    book: Answers
    elsewhere: Elsewhere
    settings: Sequence[FitSettings]
    crossed: Survey | None = None  # intersections of groups, asked the same questions

    @cached_property
    def sae(self) -> SparseAutoencoder:
        """The book's."""
        return self.saes(self.settings[0].seed)

    @cached_property
    def tokens(self) -> QuestionTokens:
        """What read-outs read."""
        return question_tokens(self.answers.lm, self.survey.questions, self.answers.hook_layer)


class Found(NamedTuple):
    """What an evaluation has so far."""

    tables: BySeed
    cells: dict[str, Cells]  # side effects of the methods with a text before the question
    learning: dict[float, Answers]  # by share of the training questions
    crossed: Answers  # of the intersections
    missing: list[str]  # items


def evaluation(given: Inputs, kinds: Sequence[str] = KINDS) -> Iterator[Found]:
    """Make the items of these kinds that are not there yet, in order of worth; what there is after each, or at once if
    nothing is to be made."""
    every = items(given)
    parts = {name: recalled(item_file(given, name), item.about) for of in every.values() for name, item in of.items()}
    to_make = [(name, every[kind][name]) for kind in KINDS if kind in kinds for name in every[kind]]
    to_make = [(name, item) for name, item in to_make if parts[name] is None]
    if not to_make:
        yield gathered(given, parts)
    for number, (name, item) in enumerate(to_make):
        print(f"evaluate: {name}, item {number + 1} of {len(to_make)}{_expected(given.folder, name)}", flush=True)
        parts[name] = made(item_file(given, name), item)
        yield gathered(given, parts)


def _expected(folder: Path, name: str) -> str:
    """How long the longest item of the same name but for its number took; LoRA takes about as long as a persona."""
    kind = name.rpartition("-")[0]
    done = sorted(folder.glob(f"{kind}-*.json")) or sorted(folder.glob("prompt-*.json")) * (kind == "lora")
    seconds = [read_cost(path)["seconds"] for path in done]
    return f", about {max(seconds) / 60:.0f} minutes" if seconds else ""


def item_file(given: Inputs, name: str) -> Path:
    return given.folder / f"{name}.safetensors"


def items(given: Inputs) -> dict[str, dict[str, Item]]:
    """By kind and name; each with a hash of all that it depends on."""
    answers, survey, splits, first = given.answers, given.survey, given.splits, given.settings[0]
    about = [answers.lm.sha256, str(answers.lm.dtype), survey_hash(survey), answers.orders]
    about += [fold_of(splits, len(survey.questions)).tolist(), first.seed]
    # prompts and LoRA, which take hours, do without these
    fitted = [given.sae.sha256(), answers.hook_layer, sorted(asdict(first).items()), _code()]
    others = given.settings[1:]
    seeds = {f"reading-{one.seed}": partial(_reading, given, one) for one in others}
    seeds |= {f"controls-{one.seed}": partial(_controls, given, one) for one in others}
    learning = {f"learning-{share}": partial(_learned, given, share) for share in SHARES}
    found = {
        kind: {name: Item(fitted, make) for name, make in of.items()}
        for kind, of in (("seeds", seeds), ("splits", _on_other_splits(given)), ("learning", learning))
    }
    found["prompts"] = prompt_items(answers, survey, splits, given.folder, given.elsewhere)
    found["lora"] = lora_items(answers, survey, splits, first.seed, given.elsewhere)
    return {
        kind: {name: Item([name, *about, *item.about], item.make) for name, item in of.items()}
        for kind, of in found.items()
    }


@cache
def _code() -> list[str]:
    """Of what the fits run: `methods.suite`, and a hash of all that it reaches."""
    path = Path(suite.__file__)
    return [path.read_text(encoding="utf-8"), code_hash(path)]


def _reading(given: Inputs, chosen: FitSettings) -> Tables:
    """What counts most of a seed; its constant offsets are left for `_controls`."""
    sae = given.saes(chosen.seed)
    tables, fits = suite.of_seed(given.answers, given.tokens, sae, given.survey, given.splits, chosen)
    for name, method in (("shared", "shared-delta"), ("delta", "delta")):
        for number, offset in enumerate(fits[method].offsets):
            offset.save(given.folder / f"{name}-{chosen.seed}-{number}.safetensors")
    return tables


def _controls(given: Inputs, chosen: FitSettings) -> Tables:
    sae = given.saes(chosen.seed)
    shared, deltas = (
        load_deltas(given.folder, len(given.splits), sae, f"{name}-{chosen.seed}") for name in ("shared", "delta")
    )
    return suite.rest_of_seed(given.answers, given.survey, given.splits, shared, deltas, chosen)


def _learned(given: Inputs, share: float) -> Tables:
    chosen = given.settings[0]
    fewer = [suite.with_fewer(split, share, chosen.seed) for split in given.splits]
    return suite.learned_from(given.answers, given.sae, given.survey, fewer, chosen)


def _on_other_splits(given: Inputs) -> dict[str, Callable[[], Tables]]:
    """Surveys and topics left out, intersections of groups, and groups left out of the question splits."""
    answers, survey, chosen = given.answers, given.survey, given.settings[0]

    def make(splits: Sequence[Split]) -> Tables:
        return suite.on_other_splits(answers, given.tokens, given.sae, survey, splits, chosen)

    def without(others: Survey, split: Split) -> tuple[GroupDelta, pd.DataFrame]:
        return fit_frozen(answers, given.sae, others, split, chosen)

    of = suite.other_splits(survey, len(given.splits), chosen.seed)
    found: dict[str, Callable[[], Tables]] = {f"split{suffix}": partial(make, splits) for suffix, splits in of.items()}
    if given.crossed is not None:
        found["crossed"] = partial(suite.leave_intersections_out, answers, given.sae, given.crossed, given.splits)
    return found | {"left-out": lambda: leave_groups_out(answers, survey, given.splits, without)}


def gathered(given: Inputs, parts: Mapping[str, Tables | None]) -> Found:
    """The tables of the items that are there. Controls enter once every seed that is there has them."""
    there = {name: part for name, part in parts.items() if part is not None}
    tables: BySeed = {name: [table] for name, table in given.book.items()}
    seeds = [one.seed for one in given.settings[1:] if f"reading-{one.seed}" in there]
    of_seeds = [there[f"reading-{seed}"] for seed in seeds]
    if all(f"controls-{seed}" in there for seed in seeds):
        of_seeds += [there[f"controls-{seed}"] for seed in seeds]
    for part in of_seeds:
        for name, table in part.items():
            tables[name].append(table)
    once = {
        name + suffix: table
        for suffix in ("-by-survey", "-by-topic")
        for name, table in there.get(f"split{suffix}", {}).items()
    }
    asked, cells = prompts(given.survey, given.splits, there)
    adapted, of_lora = lora(given.survey, given.splits, there)
    once |= {**there.get("left-out", {}), **asked, **adapted}
    learning = {share: dict(there[f"learning-{share}"]) for share in SHARES if f"learning-{share}" in there}
    return Found(
        tables | {name: [table] for name, table in once.items()},
        cells | of_lora,
        learning | {1.0: {name: given.book[name] for name in suite.LEARNING}},
        dict(there.get("crossed", {})),
        [name for name, part in parts.items() if part is None],
    )


def evaluation_tables(survey: Survey, tables: BySeed, replicates: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The columns of `alignment.csv`, cells averaged over seeds, and those of `claims.csv`, with seeds drawn too."""
    clusters, floor = question_clusters(survey), noise_floor(survey, seed=seed)
    scores = {
        name: Scores(*np.mean([score(survey, table) for table in seeds], axis=0)) for name, seeds in tables.items()
    }
    rows = alignment_table(survey, scores, floor, clusters, "question", replicates, seed)
    for ending, split in SPLITS.items():
        rows.loc[rows["method"].str.endswith(ending), "split"] = split
    return rows, claims_table(survey, kl_cells(survey, tables), CLAIMS, clusters, replicates, seed)


def gap_tables(given: Inputs, found: Found, replicates: int) -> dict[str, pd.DataFrame]:
    """By the end of the file's name: the columns of `gaps.csv`, `pair_gaps.csv` and `gap_claims.csv` with seeds drawn,
    each seed by itself, the splits side by side, and the learning curve."""
    survey, seed = given.survey, given.settings[0].seed
    clusters, tables = question_clusters(survey), {name: of for name, of in found.tables.items() if name != "everyone"}
    gaps = gaps_table(survey, tables, clusters, replicates, seed, SPLITS)
    return {
        "gaps": gaps,
        "pair_gaps": pairs_table(survey, tables, pair_to_show(survey), clusters, replicates, seed),
        "gap_claims": gap_claims_table(survey, tables, clusters, replicates=replicates, seed=seed),
        "gaps_by_seed": by_seed(survey, tables, [one.seed for one in given.settings]),
        "splits": splits_table(given, found, gaps, replicates),
        "learning": learning_table(given, found, replicates),
    }


def by_seed(survey: Survey, tables: BySeed, seeds: Sequence[int]) -> pd.DataFrame:
    """What a mean over seeds could hide: `gaps_by_fold` of each seed, and r of the two groups of `pair_to_show`."""
    several = {name: of for name, of in tables.items() if len(of) > 1}
    rows = gaps_by_fold(survey, several, np.zeros(len(survey.questions), int), seed=seeds[0])
    rows = rows[rows["part"] == "seed"].reset_index(drop=True)
    pair, each = pair_to_show(survey), np.ones((1, len(survey.questions)))
    about = rows[["task", "method", "number"]].to_numpy().tolist()
    rows["pair_r"] = [correlations(*pair_gaps(survey, several[m][i], pair, task), each)[0] for task, m, i in about]
    return rows.assign(number=[seeds[number] for number in rows["number"]])


def splits_table(given: Inputs, found: Found, gaps: pd.DataFrame, replicates: int) -> pd.DataFrame:
    """Rows of `gaps.csv` over all groups, by what was left out: questions, topics, a survey ('survey', and 'to' each
    one alone), or, from toplines, an intersection of groups."""
    survey, seed, clusters = given.survey, given.settings[0].seed, question_clusters(given.survey)
    kept = gaps["split"].isin(["topic", "survey"])
    kept |= gaps["method"].isin([name.removesuffix("-by-topic") for name in gaps.loc[kept, "method"]])
    rows = [gaps[kept]]
    of_survey = {name: of for name, of in found.tables.items() if name.endswith("-by-survey")}
    source = np.array([question.survey for question in survey.questions])
    for name in dict.fromkeys(source.tolist()) if of_survey else ():
        there = (source == name)[:, None]
        own = {method: [np.where(there, table, np.nan) for table in of] for method, of in of_survey.items()}
        rows.append(gaps_table(survey, own, clusters, replicates, seed).assign(split=f"to {name}"))
    if given.crossed is not None and found.crossed:
        of = {name: [table] for name, table in found.crossed.items()}
        crossed = gaps_table(given.crossed, of, clusters, replicates, seed).assign(split="intersection")
        rows.append(crossed[crossed["task"] == "toplines"])
    whole = pd.concat(rows, ignore_index=True)
    return whole[(whole["group"] == "all") & (whole["method"] != "toplines")].reset_index(drop=True)


def learning_table(given: Inputs, found: Found, replicates: int) -> pd.DataFrame:
    """Rows of `gaps.csv` over all groups by share of the training questions; `n_seen`: questions that a fit saw, to
    train on and to choose by, mean over splits."""
    survey, seed = given.survey, given.settings[0].seed
    rows = []
    for share, answered in sorted(found.learning.items()):
        splits = [suite.with_fewer(split, share, seed) for split in given.splits]
        n_seen = np.mean([len(split.train) + len(split.validation) for split in splits])
        tables = {name: [table] for name, table in answered.items()}
        part = gaps_table(survey, tables, question_clusters(survey), replicates, seed)
        part = part[(part["group"] == "all") & (part["method"] != "toplines")]
        part.insert(0, "n_seen", n_seen)
        part.insert(0, "share", share)
        rows.append(part)
    return pd.concat(rows, ignore_index=True)


def evaluate(profile: Profile, kinds: Sequence[str] = ()) -> Path:
    """Run `evaluation` on what the book of a profile left, and write its tables to the results folder after each item.

    `evaluate.csv`, `evaluate_claims.csv`, `evaluate_side_effects.csv`, those of `gap_tables`, `evaluate_latents.csv`
    (which latents SAEs of other seeds have too) and, last, `evaluate.json`: hashes, versions, machine, seconds per
    item, and the items that are missing. ValueError for a kind of item that there is not.
    """
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise ValueError(f"evaluate: no items are called {', '.join(unknown)}; there are {', '.join(KINDS)}")
    run = open_run(profile.output)
    given, plain = inputs(profile)
    hashes = {"data": survey_hash(given.survey), "model": given.answers.lm.sha256, "sae": given.sae.sha256()}
    for found in evaluation(given, kinds or KINDS):
        rows, claims = evaluation_tables(given.survey, found.tables, profile.bootstrap, profile.seed)
        write_csv(run.results / "evaluate.csv", rows)
        write_csv(run.results / "evaluate_claims.csv", claims)
        write_csv(run.results / "evaluate_side_effects.csv", _effects(given, found, plain, profile.bootstrap))
        for name, table in gap_tables(given, found, profile.bootstrap).items():
            write_csv(run.results / f"evaluate_{name}.csv", table)
        others = [load_sae(folder) for folder in kept_saes(run.work, given.sae)]
        again = found_again(given.sae.W_dec, [other.W_dec for other in others])
        write_csv(run.results / "evaluate_latents.csv", again)
        about = {"hashes": hashes, "missing": found.missing, **_about(profile, given)}
        write_json(run.results / "evaluate.json", about)
        if found.missing:
            print(f"tables written; still missing: {', '.join(found.missing)}", flush=True)
    return run.results / "evaluate.csv"


def inputs(profile: Profile) -> tuple[Inputs, Callable[[], dict[str, Cells]]]:
    """What the book of a profile left; and the side effects of the unsteered model, measured when they are needed."""
    chapter = Chapter(asdict(profile))
    work, answers, survey, splits = chapter.run.work, chapter.answers, chapter.survey, chapter.splits
    book = load_all_answers(work, WITH_READING)
    facts = load_facts(profile.max_questions)
    passages = load_passages(profile.folds if profile.max_questions else 0)
    settings = [profile.fit_settings(seed=seed) for seed in range(profile.seed, profile.seed + SEEDS)]
    asked = (profile.survey, profile.min_respondents, profile.crossed, profile.max_questions)
    crossed = load_survey(*asked) if profile.crossed else None
    saes, elsewhere = cache(partial(sae_of_seed, profile, chapter.lm)), Elsewhere(chapter.lm, facts, passages)
    given = Inputs(answers, saes, survey, splits, work / "evaluate", book, elsewhere, settings, crossed)
    nothing = {"unsteered": [None] * len(splits)}
    return given, cache(lambda: measure(answers, survey, splits, nothing, facts, passages))


def _effects(given: Inputs, found: Found, plain: Callable[[], dict[str, Cells]], replicates: int) -> pd.DataFrame:
    if not found.cells:
        return pd.DataFrame({"method": []})
    clusters, seed = question_clusters(given.survey), given.settings[0].seed
    effects = side_effects_table(given.survey, plain() | found.cells, clusters, replicates, seed)
    return effects[effects["method"] != "unsteered"]


def _about(profile: Profile, given: Inputs) -> dict[str, object]:
    """What was run, where, and how long each item took."""
    names = {name for of in items(given).values() for name in of}
    files = [path for path in sorted(given.folder.glob("*.json")) if path.stem in names]
    seconds = {path.stem: read_cost(path)["seconds"] for path in files}
    return {
        "profile": asdict(profile),
        "seeds": [one.seed for one in given.settings],
        "lora": LORA,
        "seconds": {**seconds, "total": round(sum(seconds.values()), 1)},
        "machine": machine(),
        "versions": versions(*PACKAGES),
    }


def sae_of_seed(profile: Profile, lm: LanguageModel, seed: int) -> SparseAutoencoder:
    """The SAE of the book for the profile's seed; for another, one trained anew on the same activations, if the
    profile trains it at all, and kept."""
    run = open_run(profile.output)
    own = load_sae(run.work / "sae")
    if seed == profile.seed or profile.sae != "train":
        return own
    folder = _folder(run.work, own, seed)
    if not (folder / "cfg.json").is_file():
        size = profile.sae_sizes
        sae, _ = obtain_sae("train", lm, *load_activations(run.work), profile.hook_layer, **size, seed=seed)
        sae.save(folder)
    return load_sae(folder)


def kept_saes(work: Path, own: SparseAutoencoder) -> list[Path]:
    """The folders of the SAEs of other seeds that `sae_of_seed` has trained beside this one."""
    return sorted(path.parent for path in work.glob(str(_folder(Path(), own, "*") / "cfg.json")))


def _folder(work: Path, own: SparseAutoencoder, seed: int | str) -> Path:
    return work / "evaluate" / f"sae-{seed}-of-{own.sha256()[-12:]}"
