"""The leaderboard as the book shows it: its tables, and a sentence for each kind of method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from opinion_sae.artifacts import check_fields, read_csv, read_json
from opinion_sae.book.gap_report import plain, with_interval
from opinion_sae.book.leaderboard import COLUMNS, REFERENCE
from opinion_sae.book.typeset import Shown, sentence, table
from opinion_sae.methods.registry import KINDS
from opinion_sae.score.names import label, prose

NONE = "No leaderboard of this run is there: `opinion-sae compare` makes it."
TABLES = {
    "Gains, from toplines unless it says alone": {
        "questions": "n_questions",
        "gap correlation": "gap_r",
        "less the reading Δ's": "minus_reading",
        "rank": "rank",
        "group KL closed": "group_kl_closed",
        "exaggeration": "exaggeration",
        "identified": "identified",
        "gap correlation, alone": "gap_r_alone",
        "KL, alone (nats)": "kl",
    },
    "What changes besides, and AxBench's mean": {
        "others' KL, change (nats)": "others_kl_change",
        "accuracy, change": "accuracy_change",
        "perplexity, ratio": "perplexity_ratio",
        "next-token KL (nats)": "next_token_kl",
        "on option letters": "option_mass",
        "side-effect ratio": "side_effect_ratio",
        "strength": "strength",
        "target": "target",
        "fluency": "fluency",
        "ability": "ability",
        "harmonic mean": "harmonic_mean",
    },
    "How stable, and at what cost": {
        "gaps, options reversed (r)": "wording_r",
        "the group with the lowest": "wording_r_lowest_group",
        "two groups apart": "wording_r_pair",
        "lowest of single seeds": "seed_r_low",
        "highest": "seed_r_high",
        "parameters": "parameters",
        "seconds to fit": "fit_seconds",
        "ms per answer": "ms_per_answer",
        "seconds in all": "total_seconds",
    },
}

COUNTS = ("n_questions", "parameters", "fit_seconds", "ms_per_answer", "total_seconds")


def load_leaderboard(results: Path) -> tuple[pd.DataFrame, str]:
    """`leaderboard.csv` of a results folder, best first, and a note on what made it; without rows if there is none.

    ValueError for a table that lacks a column or has no number where there must be one.
    """
    path, about = results / "leaderboard.csv", results / "leaderboard.json"
    if not (path.is_file() and about.is_file()):
        return pd.DataFrame(columns=COLUMNS), NONE
    found = read_csv(path, COLUMNS, numbers=COLUMNS[2:], names=("method",))
    said: dict[str, Any] = read_json(about)
    check_fields(said, {"machine": str, "seconds": dict, "missing": list}, str(about), more=True)
    note = f"Made by `opinion-sae compare` on {said['machine']} in {said['seconds']['total'] / 60:.0f} minutes."
    lacking = [name for name in said["missing"] if not name.endswith("-cost")]
    if lacking:
        note += f" Not all of it has been run; missing are {', '.join(f'`{name}`' for name in lacking)}."
    return found.sort_values("gap_r", ascending=False, kind="stable").reset_index(drop=True), note


def shown(found: pd.DataFrame, caption: str) -> Shown:
    """One of TABLES, a row per method for which it has something; the note where there is no leaderboard."""
    if not len(found):
        return sentence(NONE)
    columns = TABLES[caption]
    rows = found[found[[*columns.values()]].notna().any(axis=1)]
    cells: dict[str, list[object]] = {"method": rows["method"].tolist()}
    for head, name in columns.items():
        if f"{name}_low" in found and name != "rank":
            ends = rows[[name, f"{name}_low", f"{name}_high"]].to_numpy(float)
            cells[head] = [with_interval(*one) for one in ends]
        elif name == "rank":
            cells[head] = [_rank(row) for row in rows.to_dict("records")]
        elif name in COUNTS:
            cells[head] = ["" if pd.isna(value) else _short(value) for value in rows[name]]
        else:
            cells[head] = [*rows[name].astype(float)]
    return table(pd.DataFrame(cells), caption)


def _short(value: float | int) -> str:
    """A count or a time: whole from 100 on, two digits below."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2g}"


