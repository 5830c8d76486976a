"""Every method on one bench: `opinion-sae compare`, method by method, and its leaderboard.

Resumable: a method's answers and what else was measured of it are kept as soon as they are there, and the tables are
written anew after each. What the book's chapters or `opinion-sae evaluate` have answered already is taken from them.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from opinion_sae.artifacts import Item, made, read_csv, read_json, recalled, write_csv, write_json
from opinion_sae.book import evaluate
from opinion_sae.book.execute import machine, throughput, versions
from opinion_sae.book.leaderboard import COLUMNS, Bare, Board, leaderboard
from opinion_sae.book.paths import open_run
from opinion_sae.book.profile import Profile
from opinion_sae.book.reach import code_hash
from opinion_sae.book.recorded import read_cost
from opinion_sae.delta.files import load_deltas, load_dense, load_reading
from opinion_sae.delta.held_out import fold_of
from opinion_sae.effects.beside import Beside
from opinion_sae.effects.facts import load_facts, load_passages
from opinion_sae.methods import registry, suite
from opinion_sae.methods.contract import Bench, Outcome
from opinion_sae.methods.purified import remaining
from opinion_sae.methods.registry import METHODS
from opinion_sae.score import gaps_table
from opinion_sae.score.names import rank
from opinion_sae.score.rewording import peoples_consistency
from opinion_sae.survey import survey_hash

ELSEWHERE = "opinion-sae evaluate"
ANSWERS_ONLY = ("reference", "read only", "weights")  # kinds that steer nothing
OWN = ("diff-means",)  # always fitted here: chapter 06 chooses its strength by KL alone, none included
GAPS = "leaderboard_gaps.csv"
FACTS, EVERY_TEXT = 60, 3  # facts, and every so many-th passage


def cost_of(outcome: Outcome, seconds: float, prompt: bool = False) -> dict[str, np.ndarray]:
    """As a part of a method, a prompt's without a fit; with the mass on option letters of what was told. Memory is not
    among it: what one process holds depends on what it has done before."""
    cost = {} if prompt else {"fit_seconds": np.array(seconds), "parameters": np.array(outcome.parameters)}
    return cost if outcome.option_mass is None else cost | {"option_mass": outcome.option_mass}


@dataclass(frozen=True, eq=False)
class Comparison:
    """A bench, what the book knows of it, and what is read and asked beside the survey. `seeds`: held-out log p by
    method, one table per seed, as far as chapters and `evaluate` have it."""

    bench: Bench
    seeds: Mapping[str, Sequence[Float[np.ndarray, "_ question option"]]]
    beside_of: Callable[[], Beside]

    @cached_property
    def beside(self) -> Beside:
        return self.beside_of()

    def items(self, names: Sequence[str]) -> dict[str, Item]:
        """What is to be made of each method, with a hash of all that it depends on."""
        bench = self.bench
        about = [bench.answers.lm.sha256, str(bench.answers.lm.dtype), survey_hash(bench.survey), bench.answers.orders]
        about += [fold_of(bench.splits, len(bench.survey.questions)).tolist(), bench.sae.sha256()]
        about += [bench.answers.hook_layer, sorted(asdict(bench.settings).items())]
        about.append(code_hash(Path(sys.modules[Beside.__module__].__file__ or "")))

        def make(name: str) -> Callable[[], dict[str, np.ndarray]]:
            return lambda: self.made(name)

        whole = {name: Item([name, *about, _code(name)], make(name)) for name in names if METHODS[name].fit is not None}
        costs = {
            f"{name}-cost": Item([*whole[name].about, "cost"], partial(self.cost, name))
            for name in whole
            if self.made_before(name) or METHODS[name].kind == "prompt"
        }
        return whole | costs

    def made_before(self, name: str) -> bool:
        """Whether the book has all that is needed of a method but its cost."""
        return name in self.bench.known or (name in self.seeds and METHODS[name].kind in ANSWERS_ONLY)

    def cost(self, name: str) -> dict[str, np.ndarray]:
        """Seconds to fit, by fitting one split again, and the number of parameters; of a prompt, whose parts may have
        been kept, milliseconds per answer, by asking one group anew."""
        fit, bench = METHODS[name].fit, self.bench
        assert fit is not None
        if METHODS[name].kind == "prompt":
            with tempfile.TemporaryDirectory() as folder:
                few = {"survey": bench.survey.select(groups=[0]), "splits": bench.splits[:1]}
                start = time.perf_counter()
                outcome = fit(replace(bench, folder=Path(folder) / "compare", **few))
                answers = int((~np.isnan(outcome.log_probs).any(-1)).sum())
                return {"step_ms": np.array(1000 * (time.perf_counter() - start) / max(1, answers))}
        known = {of: offsets[:1] for of, offsets in bench.known.items()}
        start = time.perf_counter()
        outcome = fit(replace(bench, splits=bench.splits[:1], known=known))
        return cost_of(outcome, len(bench.splits) * (time.perf_counter() - start))

    def made(self, name: str) -> dict[str, np.ndarray]:
        """Answers, cost and side effects of one method; of one that the book has, its side effects."""
        fit, known = METHODS[name].fit, self.bench.known.get(name, ())
        assert fit is not None
        if name == "unsteered":
            return {**self.beside.plain}
        if self.made_before(name):
            return self.beside.measure(Outcome(self.seeds[name][0], known)) if known else {"nothing": np.zeros(1)}
        start = time.perf_counter()
        outcome = fit(self.bench)
        cost = cost_of(outcome, time.perf_counter() - start, METHODS[name].kind == "prompt")
        answers = {} if name in self.seeds else {"log_probs": np.ascontiguousarray(outcome.log_probs, np.float32)}
        return answers | cost | self.beside.measure(outcome)


def _code(name: str) -> str:
    """Of the module of a method's fit, and of all that it reaches; for those of the registry itself, of `suite`."""
    module = sys.modules[METHODS[name].fit.__module__]
    path = Path((suite if module is registry else module).__file__ or "")
    return path.read_text(encoding="utf-8") + code_hash(path)


