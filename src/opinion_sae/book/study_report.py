"""The committed tables of the studies of architectures and of size, and the sentences and tables made from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from opinion_sae.artifacts import check_fields, read_csv, read_json
from opinion_sae.book.gap_report import plain, with_interval
from opinion_sae.book.paths import ROOT
from opinion_sae.book.typeset import Shown, table

STUDIES = ROOT / "results" / "studies"
LONG = ("architecture", "target_l0", "measure", "n_seeds", "value", "low", "high")
FILES = {  # by study the tables that are shown: columns, which of them hold numbers, and which name a row
    "architectures": {"architectures": (LONG, LONG[3:], LONG[:3])},
    "size": {
        "size": (("width", "fvu", "dead", "processor"), ("width", "fvu", "dead", "processor"), ("width",)),
        "exponents": (("measure", "exponent", "error", "constant"), ("exponent", "error", "constant"), ("measure",)),
    },
}
LABELS = {
    "topk": "TopK",
    "batchtopk": "BatchTopK",
    "matryoshka": "Matryoshka",
    "hierarchical": "HierarchicalTopK",
    "atm": "temporal masking",
    "threshold": "threshold",
    "jumprelu": "JumpReLU",
    "gated": "gated",
    "standard": "standard (L1)",
    "book": "the book's own",
}
IN_TABLE = {
    "fvu": "variance unexplained",
    "fvu_at_answers": "the same at the answers",
    "l0": "L0",
    "dead": "dead latents (share)",
    "recovered": "loss recovered",
    "stability": "stability over seeds",
    "absorbed": "absorbed",
    "gap_r": "gap correlation",
    "group_kl_closed": "group KL closed",
    "ratio": "time, TopK = 1",
}


class StudyTables(NamedTuple):
    """What a study has left: tables by file, and study.json. Without either where it has not been run."""

    name: str
    tables: Mapping[str, pd.DataFrame]
    about: Mapping[str, Any]

    def __getitem__(self, file: str) -> pd.DataFrame:
        return self.tables[file]


def load_tables(name: str, folder: Path = STUDIES) -> StudyTables:
    """The tables of a study, without rows if it has not been run. ValueError for a table of another form."""
    path, tables = folder / name, {}
    for file, (columns, numbers, names) in FILES[name].items():
        there = (path / f"{file}.csv").is_file()
        empty = pd.DataFrame(columns=list(columns))
        tables[file] = read_csv(path / f"{file}.csv", columns, numbers, names) if there else empty
    if not (path / "study.json").is_file():
        return StudyTables(name, tables, {})
    about = read_json(path / "study.json")
    fields = {"seconds": dict, "machine": str, "throughput": dict, "missing": list}
    check_fields(about, fields, str(path / "study.json"), more=True)
    return StudyTables(name, tables, about)


def note(study: StudyTables) -> str:
    """What made the tables, in what time and where, and how much of it is missing."""
    command = f"`make study NAME={study.name}`"
    if not study.about:
        return f"This study has not been run: {command} does that, after `make book`."
    seconds, rate = study.about["seconds"], study.about["throughput"].get("gflops_float32")
    said = f"Made by {command} in {seconds['total'] / 60:.0f} minutes on {study.about['machine']}"
    said += f", {rate:.0f} GFLOP/s in float32 at the start of its last run, beside other work." if rate else "."
    if study.about["missing"]:
        done = len(seconds) - 1
        said += f" It can be gone on with: {done} of {done + len(study.about['missing'])} items are there."
    return said


def wide(study: StudyTables, measure: str) -> pd.DataFrame:
    """One measure of the architectures, a row per architecture and sparsity."""
    rows = study["architectures"]
    return rows[rows["measure"] == measure].set_index(["architecture", "target_l0"])


def middle(study: StudyTables) -> int | None:
    """The sparsity that most is known of: the book's."""
    rows = study["architectures"]
    return int(rows["target_l0"].mode().iloc[0]) if len(rows) else None


def at_middle(study: StudyTables, measure: str) -> pd.DataFrame:
    """One measure at that sparsity, a row per architecture, in the order of `LABELS`."""
    found = wide(study, measure)
    if not len(found):
        return found.reset_index(level="target_l0")
    found = found[found.index.get_level_values("target_l0") == middle(study)].reset_index(level="target_l0")
    return found.loc[[name for name in LABELS if name in found.index]]


def architectures_table(study: StudyTables) -> Shown:
    """A row per architecture at the book's sparsity, with intervals over seeds, for gaps over questions."""
    rows = {}
    for measure, head in IN_TABLE.items():
        for name, row in at_middle(study, measure).iterrows():
            cells = row[["value", "low", "high"]].to_numpy(float)
            rows.setdefault(LABELS[str(name)], {})[head] = _cell(*cells)
    names = [label for label in LABELS.values() if label in rows]
    frame = pd.DataFrame([{"architecture": name} | rows[name] for name in names]).fillna("")
    return table(frame, f"Architectures at an L0 of {middle(study)} in training")


def _cell(value: float, low: float, high: float) -> str:
    return f"{value:.1f}" if value >= 10 else between(value, low, high)


def between(value: float, low: float, high: float) -> str:
    """'0.43 (0.38 to 0.48)', or '0.43' of a single seed."""
    return plain(value) if np.isnan(low) else with_interval(value, low, high)


