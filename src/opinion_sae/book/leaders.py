"""The leaderboard as the book shows it: its tables, and a sentence for each method and each kind of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from opinion_sae.artifacts import check_fields, read_csv, read_json
from opinion_sae.book.gap_report import measured, plain
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
    "What changes besides": {
        "others' KL, change (nats)": "others_kl_change",
        "accuracy, change": "accuracy_change",
        "perplexity, ratio": "perplexity_ratio",
        "next-token KL (nats)": "next_token_kl",
        "on option letters": "option_mass",
        "side-effect ratio": "side_effect_ratio",
    },
    "AxBench's mean, alone and from toplines": {
        "strength": "strength",
        "target": "target",
        "fluency": "fluency",
        "ability": "ability",
        "harmonic mean": "harmonic_mean",
        "strength, from toplines": "strength_toplines",
        "target, from toplines": "target_toplines",
        "harmonic mean, from toplines": "harmonic_mean_toplines",
    },
    "How stable, and at what cost": {
        "gaps, options reversed (r)": "wording_r",
        "the group with the lowest": "wording_r_lowest_group",
        "two groups apart": "wording_r_pair",
        "gaps, other words (r)": "reworded_r",
        "lowest of single seeds": "seed_r_low",
        "highest": "seed_r_high",
        "parameters": "parameters",
        "seconds to fit": "fit_seconds",
        "ms per answer": "ms_per_answer",
        "seconds in all": "total_seconds",
    },
}

TURNED = ("delta-reading", "delta-reading-64", "dense-reading", "delta")
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
    there = set(found["method"])
    lacking = [name for name in said["missing"] if not name.endswith("-cost") and name not in there]
    if lacking:
        note += f" Not all of it has been run; missing are {', '.join(f'`{name}`' for name in lacking)}."
    if said.get("kept"):
        note += f" From an earlier run of the same survey, model and SAE, without ranks: {', '.join(said['kept'])}."
    return found.sort_values("gap_r", ascending=False, kind="stable").reset_index(drop=True), note


def shown(found: pd.DataFrame, caption: str) -> Shown:
    """One of TABLES, a row per method for which it has something; the note where there is no leaderboard."""
    if not len(found):
        return sentence(NONE)
    columns = {head: name for head, name in TABLES[caption].items() if found[name].notna().any()}
    rows = found[found[[*columns.values()]].notna().any(axis=1)]
    cells: dict[str, list[object]] = {"method": rows["method"].tolist()}
    for head, name in columns.items():
        if f"{name}_low" in found and name != "rank":
            cells[head] = [measured(row, name) for _, row in rows.iterrows()]
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
        f"{prose(first['method'])}, {measured(first, 'gap_r')}; {sure}."
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
    name, r = prose(best["method"]), f"{measured(best, 'gap_r')}{few}"
    said = [
        f"Of {len(of_kind)} {what} the highest gap correlation, {r}, is that of {name}"
        if len(of_kind) > 1
        else f"Of {what} only {name} was compared: a gap correlation of {r}"
    ]
    said.append(_against(best))
    if pd.notna(best["next_token_kl"]):
        said.append(
            f"on plain text it moves the next token by {plain(best['next_token_kl'])} nats and changes factual "
            f"accuracy by {100 * best['accuracy_change']:+.0f} points"
        )
    return "; ".join(part for part in said if part) + "."


def method_sentences(found: pd.DataFrame) -> str:
    """A short sentence for each method, best first, as a list: gap correlation, rank, where it stands to the reference,
    AxBench's mean, and seconds."""
    if not len(found):
        return NONE
    whole = float(found["n_questions"].max())
    return "\n".join(f"- {_of_method(row, whole)}" for row in found.to_dict("records"))


def _of_method(row: dict[Any, Any], whole: float) -> str:
    name = prose(row["method"])
    few = f"on {row['n_questions']:.0f} of {whole:.0f} questions"
    said = [f"{name[:1].upper()}{name[1:]}: gap correlation {measured(row, 'gap_r')}"]
    said.append(few if pd.isna(row["rank"]) else f"rank {_rank(row)}")
    if row["method"] != REFERENCE and pd.notna(row["minus_reading"]):
        low, high = row["minus_reading_low"], row["minus_reading_high"]
        side = "above" if low > 0 else "below" if high < 0 else "not to be told from"
        said.append(f"{side} {prose(REFERENCE)}")
    cost = [f"harmonic mean {plain(row['harmonic_mean'])}"] if pd.notna(row["harmonic_mean"]) else []
    cost += [f"{_short(row['total_seconds'])} s"] if pd.notna(row["total_seconds"]) else []
    return "; ".join([", ".join(said), *cost]) + "."


