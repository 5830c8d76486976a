"""What the study of training on found (`studies.trained_on`), as chapter 11 shows it: its tables and a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from opinion_sae.artifacts import read_csv
from opinion_sae.book.paths import ROOT

FOLDER = ROOT / "results" / "studies" / "trained_on"
ENTRIES = ("entries_a", "entries_b", "entries_c", "entries_deviation")
COLUMNS = {
    "splits": ("split", "l1", "epoch", "validation_kl_start", "validation_kl", *ENTRIES, "chosen"),
    "gaps": ("task", "method", *(f"{of}{end}" for of in ("gap_r", "group_kl_closed") for end in ("", "_low", "_high"))),
    "steps": ("seconds_constant", "seconds_reading", "ratio", "least", "most"),
}


def trained_on_tables(folder: Path = FOLDER) -> dict[str, pd.DataFrame]:
    """Its tables by name; none if the study is not in this checkout. ValueError for one that lacks a column."""
    files = {name: folder / f"{name}.csv" for name in COLUMNS}
    if not all(path.is_file() for path in files.values()):
        return {}
    return {name: read_csv(path, COLUMNS[name]) for name, path in files.items()}


def trained_on_sentence(tables: Mapping[str, pd.DataFrame]) -> str:
    """Whether training on helps, in how many splits, what L1 leaves, and what a step costs."""
    if not tables:
        return "`make study NAME=trained_on` measures it, and has not been run in this checkout."
    splits, gaps, step = tables["splits"], tables["gaps"].set_index(["task", "method"]), tables["steps"].iloc[0]
    before, after = gaps.loc[("toplines", "before")], gaps.loc[("toplines", "after")]
    chosen = splits[splits["chosen"]]
    kept = int((chosen["epoch"] > 0).sum())
    plain, most = splits[splits["l1"] == splits["l1"].min()], splits[splits["l1"] == splits["l1"].max()]
    return (
        f"Training on is kept in {kept} of {len(chosen)} splits by the validation questions; over all of them the gap "
        f"correlation goes from {_range(before, 'gap_r')} to {_range(after, 'gap_r')} and the share of the group KL "
        f"closed from {_range(before, 'group_kl_closed')} to {_range(after, 'group_kl_closed')}. "
        f"With γ = {most['l1'].iloc[0]:g} what is kept reads {most['entries_a'].mean():.0f} entries of a "
        f"and writes {most['entries_b'].mean():.0f} of b, without it {plain['entries_a'].mean():.0f} and "
        f"{plain['entries_b'].mean():.0f}, means over splits. A step takes {step['ratio']:.2f} times as long as one of "
        f"the constant Δ for the same groups ({step['least']:.2f} to {step['most']:.2f} over rounds, in turn)."
    )


def trained_on_page(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A row per split and L1 weight: the epoch kept (0 is the start), KL on validation, and entries that are not 0."""
    if not tables:
        return pd.DataFrame()
    heads = {"validation_kl_start": "KL at the start", "validation_kl": "KL kept", "epoch": "epoch kept", "l1": "γ"}
    heads |= {name: name.replace("entries_", "entries of ").replace("deviation", "D") for name in ENTRIES}
    return tables["splits"].rename(columns=heads)


def _range(row: pd.Series, of: str) -> str:
    return f"{row[of]:.2f} ({row[f'{of}_low']:.2f} to {row[f'{of}_high']:.2f})"
