"""Gain against cost, a mark per method of the bench."""

from __future__ import annotations

import textwrap

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opinion_sae.book.figures.style import WIDTH, apart, log_scale, nothing
from opinion_sae.book.leaders import NONE, labels
from opinion_sae.score.names import label

LOOKS = {  # of a kind: colour, marker
    "reference": ("#000000", "X"),
    "prompt": ("#777777", "s"),
    "vector": ("#CC79A7", "^"),
    "latents": ("#0072B2", "o"),
    "reading": ("#D55E00", "D"),
    "read only": ("#009E73", "*"),
    "weights": ("#E69F00", "P"),
}


def gain_and_cost(found: pd.DataFrame) -> Figure:
    """Gap correlation from toplines with its interval, over the seconds that a fit and all answers take.

    Methods that answered few questions are hollow. The best of each kind, and whatever nothing faster beats, have
    their names beside the panel.
    """
    timed = found[found["total_seconds"].notna() & found["gap_r"].notna()]
    if not len(timed):
        return nothing(NONE)
    figure, axes = plt.subplots(figsize=(WIDTH, 5.2))
    for kind, (colour, marker) in LOOKS.items():
        of = timed[timed["kind"] == kind]
        for row in of.to_dict("records"):
            seconds, r = max(row["total_seconds"], 0.01), row["gap_r"]
            error = [[r - row["gap_r_low"]], [row["gap_r_high"] - r]]
            face = colour if pd.notna(row["rank"]) else "white"
            drawn = {"color": colour, "marker": marker, "markerfacecolor": face, "markersize": 6, "elinewidth": 0.6}
            axes.errorbar(seconds, r, yerr=error, linestyle="none", **drawn)
        if len(of):
            axes.plot([], [], color=colour, marker=marker, linestyle="none", label=kind)
    log_scale(axes.xaxis)
    axes.set_xlabel("seconds to fit and to answer everything")
    axes.set_ylabel("gap correlation from toplines")
    axes.autoscale_view()
    _name(figure, axes, timed[timed["method"].isin(labels(found))].sort_values("gap_r"))
    figure.legend(loc="outside upper left", ncols=3)
    return figure


def _name(figure: Figure, axes: Axes, named: pd.DataFrame) -> None:
    """Names to the right of the panel, each with a line to its mark."""
    low, high = axes.get_ylim()
    texts = [textwrap.fill(label(method), 16) for method in named["method"]]
    line = 11 / 72 / (0.72 * figure.get_figheight())
    places = apart([(r - low) / (high - low) for r in named["gap_r"]], [line * (t.count("\n") + 1.2) for t in texts])
    for row, text, place in zip(named.to_dict("records"), texts, places, strict=True):
        arrow = {"arrowstyle": "-", "color": LOOKS[row["kind"]][0], "linewidth": 0.5}
        at = (max(row["total_seconds"], 0.01), row["gap_r"])
        given = {"xycoords": "data", "textcoords": "axes fraction", "va": "center", "arrowprops": arrow}
        axes.annotate(text, at, (1.04, place), annotation_clip=False, **given)
