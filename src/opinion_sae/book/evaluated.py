"""What `make evaluate` left, for the chapters that show it beside their own run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from opinion_sae.artifacts import check_fields, read_csv, read_json
from opinion_sae.book.claims import CLAIMS, claims_page
from opinion_sae.book.gap_claims import MEASURES, gap_claims_page
from opinion_sae.book.gap_report import FIRST, SHOWN, gaps_page, measured, overall, plain
from opinion_sae.book.paths import Run
from opinion_sae.book.recorded import read_fields
from opinion_sae.book.typeset import Shown, table
from opinion_sae.score.names import prose
from opinion_sae.score.statistics import verdicts
from opinion_sae.survey import Survey, survey_hash

IN_TABLE = (*SHOWN, "prompt-best", "few-shot", "lora")
LEFT_OUT = ("delta", "delta-reading", "delta-reading-64", "dense-reading", "words", "words+direct")
SPLITS = {"question": "questions", "topic": "topics", "survey": "surveys"}  # what is left out
ENDINGS = {"topic": "-by-topic", "survey": "-by-survey"}  # of a method's name, by split


class Evaluated(NamedTuple):
    """What `make evaluate` left for a run; tables without rows, and a note that says why, if it is of another."""

    folder: Path | None
    note: str

    def table(self, name: str = "") -> pd.DataFrame:
        """`evaluate_<name>.csv`; without rows if there is none of this run."""
        path = self.folder / f"evaluate{'_' if name else ''}{name}.csv" if self.folder else None
        return read_csv(path, ("method",)) if path and path.is_file() else pd.DataFrame({"method": []})

    @property
    def rows(self) -> pd.DataFrame:
        """The columns of `alignment.csv`; `n_seeds`, over which a row is a mean, is that of `evaluate_gaps.csv`."""
        table, gaps = self.table(), self.table("gaps")
        if not len(gaps):
            return table.assign(n_seeds=1) if len(table) else table
        seeds = gaps[(gaps["task"] == "alone") & (gaps["group"] == "all")].set_index("method")["n_seeds"]
        return table.assign(n_seeds=table["method"].map(seeds).fillna(1).astype(int))

    @property
    def claims(self) -> pd.DataFrame:
        """The columns of `claims.csv`, with verdicts by today's rule, whenever the table was made."""
        table = self.table("claims")
        return table.assign(verdict=verdicts(table)) if len(table) else table


def load_evaluated(run: Run, survey: Survey) -> Evaluated:
    """The tables of `evaluate` in a run's results folder, if they are of this survey and of the run's model and SAE."""
    results = run.results
    if not (results / "evaluate.json").is_file():
        note = "`make evaluate` has not been run for this profile, so what takes longer is not here."
        return Evaluated(None, note)
    path = results / "evaluate.json"
    about = read_json(path)
    check_fields(about, {"hashes": dict}, str(path), more=True)
    hashes = about["hashes"]
    check_fields(hashes, {"data": str, "model": str, "sae": str}, f"{path}: hashes", more=True)
    own = {"data": survey_hash(survey)}
    own |= {name: read_fields(run.work / f"hash-{name}.json", {name: str})[name] for name in ("model", "sae")}
    wrong = [name for name, ours in own.items() if hashes[name] != ours]
    if wrong:
        note = f"The tables of `make evaluate` are of other {' and '.join(wrong)} than this run, and are left out."
        return Evaluated(None, note)
    note = "Of this survey, model and SAE are also the tables of `make evaluate`."
    missing = about.get("missing", [])
    if missing:
        note += f" Not all that it does is there; missing are {', '.join(f'`{name}`' for name in missing)}."
    return Evaluated(results, note)


def evaluated_latents(results: Path, sae: str) -> pd.DataFrame | None:
    """`evaluate_latents.csv`: which latents of the SAE of this hash others' seeds have too; None where that is not
    known, since `make evaluate` has not run or was about another SAE."""
    about, table = results / "evaluate.json", results / "evaluate_latents.csv"
    if not (about.exists() and table.exists()):
        return None
    hashes = read_json(about, dict).get("hashes")
    check_fields(hashes, {"sae": str}, f"{about}: hashes", more=True)
    columns = ("latent", "seeds", "of", "cosine")
    found = read_csv(table, columns, numbers=columns, names=("latent",))
    return found if len(found) and hashes["sae"] == sae else None


