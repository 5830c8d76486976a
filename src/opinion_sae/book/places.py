"""What the study of places found (`studies.places`), as chapter 26 shows it: committed tables, and sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from opinion_sae.artifacts import check_fields, read_csv, read_json
from opinion_sae.book.gap_report import measured
from opinion_sae.book.paths import PUBLISHED, ROOT
from opinion_sae.book.profile import model_name
from opinion_sae.book.sentences import with_ends
from opinion_sae.book.typeset import Shown, table
from opinion_sae.score.metrics import ENDS

PLACES = {"last": "last token", "question": "question's tokens", "options": "option ends"}
COUNT = ("n_questions", "n_groups", "n_pairs")
COLUMNS = {  # of each table: all, and those that hold numbers; words and the model's answers have no layer
    "places": ("place", "layer", *COUNT[:2], *(f"gap_r{end}" for end in ENDS), "behind_low", "behind_high"),
    "personas": ("place", "layer", COUNT[0], COUNT[2])
    + tuple(f"{name}{end}" for name in ("named", "same", "pair_r") for end in ENDS),
    "pairs": ("attribute", "group", "other"),
}


class Mapped(NamedTuple):
    """What the study left for one run: tables by name, those of personas perhaps without rows, and study.json."""

    tables: Mapping[str, pd.DataFrame]
    about: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The model, without the folder that it lies in, and the surveys."""
        surveys = self.about["profile"]["survey"]
        named = [str(one).partition(":")[0] for one in ([surveys] if isinstance(surveys, str) else surveys)]
        return f"{model_name(self.about['profile']['model'])} on {' and '.join(named)}"

    @property
    def hook_layer(self) -> int:
        """The book's."""
        return int(self.about["profile"]["hook_layer"])

    def of(self, file: str, place: str) -> pd.DataFrame:
        """The rows of a place, by layer; for words or the model's answers there is one."""
        rows = self.tables[file]
        return rows[rows["place"] == place].sort_values("layer").reset_index(drop=True)


def every_map(results: Path, root: Path = ROOT) -> list[Mapped]:
    """Of the default, of every other published run, and of the run with these results: those that are there."""
    folders = [root / "results" / "studies" / "places"]
    others = [root / "results" / name for name in PUBLISHED if name != "default"]
    folders += [folder / "studies" / "places" for folder in dict.fromkeys([*others, results])]
    return [load_map(folder) for folder in folders if (folder / "places.csv").is_file()]


def load_map(folder: Path) -> Mapped:
    """The tables in a folder. ValueError for one of another form."""
    tables = {}
    for name, columns in COLUMNS.items():
        path = folder / f"{name}.csv"
        numbers = [column for column in columns[1:] if name != "pairs"]
        there = path.is_file() or name == "places"
        tables[name] = read_csv(path, columns, numbers) if there else pd.DataFrame(columns=list(columns))
    path = folder / "study.json"
    about = read_json(path)
    check_fields(about, {"command": str, "machine": str, "seconds": dict, "profile": dict}, str(path), more=True)
    check_fields(about["seconds"], {"total": float}, f"{path}: seconds", more=True)
    fields = {"model": str, "hook_layer": int, "survey": str | list}
    check_fields(about["profile"], fields, f"{path}: profile", more=True)
    return Mapped(tables, about)


def note(maps: Sequence[Mapped]) -> str:
    """What made the tables, on how many questions and groups, in what time and where."""
    if not maps:
        return "This study has not been run: `make study NAME=places` does that, after `make book`."
    said = []
    for one in maps:
        row = one.tables["places"].iloc[0]
        minutes, machine = one.about["seconds"]["total"] / 60, one.about["machine"]
        said.append(
            f"With {one.name}: `{one.about['command']}`, {row['n_questions']:.0f} questions and {row['n_groups']:.0f} "
            f"groups, {minutes:.0f} minutes on {machine}."
        )
    return "\n\n".join(said)


def said_of(maps: Sequence[Mapped], sentence: Callable[[Mapped], str]) -> str:
    """One of the sentences below for every run, each a paragraph."""
    return "\n\n".join(sentence(one) for one in maps) or note(maps)


def layer_name(layer: float | int) -> str:
    """'the embedding', or 'layer 15': after the layer of that number, counted from 0."""
    return "the embedding" if layer < 0 else f"layer {layer:.0f}"


def decoded_sentence(one: Mapped) -> str:
    """Where each place peaks, which layers are not told apart from its peak, and what words do beside the best."""
    said, tops = [], {}
    for place, label in PLACES.items():
        rows = one.of("places", place)
        if len(rows):
            top = rows.loc[rows["gap_r"].idxmax()]
            tops[place] = top
            at = f"at {layer_name(top['layer'])} with r = {measured(top, 'gap_r')}"
            said.append(f"the {label} {at}, {_tied(rows, top)}")
    if not tops:
        return "No place has been read yet."
    best = max(tops, key=lambda place: tops[place]["gap_r"])
    met = [
        PLACES[place]
        for place, top in tops.items()
        if place != best and not top["gap_r_high"] < tops[best]["gap_r_low"]
    ]
    if met:
        text = f"no place is told apart as the best for reading group differences; the highest is the {PLACES[best]}"
    else:
        text = f"group differences are read best from the {PLACES[best]}"
    text = f"With {one.name}, {text}: the gap correlation peaks for {'; for '.join(said)}."
    if len(tops) > 1:
        text += f" The interval of the highest peak meets {_all_of(met, len(tops) - 1)}."
    words = one.of("places", "words")
    if not len(words):
        return text
    text += f" Words alone reach {measured(words.iloc[0], 'gap_r')}, {_beside(words.iloc[0])}."
    return text + _over_words(one)


