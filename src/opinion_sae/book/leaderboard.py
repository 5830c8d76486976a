"""The leaderboard: a row per method with what it gains, what it does besides, how stable it is and what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from opinion_sae.artifacts import read_csv
from opinion_sae.effects.beside import STRENGTHS, splits_of
from opinion_sae.effects.side_effects import answer_cells
from opinion_sae.methods.contract import Bench
from opinion_sae.methods.registry import METHODS
from opinion_sae.score.gap_replicates import PooledGaps, interval, question_weights
from opinion_sae.score.gaps import cell_kl, predicted_gaps, toplines_floor
from opinion_sae.score.gaps_table import gaps_table
from opinion_sae.score.metrics import ENDS, noise_floor
from opinion_sae.score.names import rank
from opinion_sae.score.rewording import consistency, levels
from opinion_sae.score.toplines import everyone, from_toplines
from opinion_sae.survey import question_clusters

Table = Float[np.ndarray, "_ question option"]
Part = Mapping[str, np.ndarray]
REFERENCE = "delta-reading"  # whose gap correlation every method's is held against, on the same questions
COLUMNS = """method kind n_questions n_seeds kl kl_low kl_high toplines_kl toplines_kl_low toplines_kl_high
    group_kl_closed group_kl_closed_low group_kl_closed_high gap_r gap_r_low gap_r_high gap_r_corrected
    gap_r_alone gap_r_alone_low gap_r_alone_high exaggeration identified identified_chance rank rank_low
    rank_high minus_reading minus_reading_low minus_reading_high others_kl_change accuracy_change
    perplexity_ratio next_token_kl option_mass side_effect_ratio strength target fluency ability
    harmonic_mean strength_toplines target_toplines harmonic_mean_toplines wording_r wording_r_lowest_group
    wording_r_pair reworded_r reworded_r_lowest_group reworded_r_pair seed_r_low seed_r_high seed_pair_r_low
    seed_pair_r_high parameters fit_seconds ms_per_answer total_seconds""".split()


class Bare(NamedTuple):
    """How intervals are drawn, and the folder in which `evaluate` may have left its tables."""

    replicates: int
    seed: int
    results: Path


class Board:
    """What is the same for every method of a bench, and what was found of each before."""

    def __init__(self, bench: Bench, settings: Bare):
        self.bench, self.survey, self.settings = bench, bench.survey, settings
        self.clusters = question_clusters(bench.survey)
        self.weights = question_weights(self.clusters, settings.replicates, settings.seed)
        self.pooled = PooledGaps(bench.survey, self.weights)
        self.floor = noise_floor(bench.survey, seed=settings.seed).kl
        self.given_floor = toplines_floor(bench.survey, seed=settings.seed)
        self.plain: Table = bench.answers.predict().numpy()
        self.others = answer_cells(bench.survey, np.exp(self.plain.astype(float)))["others_kl"]
        self.found: dict[str, tuple[dict[str, Any], np.ndarray]] = {}
        self.of_gaps: dict[str, pd.DataFrame] = {}
        self.rows: dict[tuple[object, ...], dict[str, object]] = {}  # that were made for the same parts

    def gains(self, name: str, tables: Sequence[Table]) -> tuple[dict[str, Any], Float[np.ndarray, "replicate"]]:
        """Cells of `gaps.csv` under both tasks, and r from toplines in every replicate."""
        if name not in self.found:
            rows = gaps_table(self.survey, {name: tables}, self.clusters, *self.settings[:2])
            self.of_gaps[name] = rows[rows["method"] == name]
            rows = rows[(rows["group"] == "all") & (rows["method"] == name)].set_index("task")
            given, alone = rows.loc["toplines"], rows.loc["alone"]
            cells = {f"{what}{end}": given[f"{what}{end}"] for what in ("group_kl_closed", "gap_r") for end in ENDS}
            cells |= {f"kl{end}": alone[f"kl{end}"] for end in ENDS}
            cells |= {f"toplines_kl{end}": given[f"kl{end}"] for end in ENDS}
            cells |= {f"gap_r_alone{end}": alone[f"gap_r{end}"] for end in ENDS}
            kept = ("gap_r_corrected", "exaggeration", "identified", "identified_chance", "n_questions", "n_seeds")
            cells |= {what: given[what] for what in kept}
            replicates = np.mean([self.pooled(table)[0] for table in tables], axis=0)
            self.found[name] = cells, replicates
        return self.found[name]

    def gaps(self, names: Iterable[str]) -> pd.DataFrame:
        """All rows of `gaps.csv` for these methods, whose `gains` were found before: both tasks, and every group."""
        return pd.concat([self.of_gaps[name] for name in names], ignore_index=True)

    def besides(self, table: Table, part: Part, plain: Part) -> dict[str, float]:
        """Off-target changes; empty where a method has no reader."""
        p = np.exp(np.broadcast_to(table, self.survey.shares.shape).astype(float))
        there = np.isnan(p).any(-1)
        change = answer_cells(self.survey, np.nan_to_num(p))["others_kl"] - self.others
        cells = {"others_kl_change": float(np.nanmean(np.where(there, np.nan, change)))}
        cells["side_effect_ratio"] = side_effect_ratio(self.survey.shares, self.plain, table)
        if "text_loss" in part and plain:
            cells["accuracy_change"] = _difference(part["accuracy"], plain["accuracy"])
            cells["perplexity_ratio"] = float(np.exp(_difference(part["text_loss"], plain["text_loss"])))
            cells["next_token_kl"] = float(np.nanmean(part["next_token_kl"]))
        if "option_mass" in part:
            cells["option_mass"] = float(np.nanmean(part["option_mass"]))
        return cells

    def targets(self, log_probs: Table, questions: np.ndarray) -> dict[str, float]:
        """What is gained on these questions, each between 0 and 1, by task.

        target: the share of the way from the unsteered model to the noise floor, alone; target_toplines: the share of
        group KL closed, (KL_toplines - KL) / (KL_toplines - floor), from toplines.
        """
        some = self.survey.select(questions=questions.tolist())
        width = some.counts.shape[-1]  # of the longest question among them
        said, plain = log_probs[..., :width], self.plain[:, questions, :width]
        given = cell_kl(some, from_toplines(some, said))
        pairs = {
            "target": (cell_kl(some, said), cell_kl(some, plain), self.floor[:, questions]),
            "target_toplines": (given, cell_kl(some, everyone(some)), self.given_floor[:, questions]),
        }
        return {name: _closed(*cells) for name, cells in pairs.items()}

    def factors(self, name: str, table: Table, part: Part, plain: Part) -> dict[str, float]:
        """AxBench's three factors and their harmonic mean (Wu et al. 2025), each from 0 to 1, by task.

        target as above; fluency: 1 / the ratio of perplexities on plain text; ability: the ratio of the shares of
        facts answered rightly; neither above 1, and both 1 where the model stays as it is. Only targets where a change
        of the model was not measured. Target is of the same sample of test questions for all methods, or of all that
        were asked where those are fewer. The strength, of each task its own, is the one with the highest mean on
        validation questions and on every other text and fact; reported are test questions, and the texts and facts
        that are left, fluency and ability at the strength that is chosen alone.
        """
        if "tested-at-1" not in part or not plain:
            found = self._on_sample(table)
            if "text_loss" in part and plain:
                return _with_means(found, self._kept(part, plain, "", slice(None)))
            return _with_means(found, {"fluency": 1.0, "ability": 1.0}) if leaves_the_model(name) else found
        validated, tested = {}, {}
        for strength in STRENGTHS:
            end = "" if strength == 1 else f"-at-{strength:g}"
            for which, found, half in (("validation", validated, 0), ("test", tested, 1)):
                key = "validated" if which == "validation" else "tested"
                sampled = self._sampled(part[f"{key}-at-{strength:g}"], which)
                found[strength] = _with_means(sampled, self._kept(part, plain, end, slice(half, None, 2)))
        cells: dict[str, float] = {}
        for task in ("_toplines", ""):  # fluency and ability are the latter's
            mean = f"harmonic_mean{task}"
            best = max(STRENGTHS, key=lambda strength: (validated[strength][mean], strength))
            kept = (mean, f"target{task}", "fluency", "ability")
            cells |= {name: tested[best][name] for name in kept} | {f"strength{task}": best}
        return cells

    def _sampled(self, tables: np.ndarray, which: str) -> dict[str, float]:
        asked = splits_of(self.bench.splits, which)
        return _means([self.targets(t[:, : len(q)], q) for t, q in zip(tables, asked, strict=True)])

    def _on_sample(self, table: Table) -> dict[str, float]:
        asked = splits_of(self.bench.splits, "test")
        if np.isnan(table[:, np.concatenate(asked)]).any(-1).all(0).any():
            return self.targets(table, np.arange(len(self.survey.questions)))
        return _means([self.targets(table[:, questions], questions) for questions in asked])

    def _kept(self, part: Part, plain: Part, end: str, half: slice) -> dict[str, float]:
        loss = _difference(part[f"text_loss{end}"][:, half], plain["text_loss"][:, half])
        right = part[f"accuracy{end}"][:, half]
        before = np.where(np.isnan(right), np.nan, plain["accuracy"][:, half])
        ability = np.nanmean(right) / max(float(np.nanmean(before)), 1e-9)
        return {"fluency": float(np.exp(-max(0.0, loss))), "ability": float(min(1.0, ability))}

    def cost(self, name: str, part: Part) -> dict[str, float]:
        """Parameters and seconds to fit, milliseconds of an answer, and seconds to fit and answer all cells."""
        names = {"parameters": "parameters", "fit_seconds": "fit_seconds", "ms_per_answer": "step_ms"}
        cells = {column: float(part[key].item()) for column, key in names.items() if key in part}
        if name in METHODS and METHODS[name].kind == "prompt":  # nothing is fitted
            cells = {"ms_per_answer": cells["ms_per_answer"]} if "ms_per_answer" in cells else {}
        if cells:
            answers = self.survey.respondents.size * cells.get("ms_per_answer", 0.0) / 1000
            cells["total_seconds"] = cells.get("fit_seconds", 0.0) + answers
        if "option_mass" in part:  # of a method whose answers the book had, known by its cost alone
            cells["option_mass"] = float(np.nanmean(part["option_mass"]))
        return cells

    def row(
        self, name: str, tables: Sequence[Table], part: Part, plain: Part, reference: Sequence[Table]
    ) -> dict[str, object]:
        """All but the cost of a method."""
        steered = {k: v for k, v in part.items() if k == "option_mass"} if name == "unsteered" else part
        (cells, replicates), first = self.gains(name, tables), tables[0]
        row: dict[str, object] = {"method": name, "kind": METHODS[name].kind if name in METHODS else "reference"}
        row |= cells | self.besides(first, steered, plain) | self.factors(name, first, steered, plain)
        row |= self.wordings(first, steered) | consistency(self.survey, first)
        return row | minus_reading(self, first, replicates, reference)

    def wordings(self, table: Table, part: Part) -> dict[str, float]:
        """r between the gaps predicted in the order asked and with the options reversed, from toplines: over all cells
        of the sample, of the group where it is lowest, and of the difference of two groups."""
        if "turned" not in part:
            return {}
        asked = np.sort(np.concatenate(splits_of(self.bench.splits, "test")))
        some = self.survey.select(questions=asked.tolist())
        tables, width = (
            (np.broadcast_to(table, self.survey.shares.shape)[:, asked], part["turned"]),
            some.counts.shape[-1],
        )
        one, other = (predicted_gaps(some, from_toplines(some, found[..., :width]), "toplines") for found in tables)
        found = levels(self.survey, one, other)
        return dict(zip(("wording_r", "wording_r_lowest_group", "wording_r_pair"), found, strict=True))


def leaderboard(board: Board, seeds: Mapping[str, Sequence[Table]], parts: Mapping[str, Part | None]) -> pd.DataFrame:
    """A row per method that has answers, with COLUMNS; NaN for what was not measured. `parts` by method, and by method
    and '-cost'."""
    there = {name: part for name, part in parts.items() if part is not None}
    tables: dict[str, Sequence[Table]] = {"toplines": [everyone(board.survey)]}
    for name in METHODS:
        if name in seeds or "log_probs" in there.get(name, {}):
            tables[name] = seeds[name] if name in seeds else [there[name]["log_probs"]]
    plain, by_seed = there.get("unsteered", {}), _by_seed(board.settings.results / "evaluate_gaps_by_seed.csv")
    reference, rows = tables.get(REFERENCE, ()), []
    for name in sorted(tables, key=rank):
        part, cost = there.get(name, {}), there.get(f"{name}-cost", {})
        key = (name, id(tables[name]) if name in seeds else 0, *part, bool(plain), bool(len(reference)))
        if key not in board.rows:
            board.rows[key] = board.row(name, tables[name], part, plain, reference)
        rows.append(board.rows[key] | by_seed.get(name, {}) | board.cost(name, {**part, **cost}))
    table = pd.DataFrame(rows).reindex(columns=COLUMNS)
    some = (table["n_questions"] < table["n_questions"].max()) & table["ms_per_answer"].isna()
    table.loc[some, "total_seconds"] = np.nan  # those were asked a few questions, and nobody knows what all would take
    return with_ranks(table, {name: board.gains(name, of)[1] for name, of in tables.items()})


def minus_reading(
    board: Board, table: Table, replicates: Float[np.ndarray, "replicate"], reference: Sequence[Table]
) -> dict[str, float]:
    """r of a method less that of the reference on the questions that the method answers."""
    if not len(reference):
        return {}
    answered = (~np.isnan(table)).max(axis=(0, 2), keepdims=True)
    cut = [np.where(answered, one, np.nan) for one in reference]
    difference = replicates - np.mean([board.pooled(one)[0] for one in cut], axis=0)
    low, high = interval(difference[1:])
    return {"minus_reading": difference[0], "minus_reading_low": low, "minus_reading_high": high}


def with_ranks(table: pd.DataFrame, replicates: Mapping[str, Float[np.ndarray, "replicate"]]) -> pd.DataFrame:
    """Ranks by gap correlation from toplines, 1 the highest, those that are equal sharing the best; and 95 % of those
    in the replicates. Only methods that answered all questions have one."""
    whole = table["method"][table["n_questions"] == table["n_questions"].max()].tolist()
    r = pd.DataFrame({name: np.round(replicates[name], 9) for name in whole}).fillna(0.0)
    ranks = r.rank(axis=1, method="min", ascending=False)
    low, high = ranks.iloc[1:].quantile(0.025), ranks.iloc[1:].quantile(0.975)
    for column, values in (("rank", ranks.iloc[0]), ("rank_low", low), ("rank_high", high)):
        table[column] = table["method"].map(values)
    return table


def side_effect_ratio(shares: Float[np.ndarray, "group question option"], plain: Table, table: Table) -> float:
    """Of the cells whose likeliest option is another than the unsteered model's, the share for which fewer of the group
    gave the new one; NaN if there are none (CorrSteer's ratio, for shares in place of right answers)."""
    answered = ~np.isnan(table).any(-1) & ~np.isnan(shares).any(-1)
    before, after = (
        np.broadcast_to(one, shares.shape).argmax(-1)[..., None] for one in (plain, np.nan_to_num(table, nan=-np.inf))
    )
    changed = answered & (before != after)[..., 0]
    old, new = (np.take_along_axis(shares, chosen, -1)[..., 0] for chosen in (before, after))
    return float((new < old)[changed].mean()) if changed.any() else float("nan")


def leaves_the_model(name: str) -> bool:
    """Whether text and facts are the unsteered model's under a method: it reads only, or rescales the answers."""
    return name not in METHODS or METHODS[name].kind in ("reference", "read only") or name == "calibrated"


def harmonic_mean(values: Sequence[float]) -> float:
    """n / sum of 1 / v; 0 if any is 0."""
    return 0.0 if min(values) <= 0 else len(values) / sum(1 / value for value in values)


def _with_means(targets: dict[str, float], others: dict[str, float]) -> dict[str, float]:
    """The targets of both tasks, what else there is, and the harmonic mean of each target with it."""
    means = {
        name.replace("target", "harmonic_mean"): harmonic_mean([of, *others.values()]) for name, of in targets.items()
    }
    return targets | others | means


def _means(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _closed(found: np.ndarray, start: np.ndarray, floor: np.ndarray) -> float:
    """Mean over the cells that were answered of how far from start to floor, 0 to 1; 0 if there is no way to go."""
    there = ~np.isnan(found)
    found, start, floor = (cells[there].mean() for cells in (found, start, floor))
    return float(np.clip((start - found) / (start - floor), 0, 1)) if start > floor else 0.0


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean over the cells that both have."""
    return float(np.nanmean(one - other))


def _by_seed(path: Path) -> dict[str, dict[str, float]]:
    """Lowest and highest r of single seeds, over all groups and of the pair, if `evaluate` has several."""
    if not path.is_file():
        return {}
    table = read_csv(path, ("task", "method", "gap_r", "pair_r"), numbers=("gap_r", "pair_r"))
    found = {}
    for method, rows in table[table["task"] == "toplines"].groupby("method"):
        cells = {"seed_r": rows["gap_r"], "seed_pair_r": rows["pair_r"]}
        found[str(method)] = {
            f"{n}_{end}": float(getattr(v, of)())
            for n, v in cells.items()
            for end, of in (("low", "min"), ("high", "max"))
        }
    return found
