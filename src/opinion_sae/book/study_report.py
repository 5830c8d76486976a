"""What the studies of architectures and of size found, as chapter 23 shows it: sentences and tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from opinion_sae.book.gap_report import plain, with_interval
from opinion_sae.book.study_tables import StudyTables, note
from opinion_sae.book.typeset import Shown, table
from opinion_sae.score.metrics import ENDS
from opinion_sae.studies.size import SAME

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
    "fvu_at_l0": "variance unexplained",
    "fvu_at_answers": "the same at the answers",
    "l0_at_answers": "L0 at the answers",
    "dead": "dead latents (share)",
    "recovered": "loss recovered",
    "stability": "stability over seeds",
    "absorbed": "absorbed",
    "gap_r": "gap correlation",
    "group_kl_closed": "group KL closed",
    "ratio": "time, TopK = 1",
}
RANGES = {"l0_at_answers": (0.0, None), "dead": (0.0, 1.0), "recovered": (None, 1.0), "absorbed": (0.0, 1.0)}


class Point(NamedTuple):
    """A value, with a 95 % interval or NaN."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """'0.43 (0.38 to 0.48)', or '0.43' of a single seed."""
        return plain(self.value) if np.isnan(self.low) else with_interval(*self)


def points(study: StudyTables, measure: str) -> dict[tuple[str, int], Point]:
    """One measure of the architectures, by architecture and sparsity; a t interval ends where the measure does."""
    rows = study["architectures"]
    rows = rows[rows["measure"] == measure]
    keys = zip(rows["architecture"], rows["target_l0"], strict=True)
    values = rows[["value", "low", "high"]].to_numpy(float).clip(*RANGES.get(measure, (None, None))).tolist()
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
    """Which architecture leaves the least and the most variance unexplained at the same L0."""
    fvu, l0 = at_middle(study, "fvu_at_l0", book=False), middle(study)
    if len(fvu) < 2:
        return note(study)
    best, worst = extremes(fvu)
    text = f"At the same L0 of {l0} on held-out text the least variance is left unexplained by {LABELS[best]} "
    text += f"({fvu[best]}), the most by {LABELS[worst]} ({fvu[worst]})"
    if "topk" in fvu and "topk" not in (best, worst):
        text += f"; TopK, which the book uses, leaves {fvu['topk']}"
    own = at_middle(study, "fvu").get("book")
    return text + (f". The book's own, TopK on many more tokens, leaves {own}." if own else ".")


def kept_sentence(study: StudyTables) -> str:
    """What holds at the answers, where offsets write, and what else tells architectures apart."""
    fvu, l0 = at_middle(study, "fvu_at_answers", book=False), at_middle(study, "l0_at_answers", book=False)
    if len(fvu) < 2 or len(l0) < 2:
        return note(study)
    few = [
        f"{LABELS[name]} {point.value:.0f}" for name, point in l0.items() if point.value < 0.75 * (middle(study) or 0)
    ]
    text = "At the last tokens of the prompts, where offsets write, "
    text += _range(fvu, "{:.2f}", "of the variance is left unexplained")
    text += f", with fewer latents active there than on text by {', '.join(few)}." if few else "."
    more = (
        ("recovered", "of the model's loss is recovered with the reconstruction spliced in", "{:.1%}"),
        ("dead", "of the latents are dead", "{:.1%}"),
        ("stability", "is the mean cosine with another seed's nearest row", "{:.2f}"),
        ("ratio", "times TopK's processor time is taken by training", "{:.1f}"),
    )
    said = [_range(found, form, what) for key, what, form in more if (found := at_middle(study, key, book=False))]
    return f"{text} From seed to seed and token to token: {'; '.join(said)}." if said else text


def _range(found: Mapping[str, Point], form: str, what: str) -> str:
    least, most = extremes(found)
    ends = (f"{form.format(found[name].value)} ({LABELS[name]})" for name in (least, most))
    return "{} to {} {}".format(*ends, what)


def gaps_sentence(study: StudyTables) -> str:
    """Whether the choice of architecture matters to the offset that reads."""
    found, gain = (at_middle(study, measure, book=False) for measure in ("gap_r", "gap_r_gain"))
    gain = {name: point for name, point in gain.items() if name != "topk"}
    if len(found) < 2 or not gain:
        return "What offsets read with each architecture has not been measured yet: " + note(study)
    least, most = extremes(found)
    text = f"The gap correlation of offsets that read goes from {plain(found[least].value)} ({LABELS[least]}) to "
    text += f"{plain(found[most].value)} ({LABELS[most]}). "
    apart = {
        "higher": [name for name, one in gain.items() if one.low > 0],
        "lower": [name for name, one in gain.items() if one.high < 0],
    }
    said = [
        f"{way} with {', '.join(f'{LABELS[name]} ({_signed(gain[name])})' for name in names)}"
        for way, names in apart.items()
        if names
    ]
    most = max(gain, key=lambda name: gain[name].value)
    text += (
        f"Question by question and seed by seed against TopK's it is {' and '.join(said)}."
        if said
        else (
            f"Question by question and seed by seed none differs from TopK's by an interval that leaves 0 out; the "
            f"largest gain is that of {LABELS[most]}, {_signed(gain[most])}."
        )
    )
    others = {key: point for key, point in points(study, "gap_r").items() if key[1] != middle(study)}
    for l0 in sorted({key[1] for key in others}):
        values = [point.value for key, point in others.items() if key[1] == l0]
        text += (
            f" At an L0 of {l0} in training (one seed) it lies between {plain(min(values))} and {plain(max(values))}."
        )
    own = at_middle(study, "gap_r").get("book")
    return text + (f" With the book's own SAE it is {own}." if own else "")


def _signed(point: Point) -> str:
    return f"{point.value:+.3f}, {point.low:+.3f} to {point.high:+.3f}"


def probing_sentence(study: StudyTables) -> str:
    """How well 16 latents tell a topic, a decade and a party, and how much of first letters is absorbed."""
    parts, absorbed = [], at_middle(study, "absorbed", book=False)
    for name, what in (("topic", "a question's topic"), ("decade", "a speech's decade"), ("party", "its party")):
        found = at_middle(study, f"{name}_16", book=False)
        if not found:
            continue
        least, most = extremes(found)
        sure = [one for one in found.values() if one.low > 0.5]
        parts.append(f"{what} with an AUC of {plain(found[least].value)} to {plain(found[most].value)}")
        parts[-1] += f" ({LABELS[most]})" if found[most].low > found[least].high else ""
        parts[-1] += f", above chance by its interval for {len(sure) or 'none'} of {len(found)}"
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
        b, low, high = (fits[measure][f"exponent{end}"] for end in ENDS)
        return f"width to the power {b:+.2f}" + ("" if np.isnan(low) else f" ({low:+.2f} to {high:+.2f})")

    text = (
        f"From {narrow['width']:,.0f} to {widest['width']:,.0f} latents, variance unexplained goes from "
        f"{plain(narrow['fvu'])} to {plain(widest['fvu'])}; it is least at {best['width']:,.0f}, {plain(best['fvu'])}"
    )
    turns = best not in (narrow, widest)
    text += (
        ", and grows beyond, where so few tokens do not train so many latents: no power of the width describes it"
        if turns
        else f" (fitted: {power('fvu')})"
    )
    text += (
        f". Dead latents go from {100 * narrow['dead']:.0f}% to {100 * widest['dead']:.0f}%, and processor time grows "
        f"as {power('processor')}."
    )
    if not np.isnan(widest.get("kept", np.nan)):
        each = "" if np.isnan(widest["split"]) else f", each in {widest['split']:.1f} on average"
        text += (
            f" {100 * widest['kept']:.0f}% of the narrowest SAE's latents fire with some of the widest's (correlation "
            f"of {SAME} or more){each}."
        )
    there = [row for row in rows if not np.isnan(row.get("gap_r", np.nan))]
    if len(there) > 1:
        ends = [f"{plain(row['gap_r'])} at {row['width']:,.0f}" for row in (there[0], there[-1])]
        text += f" The gap correlation is {ends[0]} latents and {ends[1]}."
    return text


def widths_sentence(study: StudyTables) -> str:
    """The width with the highest gap correlation, and how many widths' intervals hold it."""
    rows = study["size"]
    there = rows[rows["gap_r"].notna()].reset_index(drop=True) if "gap_r" in rows else rows.iloc[:0]
    if not len(there):
        return note(study)
    best = there.sort_values("gap_r", kind="stable").iloc[-1]
    inside = int(((there["gap_r_low"] <= best["gap_r"]) & (there["gap_r_high"] >= best["gap_r"])).sum())
    return (
        f"The highest gap correlation is {plain(best['gap_r'])} at {best['width']:,.0f} latents; it lies within the "
        f"intervals of {inside} of {len(there)} widths."
    )


