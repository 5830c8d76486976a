"""What the studies of architectures and of size found, as chapter 23 shows it: sentences and tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from opinion_sae.book.gap_report import measured, plain, with_interval
from opinion_sae.book.study_tables import StudyTables, note
from opinion_sae.book.typeset import Shown, table

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


class Point(NamedTuple):
    """A value, with a 95 % interval or NaN."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """'0.43 (0.38 to 0.48)', or '0.43' of a single seed."""
        return plain(self.value) if np.isnan(self.low) else with_interval(*self)


def points(study: StudyTables, measure: str) -> dict[tuple[str, int], Point]:
    """One measure of the architectures, by architecture and sparsity."""
    rows = study["architectures"]
    rows = rows[rows["measure"] == measure]
    keys = zip(rows["architecture"], rows["target_l0"], strict=True)
    values = rows[["value", "low", "high"]].to_numpy(float).tolist()
    return {(str(name), int(l0)): Point(*value) for (name, l0), value in zip(keys, values, strict=True)}


def middle(study: StudyTables) -> int | None:
    """The sparsity that most is known of: the book's."""
    rows = study["architectures"]
    return int(rows["target_l0"].mode().iloc[0]) if len(rows) else None


def at_middle(study: StudyTables, measure: str, book: bool = True) -> dict[str, Point]:
    """One measure at that sparsity by architecture, in the order of `LABELS`, with the book's own SAE or without."""
    found, l0 = points(study, measure), middle(study)
    names = [name for name in LABELS if book or name != "book"]
    return {name: found[name, l0] for name in names if l0 is not None and (name, l0) in found}


def extremes(found: Mapping[str, Point]) -> tuple[str, str]:
    """The names with the least and the largest value."""
    order = sorted(found, key=lambda name: found[name].value)
    return order[0], order[-1]


def architectures_table(study: StudyTables) -> Shown:
    """A row per architecture at the book's sparsity, with intervals over seeds, for gaps over questions."""
    rows: dict[str, dict[str, str]] = {}
    for measure, head in IN_TABLE.items():
        for name, point in at_middle(study, measure).items():
            rows.setdefault(name, {})[head] = f"{point.value:.1f}" if point.value >= 10 else str(point)
    frame = pd.DataFrame([{"architecture": LABELS[name]} | rows[name] for name in LABELS if name in rows]).fillna("")
    return table(frame, f"Architectures at an L0 of {middle(study)} in training")


def reconstruction_sentence(study: StudyTables) -> str:
    """Which architecture leaves the least and the most variance unexplained, and how much each has active."""
    fvu, l0 = at_middle(study, "fvu", book=False), at_middle(study, "l0")
    if len(fvu) < 2:
        return note(study)
    best, worst = extremes(fvu)
    said = {name: f"{point}, L0 {l0[name].value:.0f}" for name, point in fvu.items()}
    text = f"The least variance is left unexplained by {LABELS[best]} ({said[best]}), the most by {LABELS[worst]} "
    text += f"({said[worst]})"
    if "topk" in fvu and "topk" not in (best, worst):
        text += f"; TopK, which the book uses, leaves {said['topk']}"
    own = at_middle(study, "fvu").get("book")
    return text + (f". The book's own, TopK on many more tokens, leaves {own}." if own else ".")


def gaps_sentence(study: StudyTables) -> str:
    """Whether the choice of architecture matters to the offset that reads."""
    found = at_middle(study, "gap_r", book=False)
    if len(found) < 2 or "topk" not in found:
        return "What offsets read with each architecture has not been measured yet: " + note(study)
    least, most = extremes(found)
    text = f"The gap correlation of offsets that read goes from {plain(found[least].value)} ({LABELS[least]}) to "
    text += f"{plain(found[most].value)} ({LABELS[most]})"
    base = found["topk"]
    apart = [LABELS[name] for name, one in found.items() if one.low > base.high or one.high < base.low]
    if apart:
        text += f"; the intervals of {', '.join(apart)} do not meet that of TopK"
    else:
        text += f"; every interval meets that of TopK, {base}"
    own = at_middle(study, "gap_r").get("book")
    return text + (f". With the book's own SAE it is {own}." if own else ".")


def probing_sentence(study: StudyTables) -> str:
    """How well 16 latents tell a topic, a decade and a party, and how much of first letters is absorbed."""
    parts, absorbed = [], at_middle(study, "absorbed", book=False)
    for name, what in (("topic", "a question's topic"), ("decade", "a speech's decade"), ("party", "its party")):
        found = at_middle(study, f"{name}_16", book=False)
        if found:
            least, most = extremes(found)
            parts.append(f"{what} with an AUC of {plain(found[least].value)} to {plain(found[most].value)}")
            parts[-1] += f" ({LABELS[most]})"
    if not parts or not absorbed:
        return note(study)
    ends = [f"{100 * absorbed[name].value:.0f}% ({LABELS[name]})" for name in extremes(absorbed)]
    return (
        f"Sixteen latents tell (chance is 0.50) {'; '.join(parts)}. Of words whose first letter the stream tells, "
        f"between {ends[0]} and {ends[1]} have it absorbed."
    )


def size_sentence(study: StudyTables) -> str:
    """How variance unexplained and cost go with the width, and what becomes of the narrowest latents."""
    rows: list[dict[Any, Any]] = study["size"].to_dict("records")
    if len(rows) < 2:
        return note(study)
    fits: dict[Any, Any] = study["exponents"].set_index("measure").to_dict("index")
    narrow, widest, best = rows[0], rows[-1], min(rows, key=lambda row: row["fvu"])

    def power(measure: str) -> str:
        b, error = fits[measure]["exponent"], fits[measure]["error"]
        return f"width to the power {b:+.2f}" + ("" if np.isnan(error) else f" ± {error:.2f}")

    text = (
        f"From {narrow['width']:,.0f} to {widest['width']:,.0f} latents, variance unexplained goes from "
        f"{plain(narrow['fvu'])} to {plain(widest['fvu'])} (fitted: {power('fvu')}); it is least at "
        f"{best['width']:,.0f}, {plain(best['fvu'])}. Dead latents go from {100 * narrow['dead']:.0f}% to "
        f"{100 * widest['dead']:.0f}%, and processor time grows as {power('processor')}."
    )
    if not np.isnan(widest.get("split", np.nan)):
        text += (
            f" Of the narrowest SAE's latents {100 * widest['kept']:.0f}% are found again in the widest, each as "
            f"{widest['split']:.1f} on average."
        )
    there = [row for row in rows if not np.isnan(row.get("gap_r", np.nan))]
    if len(there) > 1:
        ends = [f"{plain(row['gap_r'])} at {row['width']:,.0f}" for row in (there[0], there[-1])]
        text += f" The gap correlation is {ends[0]} latents and {ends[1]}."
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
        return [measured(row, name) if row[name] == row[name] else "" for _, row in rows.iterrows()]
    digits = "{:.1f}" if name in ("split", "processor") else "{:.2f}"
    return [digits.format(value) if value == value else "" for value in rows[name]]