def with_evaluated(table: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """A table with a row for each method and, below it, the rows of the methods that only `make evaluate` has."""
    new = rows[~rows["method"].isin(table["method"])]
    return pd.concat([table, new], ignore_index=True) if len(new) else table


def evaluated_page(evaluated: Evaluated) -> str:
    """MyST text: the claims page of `make evaluate`, after the note on where it comes from."""
    claims, tested = [replace(one, figure="fig-evaluated", command="make evaluate") for one in CLAIMS], evaluated.claims
    pages = [claims_page(claims, tested)] if len(tested) else []
    return "\n\n".join([evaluated.note, *pages])


def seeds_sentence(evaluated: Evaluated) -> str:
    """The gap correlations with seeds drawn, and each seed's by itself; or that there are none."""
    gaps = evaluated.table("gaps")
    if not len(gaps):
        return evaluated.note
    found, each = overall(gaps), evaluated.table("gaps_by_seed")
    each = each[each["task"] == "toplines"]

    def said(method: str) -> str:
        alone = each.loc[each["method"] == method, "gap_r"]
        apart = f", in single seeds {plain(alone.min())} to {plain(alone.max())}" if len(alone) else ""
        return f"for {prose(method)} {_cell(found, method)}{apart}"

    listed, seeds = [said(method) for method in FIRST if method in found.index], found["n_seeds"].max()
    return (
        f"Under {seeds} seeds, each with an SAE of its own, the correlation of predicted and actual gaps from toplines "
        f"is {'; '.join(listed[:-1])}; and {listed[-1]} (95% intervals, questions and seeds drawn)."
    )


def seeds_page(evaluated: Evaluated) -> str:
    """MyST text: the note, and under several seeds the sentence and the claims."""
    if not len(evaluated.table("gaps")):
        return evaluated.note
    return "\n\n".join([evaluated.note, seeds_sentence(evaluated), gap_claims_page(evaluated.table("gap_claims"))])


def seeds_table(evaluated: Evaluated) -> Shown | None:
    """The table of methods under several seeds, if there is one."""
    gaps = evaluated.table("gaps")
    return gaps_page(gaps, evaluated.table("pair_gaps"), IN_TABLE) if len(gaps) else None


def learning_sentence(evaluated: Evaluated) -> str:
    """What the gap correlation of each method is with the fewest questions and with all, and what the last doubling
    added; or that it is not known."""
    table = evaluated.table("learning")
    if not len(table) or table["share"].nunique() < 2:
        return "How it grows with the number of questions has not been measured: `make evaluate` does that."
    part, said = table[(table["task"] == "toplines") & (table["group"] == "all")], []
    for method in part["method"].unique():
        rows = part[part["method"] == method].sort_values("n_seen")
        first, before, last = rows.iloc[0], rows.iloc[-2], rows.iloc[-1]
        said.append(
            f"{prose(method)} goes from {plain(first['gap_r'])} to {plain(last['gap_r'])}, "
            f"{last['gap_r'] - before['gap_r']:+.2f} of it from {before['n_seen']:.0f} questions on"
        )
    fewest, most = part["n_seen"].min(), part["n_seen"].max()
    return (
        f"From {fewest:.0f} questions to fit and choose by to {most:.0f}, the gap correlation of {'; of '.join(said)}."
    )


def _splits(evaluated: Evaluated) -> dict[str, pd.DataFrame]:
    """From toplines by what was left out, the rows of each by method."""
    found = evaluated.table("splits")
    found = found[found["task"] == "toplines"] if len(found) else found
    there = found["split"].unique() if len(found) else ()
    order = sorted(there, key=lambda split: list(SPLITS).index(split) if split in SPLITS else 9)
    return {split: _by_method(found[found["split"] == split], split) for split in order}


def splits_table(evaluated: Evaluated) -> Shown | None:
    """Both measures by what was left out, a row per method and measure, if they were taken."""
    columns = {split: of for split, of in _splits(evaluated).items() if split not in ("intersection", "group")}
    rows = [
        [method, MEASURES[measure], *(_cell(of, method, measure) for of in columns.values())]
        for method in LEFT_OUT
        for measure in MEASURES
        if any(method in of.index for of in columns.values())
    ]
    head = ["method", "measure", *(_left_out(split) for split in columns)]
    return table(pd.DataFrame(rows, columns=head), "From toplines, by what was left out") if rows else None


def splits_sentence(evaluated: Evaluated, method: str = "delta-reading") -> str:
    """Both measures of an offset that reads by what was left out, and where the toplines by themselves are nearer."""
    wide = _splits(evaluated)
    if not wide:
        return "What happens with whole topics, surveys or groups left out has not been measured: `make evaluate` does."
    shown = {split: of for split, of in wide.items() if split not in ("intersection", "group") and method in of.index}
    said = f"The gap correlation of {prose(method)} by what its fit did not see: {_listed(shown, method, 'gap_r')}. "
    said += f"The share of the group KL that it closes: {_listed(shown, method, 'group_kl_closed')}."
    highs = {split: of["group_kl_closed_high"].to_dict()[method] for split, of in shown.items() if split in SPLITS}
    if harmed := [_left_out(split) for split, high in highs.items() if high < 0]:
        said += f" With {' or '.join(harmed)} left out everybody's answers by themselves are nearer to the groups."
    if "intersection" in wide and method == "delta-reading":
        of = wide["intersection"]
        said += (
            " For an intersection of groups that took no part in the fit, answered by the sum of its groups' codes, "
            f"the gap correlation is {_cell(of, 'delta-reading-left-out')}; for the same fitted along, "
            f"{_cell(of, 'delta-reading-fitted')}."
        )
    return said


def _listed(of_splits: Mapping[str, pd.DataFrame], method: str, measure: str) -> str:
    return "; ".join(f"{_left_out(split)} {_cell(of, method, measure)}" for split, of in of_splits.items())


def first_page(evaluated: Evaluated) -> dict[str, str]:
    """What the first page says of other seeds, and of topics and surveys that no fit has seen; and of the latter what
    the page on predictions says of the offset that predicts."""
    found = {"gaps_over_seeds": seeds_sentence(evaluated), "gaps_left_out": splits_sentence(evaluated)}
    return found | {"gaps_left_out_64": splits_sentence(evaluated, "delta-reading-64")}


def _left_out(split: str) -> str:
    return SPLITS.get(split, f"surveys, {split.replace('to ', 'tested on ', 1)}")


def _by_method(part: pd.DataFrame, split: str) -> pd.DataFrame:
    ending = ENDINGS.get("survey" if split.startswith("to ") else split, "")
    return part.assign(method=part["method"].str.removesuffix(ending)).set_index("method")


def _cell(of: pd.DataFrame, method: str, measure: str = "gap_r") -> str:
    return measured(of.loc[method], measure) if method in of.index else ""