def size_table(study: StudyTables) -> Shown:
    """A row per width, means over seeds with 95 % intervals."""
    heads = {"width": "width", "n_seeds": "seeds", "fvu": "variance unexplained"}
    heads |= {"fvu_at_answers": "the same at the answers", "dead": "dead latents (share)"}
    heads |= {"kept": "narrow latents found", "split": "wide latents for each"}
    heads |= {"gap_r": "gap correlation", "processor": "processor time (s)"}
    rows = study["size"]
    frame = pd.DataFrame({head: _column(rows, name) for name, head in heads.items() if name in rows})
    return table(frame, "Widths of a TopK SAE at the same sparsity and tokens")


def _column(rows: pd.DataFrame, name: str) -> list[str]:
    if name in ("width", "n_seeds"):
        return [f"{number:,.0f}" for number in rows[name]]
    digits = 1 if name in ("split", "processor") else 2
    return [_cell(row, name, digits) for row in rows.to_dict("records")]


def _cell(row: Mapping[Any, Any], name: str, digits: int) -> str:
    """'0.43 (0.38 to 0.48)', '0.43' of a single seed, or nothing."""
    if np.isnan(row[name]):
        return ""
    value, *ends = (f"{row.get(f'{name}{end}', np.nan):.{digits}f}" for end in ENDS)
    return value if "nan" in ends else f"{value} ({' to '.join(ends)})"