def _over_words(one: Mapped) -> str:
    """Each place against words at the hook layer, which was not chosen on these questions; nothing where a table was
    made before that was measured."""
    said = []
    for place, label in PLACES.items():
        rows = one.of("places", place)
        rows = rows[rows["layer"] == one.hook_layer]
        if len(rows) and "over_words" in rows:
            value, low, high = (float(rows[f"over_words{end}"].iloc[0]) for end in ENDS)
            said.append(f"{with_ends(value, low, high, 2)} for the {label}")
    if not said:
        return ""
    at = f" At the book's hook layer, {one.hook_layer}, the correlation less that of words is "
    return at + f"{', '.join(said)} (paired intervals, not corrected for their number)."


def _tied(rows: pd.DataFrame, top: pd.Series) -> str:
    """The layers whose distance from the peak may be 0, by the paired interval."""
    tied = [int(layer) for layer in rows.loc[~(rows["behind_low"] > 0), "layer"] if layer != top["layer"]]
    if not tied:
        return "every other layer behind it"
    if len(tied) == len(rows) - 1:
        return "no other layer told apart from it"
    return f"{_runs(sorted([*tied, int(top['layer'])]))} not told apart from it"


def _runs(layers: Sequence[int]) -> str:
    """'layers 3 to 9 and 12', the embedding by its name."""
    found: list[list[int]] = []
    for layer in layers:
        if found and found[-1][1] == layer - 1:
            found[-1][1] = layer
        else:
            found.append([layer, layer])
    shown = [str(first) if first == last else f"{first} to {last}" for first, last in found if last >= 0]
    shown = [part.replace("-1 to", "the embedding to") for part in shown]
    shown = [*(["the embedding"] if any(last < 0 for _, last in found) else []), *shown]
    return "layers " + (shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}")


def _all_of(met: Sequence[str], others: int) -> str:
    if not met:
        return "that of neither other place" if others == 2 else "that of no other place"
    return f"that of the {' and of the '.join(met)}"


def _beside(words: pd.Series) -> str:
    """How words stand to the best cell of the map."""
    if words["behind_low"] > 0:
        return "less than the best cell does, which is the best on these very questions"
    return "more than any cell does" if words["behind_high"] < 0 else "which is not told apart from the best cell"


def named_sentence(one: Mapped) -> str:
    """Where which group the persona names enters the stream: its share of the variance, where that is largest, and the
    first layer at which it has half of that."""
    said = []
    for place, label in PLACES.items():
        rows = one.of("personas", place)
        shares = rows["named"].to_numpy(float)
        if not len(rows) or np.isnan(shares).all():
            continue
        top = rows.loc[int(np.nanargmax(shares))]
        half = rows.loc[int(np.flatnonzero(np.nan_to_num(shares) >= top["named"] / 2)[0]), "layer"]
        said.append(
            f"of the {label} at most {_percent(top, 'named')} at {layer_name(top['layer'])}, half of that by "
            f"{layer_name(half)} and {100 * top['same'] / top['named']:.0f}% of it the same for every question"
        )
    if not said:
        return f"With {one.name}, no persona has been named yet."
    text = f"With {one.name}, which of two groups a persona names makes up, of the variance over persona and question, "
    return text + "; ".join(said) + "."


def pairs_sentence(one: Mapped) -> str:
    """How far what the persona changes goes the groups' true way, and what the model's own answers make of it."""
    said = []
    for place, label in PLACES.items():
        own = one.of("personas", place)
        if len(own):
            top, above = own.loc[own["pair_r"].astype(float).idxmax()], int((own["pair_r_low"] > 0).sum())
            sure = f"above 0 by its interval at {above or 'none'} of {len(own)} layers"
            said.append(f"{measured(top, 'pair_r')} for the {label} ({layer_name(top['layer'])}; {sure})")
    if not said:
        return f"With {one.name}, no persona has been named yet."
    answers, row = one.of("personas", "answers"), one.tables["personas"].iloc[0]
    text = f"With {one.name}, on {row['n_questions']:.0f} held-out questions and {row['n_pairs']:.0f} pairs of groups, "
    text += (
        "one direction read from what the persona changes predicts how far apart the groups answer with, at the best "
    )
    text += f"layer, r = {'; '.join(said)}."
    own = f" The model's own answers under the personas: {measured(answers.iloc[0], 'pair_r')}." if len(answers) else ""
    return text + own


def _percent(row: pd.Series, name: str) -> str:
    value, low, high = (100 * float(row[f"{name}{end}"]) for end in ENDS)
    return f"{value:.1f}% ({low:.1f} to {high:.1f})"


def pairs_table(maps: Sequence[Mapped]) -> Shown:
    """The two groups of each attribute that personas name."""
    rows = [one.tables["pairs"].assign(run=one.name) for one in maps]
    frame = pd.concat(rows) if rows else pd.DataFrame(columns=["run", *COLUMNS["pairs"]])
    frame = frame[["run", *COLUMNS["pairs"]]].rename(columns={"group": "one group", "other": "the other"})
    return table(frame.reset_index(drop=True), "Groups that personas name")


def summary_table(maps: Sequence[Mapped]) -> Shown:
    """Each place's peak, and the cell at the book's hook layer."""
    rows = []
    for one in maps:
        for place, label in PLACES.items():
            own = one.of("places", place)
            if len(own):
                top, hook = own.loc[own["gap_r"].idxmax()], own[own["layer"] == one.hook_layer].iloc[0]
                cells = {
                    "run": one.name,
                    "place": label,
                    "peak": layer_name(top["layer"]),
                    "r there": measured(top, "gap_r"),
                }
                rows.append(cells | {"r at the hook layer": f"{measured(hook, 'gap_r')}, {layer_name(one.hook_layer)}"})
    return table(pd.DataFrame(rows), "Where each place is read best")
