"""Tables and sentences on group differences for the two chapters on offsets that read, and numbers for the pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from opinion_sae.book.typeset import Shown, table
from opinion_sae.score.gaps_table import with_toplines
from opinion_sae.score.metrics import ENDS
from opinion_sae.score.names import prose, rank
from opinion_sae.score.toplines import from_toplines
from opinion_sae.survey import Survey

FEW = "too few questions"
# those of the chapter's figures, its table and `answers.csv`
SHOWN = (
    *("toplines", "unsteered", "delta", "delta-reading", "delta-reading-64", "dense-reading"),
    *("random-read-latents", "random-dictionary", "shuffled-questions", "shuffled-groups-reading"),
    *("direct", "words", "words+direct"),
    *("embedding", "embedding+direct"),
)
FIRST = ("delta-reading", "delta-reading-64", "delta", "words")  # of a sentence, and in `answers.csv` from toplines too


def all_answers(work: Path) -> dict[str, list[Float[np.ndarray, "_ question option"]]]:
    """Held-out log p of every method of the run, one table each. `everyone` is left out: it is what toplines are."""
    from opinion_sae.delta.files import WITH_READING, load_all_answers  # a second, for torch

    found = load_all_answers(work, WITH_READING)
    return {name: [found[name]] for name in sorted(found, key=rank) if name != "everyone"}


def shown_rows(gaps: pd.DataFrame) -> pd.DataFrame:
    """The rows of `gaps.csv` of the methods that the chapter shows first."""
    return gaps[gaps["method"].isin(SHOWN)]


def shown_answers(
    survey: Survey, tables: Mapping[str, Sequence[Float[np.ndarray, "_ question option"]]]
) -> dict[str, list[Float[np.ndarray, "_ question option"]]]:
    """The columns of `answers.csv`: the methods of the page's table, and some of them from toplines."""
    given = with_toplines(survey, tables, "toplines")
    shown = {name: list(given[name]) for name in SHOWN if name in given}
    for name in (name for name in FIRST if name in given):
        shown[f"{name}-from-toplines"] = [from_toplines(survey, one) for one in given[name]]
    return shown


def with_interval(value: float, low: float, high: float) -> str:
    """'0.43 (0.38 to 0.48)'; without an interval, or a value, why; '0.00' of what is so by definition."""
    if np.isnan(value):
        return FEW
    if low == high == value:
        return plain(value)
    return (
        f"{plain(value)} ({FEW} for an interval)"
        if np.isnan(low)
        else f"{plain(value)} ({plain(low)} to {plain(high)})"
    )


def measured(row: pd.Series | Mapping[Any, Any], name: str) -> str:
    """`with_interval` of a measure whose columns are `name`, `name_low` and `name_high`."""
    return with_interval(*(float(row[f"{name}{end}"]) for end in ENDS))


def plain(value: float) -> str:
    """'0.43'; never '-0.00'."""
    return FEW if np.isnan(value) else f"{round(value, 2) + 0.0:.2f}"


def overall(table: pd.DataFrame, task: str = "toplines") -> pd.DataFrame:
    """Rows over all groups of one task, by method."""
    return table[(table["task"] == task) & (table["group"] == "all")].set_index("method")


def gaps_page(gaps: pd.DataFrame, pairs: pd.DataFrame, methods: Sequence[str] = SHOWN) -> Shown:
    """The task from toplines, all groups: a row per method, of `gaps.csv` and `pair_gaps.csv`."""
    found = overall(gaps)
    of_pair = pairs[pairs["task"] == "toplines"].set_index("method")
    one, other = of_pair[["group", "other"]].iloc[0]
    head = ["method", "r, each group minus everybody", f"r, {one} minus {other}", "group KL closed"]
    head += ["spread of gaps, predicted over actual", "identified (by chance)"]
    rows = []
    for method in (name for name in methods if name in found.index):
        row, pair = found.loc[method], of_pair.loc[method]
        rows.append(
            [
                method,
                measured(row, "gap_r"),
                measured(pair, "r"),
                measured(row, "group_kl_closed"),
                plain(row["exaggeration"]),
                f"{row['identified']:.2f} ({row['identified_chance']:.2f})",
            ]
        )
    return table(pd.DataFrame(rows, columns=head), "Methods from toplines, over all groups, with 95% intervals")