def _rank(row: dict[Any, Any]) -> str:
    if pd.isna(row["rank"]):
        return ""
    return f"{row['rank']:.0f} ({row['rank_low']:.0f} to {row['rank_high']:.0f})"


def first_sentence(found: pd.DataFrame) -> str:
    """Who comes first, and how sure that is."""
    ranked = found[found["rank"].notna()]
    if not len(ranked):
        return NONE
    first = ranked.sort_values("rank", kind="stable").iloc[0]
    able = ranked[ranked["rank_low"] <= 1]
    sure = (
        "no other comes first in more than a fortieth of all draws"
        if len(able) == 1
        else f"{len(able)} of {len(ranked)} methods have the first rank in their intervals"
    )
    return (
        f"The highest gap correlation from toplines on all {first['n_questions']:.0f} questions is that of "
        f"{prose(first['method'])}, {_r(first)}; {sure}."
    )


def kind_sentence(found: pd.DataFrame, kind: str) -> str:
    """The best of a kind, how it stands to the reading offset, and what it changes besides."""
    of_kind = found[found["kind"] == kind]
    what = KINDS[kind]
    if not len(of_kind):
        return f"Of {what}, nothing has been compared."
    best = of_kind.sort_values("gap_r", kind="stable").to_dict("records")[-1]
    whole = found["n_questions"].max()
    few = f" on {best['n_questions']:.0f} of {whole:.0f} questions only" if best["n_questions"] < whole else ""
    said = [
        f"Of {len(of_kind)} {what} the highest gap correlation, {_r(best)}{few}, is that of {prose(best['method'])}"
        if len(of_kind) > 1
        else f"Of {what} only {prose(best['method'])} was compared: a gap correlation of {_r(best)}{few}"
    ]
    said.append(_against(best))
    if pd.notna(best["next_token_kl"]):
        said.append(
            f"on plain text it moves the next token by {plain(best['next_token_kl'])} nats and changes factual "
            f"accuracy by {100 * best['accuracy_change']:+.0f} points"
        )
    return "; ".join(part for part in said if part) + "."


def _against(row: dict[Any, Any]) -> str:
    """The difference in r to the reference, on the same questions, and whether zero is in its interval."""
    value, low, high = (row[f"minus_reading{end}"] for end in ("", "_low", "_high"))
    if row["method"] == REFERENCE or pd.isna(value):
        return ""
    near, far = sorted((abs(low), abs(high)))
    size = f"{abs(value):.2f} ({near:.2f} to {far:.2f})"
    if low > 0:
        return f"it is above {prose(REFERENCE)} by {size}"
    if high < 0:
        return f"it is below {prose(REFERENCE)} by {size}"
    return f"it cannot be told from {prose(REFERENCE)} (difference {value:+.2f}, {low:+.2f} to {high:+.2f})"


def _r(row: Any) -> str:
    return with_interval(*(float(row[f"gap_r{end}"]) for end in ("", "_low", "_high")))


def cost_sentence(found: pd.DataFrame) -> str:
    """Which methods no other beats at less cost, from the cheapest on."""
    best = frontier(found)
    if not len(best):
        return NONE
    listed = [
        f"{prose(row['method'])} ({_short(row['total_seconds'])} s, {plain(row['gap_r'])})"
        for row in best.to_dict("records")
    ]
    return f"Better than everything that takes less time: {'; '.join(listed)}."


def frontier(found: pd.DataFrame) -> pd.DataFrame:
    """Rows with a higher gap correlation than any that takes less time in all, of those that answered all questions."""
    timed = found[found["total_seconds"].notna() & found["rank"].notna()]
    timed = timed.sort_values(["total_seconds", "gap_r"], ascending=[True, False], kind="stable")
    before = timed["gap_r"].cummax().shift(fill_value=-1.0)
    return timed[timed["gap_r"] > before]


def labels(found: pd.DataFrame) -> list[str]:
    """Methods that a figure names: the best of each kind, and those of `frontier`."""
    timed = found[found["total_seconds"].notna() & found["gap_r"].notna()]
    best = timed.sort_values("gap_r", kind="stable").groupby("kind")["method"].last()
    return [name for name in timed["method"] if name in {*best, *frontier(found)["method"]} and label(name)]
