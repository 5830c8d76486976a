"""Figures of the studies of architectures and of size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from opinion_sae.book.figures.style import ROW, WIDTH, label_lines, legend_above, log_scale, name_rows, nothing
from opinion_sae.book.study_report import LABELS, Point, at_middle, points
from opinion_sae.book.study_tables import StudyTables
from opinion_sae.score.metrics import ENDS

NOT_RUN = "this study has not been run"
COLOURS = {
    "topk": "#0072B2",
    "batchtopk": "#E69F00",
    "matryoshka": "#009E73",
    "hierarchical": "#56B4E9",
    "atm": "#CC79A7",
    "threshold": "#8C6D31",
    "jumprelu": "#D55E00",
    "gated": "#000000",
    "standard": "#777777",
    "book": "#0072B2",
}
MARKS = dict(zip(COLOURS, "os^DvPXp<*", strict=True))
LINES = ("-", "--", "-.", ":")


def frontier(study: StudyTables) -> Figure:
    """Variance unexplained on held-out text, as a multiple of TopK's at the same L0, against the L0 there; a line per
    architecture, means over seeds with 95 % intervals of theirs."""
    fvu, l0 = points(study, "fvu"), points(study, "l0")
    base = sorted((l0[key].value, fvu[key].value) for key in fvu if key[0] == "topk")
    if not base:
        return nothing(NOT_RUN)
    figure, axes = plt.subplots(figsize=(WIDTH, 4.6))
    for number, name in enumerate(one for one in LABELS if one != "book"):
        own = sorted((l0[key].value, *fvu[key]) for key in fvu if key[0] == name)
        if not own:
            continue
        x, value, low, high = np.array(own).T
        topk = np.exp(np.interp(np.log(x), *np.log(base).T))
        error = np.nan_to_num([value - low, high - value]) / topk
        style: dict[str, Any] = {"marker": MARKS[name], "markersize": 5, "lw": 1.2, "capsize": 2}
        style |= {"linestyle": LINES[number % 4], "color": COLOURS[name], "label": LABELS[name]}
        axes.errorbar(x, value / topk, error, **style)
    log_scale(axes.xaxis, 2)
    axes.set_xlabel("L0 (active latents per token)")
    axes.set_ylabel("variance unexplained, TopK = 1")
    legend_above(axes)
    return figure


def gaps_by_architecture(study: StudyTables) -> Figure:
    """Gap correlation and group KL closed of offsets that read, a row per architecture."""
    heads = {"gap_r": "gap correlation from toplines", "group_kl_closed": "group KL closed"}
    found = {head: at_middle(study, measure) for measure, head in heads.items()}
    count = len(found[heads["gap_r"]])
    if not count:
        return nothing(NOT_RUN)
    figure, panels = plt.subplots(2, 1, figsize=(WIDTH, 2 * (ROW * count + 0.7)))
    for axes, (head, rows) in zip(panels, found.items(), strict=True):
        for place, (name, point) in enumerate(rows.items()):
            axes.plot([point.low, point.high], [place, place], color=COLOURS[name], lw=1.5)
            shape = {"marker": "*", "markersize": 8} if name == "book" else {"marker": "o", "markersize": 5}
            axes.plot(point.value, place, color=COLOURS[name], **shape)
        name_rows(axes, [LABELS[name] for name in rows])
        axes.set_xlabel(head)
    return figure


def told_by_latents(study: StudyTables) -> Figure:
    """AUC of probes of 16 latents, and below it the share of words whose first letter is absorbed."""
    kinds = {"topic": ("o", "#0072B2"), "decade": ("s", "#E69F00"), "party": ("^", "#009E73")}
    found = {kind: at_middle(study, f"{kind}_16") for kind in kinds}
    absorbed = at_middle(study, "absorbed")
    names = list(absorbed)
    if not names:
        return nothing(NOT_RUN)
    figure, panels = plt.subplots(2, 1, figsize=(WIDTH, 2 * (ROW * len(names) + 0.9)))
    style: dict[str, Any] = {"fmt": "o", "markersize": 5, "lw": 1.2, "capsize": 2}
    for move, (kind, (marker, colour)) in zip((-0.2, 0.0, 0.2), kinds.items(), strict=True):
        rows = [(place, found[kind][name]) for place, name in enumerate(names) if name in found[kind]]
        at = [place + move for place, _ in rows]
        value, error = _with_error([point for _, point in rows])
        panels[0].errorbar(value, at, xerr=error, label=kind, color=colour, **style | {"fmt": marker})
    panels[0].axvline(0.5, color="#000000", lw=0.8, ls=":", label="chance")
    value, error = _with_error([*absorbed.values()])
    panels[1].errorbar(100 * value, range(len(names)), xerr=100 * error, color="#D55E00", **style)
    for axes, head in zip(panels, ("AUC of 16 latents", "first letters absorbed (%)"), strict=True):
        name_rows(axes, [LABELS[name] for name in names])
        axes.set_xlabel(head)
    legend_above(panels[0], 4)
    return figure


def _with_error(found: Sequence[Point]) -> tuple[Float[np.ndarray, "point"], Float[np.ndarray, "2 point"]]:
    """Values, and how far their intervals go to either side; 0 where there is none."""
    value, low, high = np.array(found, dtype=float).reshape(-1, 3).T
    return value, np.nan_to_num(np.stack([value - low, high - value]))


def scaling(study: StudyTables) -> Figure:
    """Variance unexplained, dead latents, gap correlation and processor time against the width: means over seeds with
    95 % intervals, and the power fitted to what one describes."""
    rows = study["size"]
    fits: dict[Any, Any] = study["exponents"].set_index("measure").to_dict("index")
    if not len(rows):
        return nothing(NOT_RUN)
    shown = {"fvu": "variance unexplained", "dead": "dead latents (%)", "gap_r": "gap correlation"}
    shown = {name: head for name, head in (shown | {"processor": "processor time (s)"}).items() if name in rows}
    figure, panels = plt.subplots(len(shown), 1, figsize=(WIDTH, 1.6 * len(shown) + 0.4), sharex=True, squeeze=False)
    width = rows["width"].to_numpy(float)
    for axes, (name, head) in zip(panels[:, 0], shown.items(), strict=True):
        found = rows[[f"{name}{end}" for end in ENDS]].itertuples(index=False)
        value, error = _with_error([Point(*row) for row in found])
        value, error = (part * (100 if name == "dead" else 1) for part in (value, error))
        fitted = name == "processor" and np.isfinite(fits[name]["exponent"])
        axes.errorbar(width, value, error, fmt="o" if fitted else "o-", color="#0072B2", ms=5, lw=1.2, capsize=2)
        if fitted:
            b, a = fits[name]["exponent"], fits[name]["constant"]
            axes.plot(width, np.exp(a) * width**b, "--", color="#E69F00", label=f"width^{b:.2f}")
            label_lines(axes)
        if name in ("fvu", "processor"):
            log_scale(axes.yaxis)
        axes.set_ylabel(head)
    log_scale(panels[-1, 0].xaxis, 2)
    panels[-1, 0].set_xlabel("width (latents)")
    return figure
