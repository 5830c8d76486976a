"""The published runs' leaderboards side by side, and gap correlation against the size of the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from opinion_sae.book.gap_report import measured, plain
from opinion_sae.book.leaderboard import REFERENCE
from opinion_sae.book.leaders import load_leaderboard
from opinion_sae.book.paths import ROOT
from opinion_sae.book.published import GAPS, Published
from opinion_sae.book.sentences import counted
from opinion_sae.score.names import prose

# of `words` no model takes part; prompts and LoRA stand in leaderboards alone
BY_SIZE = ("delta", "delta-reading", "dense-reading", "direct", "words", "prompt-best", "few-shot", "lora")
CELLS = {"questions": "n_questions", "gap correlation": "gap_r", "group KL closed": "group_kl_closed"}


class Board(NamedTuple):
    """What `opinion-sae compare` left of a run."""

    model: str
    rows: pd.DataFrame  # leaderboard.csv by method, best first; empty if there is none
    note: str  # what made it, and what is missing

    @property
    def ranked(self) -> pd.DataFrame:
        """The methods that answered all questions."""
        return self.rows[self.rows["rank"].notna()]


def boards(runs: Mapping[str, Published], results: Path = ROOT / "results") -> dict[str, Board]:
    """Of each run, by its name. Raises what `load_leaderboard` raises."""
    found = {}
    for name, run in runs.items():
        rows, note = load_leaderboard(results / name)
        found[name] = Board(run.model, rows.set_index("method"), note)
    return found


def side_by_side(found: Mapping[str, Board]) -> pd.DataFrame:
    """From toplines: questions, gap correlation and share of the group KL closed, a row per method, in the order of the
    first leaderboard, and a block of columns per model."""
    blocks = {}
    for board in found.values():
        if len(board.rows):
            rows = board.rows
            cells = {"questions": [f"{count:.0f}" for count in rows["n_questions"]]}
            cells |= {head: [measured(row, CELLS[head]) for _, row in rows.iterrows()] for head in [*CELLS][1:]}
            blocks[board.model] = pd.DataFrame(cells, index=rows.index)
    return pd.concat(blocks, axis=1).fillna("") if blocks else pd.DataFrame()


def boards_text(found: Mapping[str, Board]) -> str:
    """MyST text: per model what made its leaderboard, what stands above the reading offset and what cannot be told from
    it; then how far two models agree on the order."""
    lines = [
        f"- With {board.model}: {' '.join(filter(None, (_placed(board), board.note)))}" for board in found.values()
    ]
    return "\n".join(lines) + f"\n\n{agreement(found)}\n"


def _placed(board: Board) -> str:
    ranked = board.ranked
    if REFERENCE not in ranked.index:
        return ""
    others = ranked.drop(index=REFERENCE)
    above, below = others["minus_reading_low"] > 0, others["minus_reading_high"] < 0
    of = f"{int(below.sum())} of {counted(len(others), 'other method')} on all questions"
    parts = [f"{prose(REFERENCE)} lies above {of}"]
    for what, which in (("above it", above), ("not to be told from it", ~above & ~below)):
        names = ", ".join(prose(str(name)) for name in others.index[which]) or "none"
        parts.append(f"{what}: {names}")
    return f"{'; '.join(parts)} (intervals of single pairs, not corrected for their number)."


def agreement(found: Mapping[str, Board]) -> str:
    """Spearman's correlation of gap correlations, over the methods that two models' leaderboards rank, pair by pair."""
    listed = [board for board in found.values() if len(board.ranked)]
    said = []
    for n, one in enumerate(listed):
        for other in listed[n + 1 :]:
            both = one.ranked.index.intersection(other.ranked.index)
            rho = one.ranked.loc[both, "gap_r"].rank().corr(other.ranked.loc[both, "gap_r"].rank())
            said.append(f"{plain(rho)} between {one.model} and {other.model} ({len(both)} methods)")
    if not said:
        return "There are not two models' leaderboards to hold against each other."
    return f"The order of the methods by gap correlation has a rank correlation of {', '.join(said)}."


def parameters(model: str) -> float:
    """How many a model has by its name: 'smollm2-135m-instruct' -> 1.35e8; NaN if that does not say."""
    found = re.search(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)([mb])(?![a-z0-9])", model.lower())
    return float(found[1]) * {"m": 1e6, "b": 1e9}[found[2]] if found else float("nan")


def gaps_by_size(runs: Mapping[str, Published], found: Mapping[str, Board]) -> pd.DataFrame:
    """From toplines, over all groups: `GAPS` of the methods of `BY_SIZE` by `gaps.csv`, or by the leaderboard where the
    former has no such method, with the model's `parameters`, smallest first; of runs whose model says how many it has.
    `whole`: whether all of the run's questions were answered."""
    columns = [*GAPS, "n_questions"]
    parts = [pd.DataFrame(columns=["method", *columns, "parameters", "whole"])]
    for name, run in runs.items():
        ranked = found[name].rows
        table = pd.concat([run.gaps[columns], ranked.loc[ranked.index.difference(run.gaps.index), columns]])
        of = table.loc[[method for method in BY_SIZE if method in table.index]].rename_axis("method").reset_index()
        whole = of["n_questions"] == of["n_questions"].max()
        parts.append(of.assign(parameters=parameters(run.model), whole=whole))
    table = pd.concat([part for part in parts if len(part)] or parts)
    return table[table["parameters"].notna()].sort_values("parameters", kind="stable", ignore_index=True)


def gaps_by_size_sentence(tables: Mapping[str, pd.DataFrame]) -> str:
    """Of each survey's `gaps_by_size`: of the methods run with both, from the smallest model to the largest, and
    whether their intervals meet."""
    return " ".join(f"On {survey}: {_from_small_to_large(table)}" for survey, table in tables.items())


def _from_small_to_large(table: pd.DataFrame) -> str:
    if table["parameters"].nunique() < 2:
        return "there are not yet two models to compare."
    said, ends = [], [table["parameters"].min(), table["parameters"].max()]
    for method in (name for name in BY_SIZE if name != "words"):
        rows = table[table["method"] == method]
        if len(rows) and rows["parameters"].iloc[[0, -1]].tolist() == ends:
            small, large = rows.iloc[0], rows.iloc[-1]
            apart = small["gap_r_high"] < large["gap_r_low"] or large["gap_r_high"] < small["gap_r_low"]
            verb = "" if said else "goes "
            few = "" if rows["whole"].all() else f"{rows['n_questions'].min():.0f} questions, "
            said.append(
                f"{prose(method)} {verb}from {plain(small['gap_r'])} to {plain(large['gap_r'])} ({few}intervals "
                f"{'lie apart' if apart else 'meet'})"
            )
    if not said:
        return "no method was run with both the smallest model and the largest."
    few, many = (f"{size / 1e6:,.0f} million" for size in ends)
    words = table.loc[table["method"] == "words", "gap_r"]
    beside = f"; words alone, which use no model, stand at {plain(words.iloc[0])}" if len(words) else ""
    return f"from {few} to {many} parameters the gap correlation of {', that of '.join(said)}{beside}."