def unasked_sentence(found: pd.DataFrame) -> str:
    """What it would take to ask everything of the methods that were asked a few questions, from the time of those."""
    if not len(found):
        return NONE
    whole = found["n_questions"].max()
    few = found[found["n_questions"] < whole].sort_values("total_seconds", kind="stable")
    if not len(few):
        return "Every method answered every question."
    rows = few.to_dict("records")
    listed = [
        f"{prose(row['method'])} {row['total_seconds'] / 60:.0f} minutes ({row['ms_per_answer']:.0f} ms an answer)"
        for row in rows
        if pd.notna(row["ms_per_answer"])
    ]
    said = [f"To ask all {whole:.0f} questions for every group would take {'; '.join(listed)}."] if listed else []
    untimed = [prose(row["method"]) for row in rows if pd.isna(row["ms_per_answer"])]
    said += [f"How long it would take to ask all questions of {', '.join(untimed)} is not known."] if untimed else []
    return " ".join(said)


def reworded_sentence(found: pd.DataFrame, results: Path) -> str:
    """How alike the gaps in two wordings of a question are: in people, and as the reference and others say."""
    path = results / "leaderboard.json"
    people = numbers_of(path, "people")
    known = found[found["reworded_r"].notna() & found["rank"].notna()]
    if "reworded_r" not in people or "pairs" not in people or not len(known):
        return "Of questions that were asked in two wordings, nothing has been compared."
    said = f"Over {people['pairs']:.0f} questions that were asked in two wordings, people's gaps correlate at "
    said += plain(people["reworded_r"])
    if "corrected" in people:
        said += f" ({plain(people['corrected'])} without the noise of sampling)"
    named = known[known["method"] == REFERENCE].to_dict("records")
    listed = [f"{prose(row['method'])} has {plain(row['reworded_r'])}" for row in named]
    others = known[known["method"] != REFERENCE]["reworded_r"]
    if len(others):
        listed.append(f"the {len(others)} others {plain(others.min())} to {plain(others.max())}")
    return f"{said}; from toplines {', '.join(listed)}."


def turned_sentence(found: pd.DataFrame) -> str:
    """Of `wording_r`: whether predicted gaps stay as they are when the options are asked in reverse order, or turn."""
    known = found.dropna(subset=["wording_r"]).set_index("method")["wording_r"]
    listed = [f"{plain(known[name])} for {prose(name)}" for name in TURNED if name in known.index]
    if not listed:
        return "Nothing has been asked with its options in reverse order."
    said = "Asked with the options in reverse order, the gaps that a method predicts correlate with those that it "
    said += f"predicts in the order shown at {', '.join(listed)}"
    moved = [prose(name) for name in TURNED if name in known.index and known[name] < 0]
    return (
        f"{said}; below zero, what is moved is a letter and no opinion ({', '.join(moved)})." if moved else f"{said}."
    )


def remains_sentence(results: Path) -> str:
    """What is left of an attribute's part of Δ without what another's spans: for party and race if there are such."""
    path = results / "leaderboard.json"
    said: dict[str, Any] = read_json(path, dict).get("remains", {}) if path.is_file() else {}
    if not said:
        return "What attributes share has not been measured."
    check_fields(said, {"left": dict, "used": int, "splits": int}, f"{path}: remains")
    left, used, splits = said["left"], said["used"], said["splits"]
    if not used:
        return "In every split D = 0: the groups have no parts of their own of which attributes could share anything."
    first = [name for name in ("party without race", "race without party") if name in left]
    listed = [
        f"of {name.replace(' without ', ', without what it shares with ')}, {100 * left[name]:.0f}%" for name in first
    ]
    least = min(left, key=lambda name: left[name])
    listed.append(f"over all {len(left)} ordered pairs the least is {least}, {100 * left[least]:.0f}%")
    where = "" if used == splits else f" in the {used} of {splits} splits that have such parts (in the rest D = 0)"
    return f"Of the square of Δ's own parts{where} there is left: {'; '.join(listed)}."


def numbers_of(path: Path, name: str) -> dict[str, float]:
    """Of an object in `leaderboard.json` its numbers by name; none where there is no file, or nothing of it."""
    found = read_json(path, dict).get(name, {}) if path.is_file() else {}
    check_fields(found, dict.fromkeys(found, float) if isinstance(found, dict) else {}, f"{path}: {name}")
    return found


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


def cost_sentence(found: pd.DataFrame) -> str:
    """Which methods no other beats at less cost, from the cheapest on."""
    best = frontier(found)
    if not len(best):
        return NONE
    listed = [
        f"{prose(row['method'])} ({_short(row['total_seconds'])} s, {plain(row['gap_r'])})"
        for row in best.to_dict("records")
    ]
    untimed = found[found["rank"].notna() & found["total_seconds"].isna()]["method"]
    aside = f" ({len(untimed)} were not timed)" if len(untimed) else ""
    return f"Of the methods that were timed{aside}, better than all that take less time: {'; '.join(listed)}."


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