def reconstruction_sentence(study: StudyTables) -> str:
    """Which architecture leaves the least and the most variance unexplained, and how much each has active."""
    fvu, l0 = at_middle(study, "fvu").drop("book", errors="ignore"), at_middle(study, "l0")
    if len(fvu) < 2:
        return note(study)
    best, worst = fvu["value"].idxmin(), fvu["value"].idxmax()

    def said(name: Any) -> str:
        row = fvu.loc[name]
        return f"{LABELS[name]} ({between(row['value'], row['low'], row['high'])}, L0 {l0.loc[name, 'value']:.0f})"

    text = f"The least variance is left unexplained by {said(best)}, the most by {said(worst)}"
    if "topk" not in (best, worst) and "topk" in fvu.index:
        text += f"; TopK, which the book uses, leaves {said('topk').removeprefix('TopK ').strip('()')}"
    own = at_middle(study, "fvu")
    if "book" in own.index:
        text += f". The book's own, TopK on many more tokens, leaves {plain(own.loc['book', 'value'])}"
    return f"{text}."


def gaps_sentence(study: StudyTables) -> str:
    """Whether the choice of architecture matters to the offset that reads."""
    found = at_middle(study, "gap_r")
    others = found.drop("book", errors="ignore")
    if len(others) < 2 or "topk" not in others.index:
        return "What offsets read with each architecture has not been measured yet: " + note(study)
    low, high = others["value"].min(), others["value"].max()
    least, most = (LABELS[str(others["value"].agg(f))] for f in ("idxmin", "idxmax"))
    text = f"The gap correlation of offsets that read goes from {plain(low)} ({least}) to {plain(high)} ({most})"
    base = others.loc["topk"]
    apart = others[(others["low"] > base["high"]) | (others["high"] < base["low"])]
    if len(apart):
        text += f"; the intervals of {', '.join(LABELS[str(name)] for name in apart.index)} do not meet that of TopK"
    else:
        text += f"; every interval meets that of TopK, {with_interval(base['value'], base['low'], base['high'])}"
    if "book" in found.index:
        row = found.loc["book"]
        text += f". With the book's own SAE it is {with_interval(row['value'], row['low'], row['high'])}"
    return f"{text}."


def probing_sentence(study: StudyTables) -> str:
    """How well 16 latents tell a topic, a decade and a party, and how much of first letters is absorbed."""
    parts = []
    for name, what in (("topic", "a question's topic"), ("decade", "a speech's decade"), ("party", "its party")):
        found = at_middle(study, f"{name}_16").drop("book", errors="ignore")
        if len(found):
            best = LABELS[str(found["value"].idxmax())]
            parts.append(
                f"{what} with an AUC of {plain(found['value'].min())} to {plain(found['value'].max())} ({best})"
            )
    absorbed = at_middle(study, "absorbed").drop("book", errors="ignore")
    if not parts or not len(absorbed):
        return note(study)
    least, most = (str(absorbed["value"].agg(which)) for which in ("idxmin", "idxmax"))
    return (
        f"Sixteen latents tell {'; '.join(parts)}. Of words whose first letter the stream tells, between "
        f"{100 * absorbed.loc[least, 'value']:.0f}% ({LABELS[least]}) and {100 * absorbed.loc[most, 'value']:.0f}% "
        f"({LABELS[most]}) have it absorbed."
    )


def size_sentence(study: StudyTables) -> str:
    """How variance unexplained and cost go with the width, and what becomes of the narrowest latents."""
    rows, fits = study["size"], study["exponents"].set_index("measure")
    if len(rows) < 2:
        return note(study)
    narrow, widest = rows.iloc[0], rows.iloc[-1]

    def power(measure: str) -> str:
        b, error = fits.loc[measure, ["exponent", "error"]]
        return f"width to the power {b:+.2f}" + (f" ± {error:.2f}" if error == error else "")

    text = (
        f"From {narrow['width']:,.0f} to {widest['width']:,.0f} latents, variance unexplained goes from "
        f"{plain(narrow['fvu'])} to {plain(widest['fvu'])} (as {power('fvu')}), and dead latents from "
        f"{100 * narrow['dead']:.0f}% to {100 * widest['dead']:.0f}%; processor time grows as {power('processor')}."
    )
    if "split" in rows and pd.notna(widest.get("split")):
        text += (
            f" {100 * widest['kept']:.0f}% of the {narrow['width']:,.0f} narrowest latents are found again in the "
            f"widest, each as {widest['split']:.1f} on average."
        )
    if "gap_r" in rows and rows["gap_r"].notna().sum() > 1:
        there = rows[rows["gap_r"].notna()]
        text += f" The gap correlation is {plain(there['gap_r'].iloc[0])} at {there['width'].iloc[0]:,.0f} latents and "
        text += f"{plain(there['gap_r'].iloc[-1])} at {there['width'].iloc[-1]:,.0f}."
    return text


def size_table(study: StudyTables) -> Shown:
    """A row per width."""
    heads = {"width": "width", "fvu": "variance unexplained", "fvu_at_answers": "the same at the answers"}
    heads |= {"dead": "dead latents (share)", "kept": "narrow latents found", "split": "wide latents for each"}
    heads |= {"gap_r": "gap correlation", "processor": "processor time (s)"}
    rows = study["size"]
    frame = pd.DataFrame({head: _column(rows, name) for name, head in heads.items() if name in rows})
    return table(frame, "Widths of a TopK SAE at the same sparsity and tokens")


def _column(rows: pd.DataFrame, name: str) -> list[str]:
    if name == "width":
        return [f"{width:,.0f}" for width in rows[name]]
    if name == "gap_r":
        cells = rows[["gap_r", "gap_r_low", "gap_r_high"]].to_numpy(float)
        return [with_interval(*row) if row[0] == row[0] else "" for row in cells]
    digits = "{:.1f}" if name in ("split", "processor") else "{:.2f}"
    return [digits.format(value) if value == value else "" for value in rows[name]]