def check_names(methods: Sequence[str]) -> list[str]:
    """The methods asked for, in order of worth; all that have a fit if none is. ValueError that lists the names."""
    unknown = sorted(set(methods) - set(METHODS))
    if unknown:
        raise ValueError(f"compare: no method is called {', '.join(unknown)}; there are {', '.join(METHODS)}")
    return [name for name in METHODS if name in methods or not methods]


def compare(profile: Profile, methods: Sequence[str] = ()) -> Path:
    """Run the methods on what the book of a profile left, and write `leaderboard.csv`, `leaderboard_gaps.csv` and
    `leaderboard.json` to its results folder, after each; rows of methods compared before stay (`kept_rows`).

    ValueError for a method that there is not, or one that no chapter has left yet.
    """
    names = check_names(methods)
    run = open_run(profile.output)
    given, _ = evaluate.inputs(profile)
    found = evaluate.gathered(given, {n: recalled(evaluate.item_file(given, n), i.about) for n, i in _evaluated(given)})
    absent = [name for name in methods if METHODS[name].fit is None and name not in found.tables]
    if absent:
        raise ValueError(
            f"compare: {', '.join(absent)} is made by a chapter (or `{ELSEWHERE}`), which has not been run"
        )
    facts, texts = load_facts(FACTS), load_passages()[::EVERY_TEXT]
    known = known_offsets(run.work, given)
    bench = Bench(given.answers, given.sae, given.survey, given.splits, given.settings[0], run.work / "compare", known)
    seeds = {name: tables for name, tables in found.tables.items() if name not in OWN}
    comparison = Comparison(bench, seeds, lambda: Beside(bench, facts, texts))
    every = comparison.items(list(METHODS))
    parts = {name: recalled(bench.folder / f"{name}.safetensors", item.about) for name, item in every.items()}
    wanted = [*names, *(f"{name}-cost" for name in names)]
    todo = [name for name in wanted if name in every and parts[name] is None]

    speed = throughput()
    board = Board(bench, Bare(profile.bootstrap, profile.seed, run.results))
    before = kept_rows(run.results, hashes(bench))
    gaps_before = kept_gaps(run.results, before["method"].tolist())

    def write() -> None:
        table = leaderboard(board, comparison.seeds, parts)
        kept = [name for name in before["method"] if name not in set(table["method"])]
        write_csv(run.results / "leaderboard.csv", with_kept(table, before))
        write_csv(run.results / GAPS, with_kept(board.gaps(table["method"]), gaps_before))
        there = {*table["method"], *kept}
        missing = [name for name in every if parts[name] is None and name not in there]
        write_json(run.results / "leaderboard.json", _about(profile, comparison, missing, kept, speed))

    for number, name in enumerate(todo):
        print(f"compare: {name}, {number + 1} of {len(todo)}", flush=True)
        parts[name] = made(bench.folder / f"{name}.safetensors", every[name])
        write()
    if not todo:
        write()
    return run.results / "leaderboard.csv"


