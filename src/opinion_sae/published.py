"""The committed tables of a published run, for a chapter that shows results which cannot be made everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from opinion_sae.artifacts import read_json
from opinion_sae.paths import ROOT

COLUMNS = (
    *("method", "group", "split", "n_questions", "kl", "tv", "alignment"),
    *("kl_low", "kl_high", "alignment_low", "alignment_high", "gap_closed"),
)


class Published(NamedTuple):
    """What a run left in its results folder."""

    table: pd.DataFrame  # alignment.csv: a row per method and group
    overall: pd.DataFrame  # of it the rows of all groups together, by method
    by_group: pd.DataFrame  # mean KL in nats, a row per group and a column per method
    floor: pd.DataFrame  # floor.csv: what resampling people alone would give, by group
    comparisons: pd.DataFrame  # comparisons.csv: paired differences in KL
    numbers: dict[str, str]  # numbers.json: formatted for prose
    run: dict[str, Any]  # run.json: profile, hashes of data, model and SAE, versions, machine, times


def load_published(name: str = "opinionqa", results: Path = ROOT / "results") -> Published:
    """Read `results/<name>`.

    Raises FileNotFoundError for an absent table, with how to make it, and ValueError for one that lacks a column.
    """
    folder = results / name
    table = _table(folder / "alignment.csv", COLUMNS)
    everyone = table["group"] == "all"
    methods, groups = table["method"].unique(), table.loc[~everyone, "group"].unique()
    by_group = table[~everyone].pivot(index="group", columns="method", values="kl")
    return Published(
        table,
        table[everyone].set_index("method").drop(columns="group"),
        by_group.reindex(index=groups, columns=methods),
        _table(folder / "floor.csv", ("group", "kl", "alignment")),
        _table(folder / "comparisons.csv", ("group", "method", "reference", "kl_difference", "low", "high")),
        read_json(_there(folder / "numbers.json")),
        read_json(_there(folder / "run.json")),
    )


def _there(path: Path) -> Path:
    if not path.is_file():
        name = path.parent.name
        raise FileNotFoundError(
            f"{path}: not there; `make book PROFILE={name}` writes it (for the data that this needs see book/reproduce.md)"
        )
    return path


def _table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    table = pd.read_csv(_there(path))
    missing = [column for column in columns if column not in table]
    if missing:
        raise ValueError(f"{path}: columns {missing} are missing; found {list(table)}")
    if len(table) == 0:
        raise ValueError(f"{path}: no rows")
    return table