def gaps_sentence(gaps: pd.DataFrame, task: str = "toplines") -> str:
    """What stands first: the reading offset beside the constant one and words, over all groups."""
    found = overall(gaps, task)
    listed = [
        f"{measured(found.loc[method], 'gap_r')} for {prose(method)}" for method in FIRST if method in found.index
    ]
    asked = "" if task == "toplines" else ", task alone,"
    return (
        f"Over {found['n_questions'].max()} held-out questions and all groups, the correlation of predicted and actual "
        f"gaps{asked} is {', '.join(listed[:-1])} and {listed[-1]} (95% intervals)."
    )


def pair_sentence(pairs: pd.DataFrame, method: str) -> str:
    """The sentence under the scatter of two groups' gaps."""
    row = pairs[(pairs["task"] == "toplines") & (pairs["method"] == method)].iloc[0]
    return (
        f"On {row['n_questions']} held-out questions the predicted and actual {row['group']}-minus-{row['other']} "
        f"gaps of {prose(method)} correlate with r = {measured(row, 'r')}."
    )


def codes_sentence(codes: pd.DataFrame) -> str:
    """Which groups stand at the ends of each of the first two axes, and whether all folds agree on which side."""
    said = []
    for axis in (1, 2):
        part = codes[codes["axis"] == axis]
        if not len(part) or not part["c"].any():
            continue
        top, end = part.loc[part["c"].idxmax()], part.loc[part["c"].idxmin()]
        firm = int(((part["low"] > 0) | (part["high"] < 0)).sum())
        said.append(
            f"Axis {axis} runs from {end['group']} ({end['c']:+.2f}) to {top['group']} ({top['c']:+.2f}); "
            f"{firm} of {len(part)} groups are on the same side of zero in every fold."
        )
    return " ".join(said) or f"There are {FEW}: no group stands anywhere."


def constant_sentence(shares: pd.DataFrame) -> str:
    """Means over folds of `effects.axes.constant_share`, by method."""
    said = []
    for method, part in shares.groupby("method", sort=False):
        used = part["constant_share"].dropna()
        said.append(f"{used.mean():.2f}" if len(used) else "not defined, as it is not used,")
        said[-1] += f" for {prose(method)}"
    return f"The constant share of what the groups' own part adds is {', '.join(said)} (mean over folds)."


def constant_page(shares: pd.DataFrame) -> Shown:
    """A row per fold, a column per method."""
    wide = shares.pivot(index="fold", columns="method", values="constant_share")[shares["method"].unique()]
    rows = [[str(fold), *("not used" if np.isnan(v) else f"{v:.2f}" for v in row)] for fold, *row in wide.itertuples()]
    return table(pd.DataFrame(rows, columns=["fold", *wide]), "Constant share of the groups' own part")


def choices_page(choices: pd.DataFrame) -> Shown:
    """What the offsets that are shown chose, fold by fold: place read, axes, ridge, strength; KL of the axes on
    validation from toplines."""
    part = choices[choices["method"].isin(["delta-reading", "delta-reading-64", "dense-reading"])]
    rows = [
        [row.method, row.split, row.reads, str(row.axes)]
        + [f"{row.ridge:.3g}", f"{row.strength:.2f}", f"{row.validation_kl:.4f}"]
        for row in part.itertuples()
    ]
    head = ["method", "split", "reads", "axes", "ridge", "strength", "KL on validation (nats)"]
    return table(pd.DataFrame(rows, columns=head), "What each split chose, from toplines")


def read_only_page(choices: pd.DataFrame) -> Shown:
    """Mean KL on validation of the read-outs, from toplines; how often each chose what it reads."""
    rows = []
    for method, part in choices.groupby("method", sort=False):
        often = ", ".join(f"{what} ({count})" for what, count in part["features"].value_counts(sort=False).items())
        rows.append([method, often, f"{part['validation_kl'].mean():.4f}"])
    head = ["method", "reads (in so many folds)", "KL on validation (nats)"]
    return table(pd.DataFrame(rows, columns=head), "Read-outs with no model in between, from toplines")