def hashes(bench: Bench) -> dict[str, str]:
    """Of what a row is about."""
    return {"data": survey_hash(bench.survey), "model": bench.answers.lm.sha256, "sae": bench.sae.sha256()}


def kept_rows(results: Path, of: Mapping[str, str]) -> pd.DataFrame:
    """The rows of a leaderboard that was made of the same survey, model and SAE, for methods whose answers are no more
    at hand: as they are, but without ranks, since these need all methods' answers. None of another."""
    path, about = results / "leaderboard.csv", results / "leaderboard.json"
    if not (path.is_file() and about.is_file()):
        return pd.DataFrame(columns=COLUMNS)
    said = read_json(about, dict)
    if said.get("hashes") != dict(of):
        print(f"compare: {path} is of another survey, model or SAE and is written anew", flush=True)
        return pd.DataFrame(columns=COLUMNS)
    rows = read_csv(path, ("method", "kind"), names=("method",)).reindex(columns=COLUMNS)
    rows[["rank", "rank_low", "rank_high"]] = np.nan
    return rows


def kept_gaps(results: Path, methods: Sequence[str]) -> pd.DataFrame:
    """The rows of `leaderboard_gaps.csv` of these methods, if it is there."""
    if not (results / GAPS).is_file():
        return pd.DataFrame(columns=gaps_table.COLUMNS)
    rows = read_csv(results / GAPS, gaps_table.COLUMNS, names=("task", "method", "group"))
    return rows[rows["method"].isin(methods)]


def with_kept(table: pd.DataFrame, before: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table, and those of another for methods that it has not, in the order of `NAMES`."""
    kept = before[~before["method"].isin(table["method"])]
    rows: list[dict[Any, Any]] = [*table.to_dict("records"), *kept.to_dict("records")]
    return pd.DataFrame(sorted(rows, key=lambda row: rank(row["method"])), columns=table.columns)


def remains(bench: Bench) -> dict[str, Any]:
    """`remaining` of the groups' own parts of Δ, mean over the splits that have such parts (`used` of `splits`: in the
    others D = 0, since the second stage gained nothing); nothing where no chapter has left Δ."""
    known, W_dec = bench.known.get("delta", ()), bench.sae.W_dec.detach()
    if not known:
        return {}
    each = [remaining((one.deviation @ W_dec).detach(), bench.survey.attributes) for one in known]
    there = [found for found in each if found]
    names = dict.fromkeys(name for found in there for name in found)
    left = {name: float(np.mean([found[name] for found in there if name in found])) for name in names}
    return {"splits": len(each), "used": len(there), "left": left}


def _evaluated(given: evaluate.Inputs) -> list[tuple[str, Item]]:
    return [(name, item) for of in evaluate.items(given).values() for name, item in of.items()]


def known_offsets(work: Path, given: evaluate.Inputs) -> dict[str, Sequence]:
    """Those that chapters left for every split; a profile need not run all of these chapters."""
    count, sae = len(given.splits), given.sae
    found: dict[str, Sequence] = {}
    loads: dict[str, Callable[[], Sequence]] = {
        "shared-delta": lambda: load_deltas(work, count, sae, "shared"),
        "delta": lambda: load_deltas(work, count, sae),
        "dense": lambda: load_dense(work, count),
        "delta-reading-64": lambda: load_reading(work, count, sae)[:-1],
    }
    for name, load in loads.items():
        try:
            found[name] = load()
        except FileNotFoundError as error:
            print(f"compare: {name} is fitted anew, since {error}", flush=True)
    return {name: offsets for name, offsets in found.items() if offsets}


def _about(
    profile: Profile, comparison: Comparison, missing: Sequence[str], kept: Sequence[str], speed: Mapping[str, float]
) -> dict[str, object]:
    """What was run, where, how long each method took, what is missing, and which rows are an earlier run's."""
    bench = comparison.bench
    seconds = {
        name: read_cost(path)["seconds"]
        for name in comparison.items(list(METHODS))
        if (path := bench.folder / f"{name}.json").is_file() and name not in missing
    }
    return {
        "profile": asdict(profile),
        "hashes": hashes(bench),
        "people": peoples_consistency(bench.survey),
        "remains": remains(bench),
        "missing": list(missing),
        "kept": list(kept),
        "seconds": {**seconds, "total": round(sum(seconds.values()), 1)},
        "machine": machine(),
        "throughput": speed,
        "versions": versions(*evaluate.PACKAGES),
    }
