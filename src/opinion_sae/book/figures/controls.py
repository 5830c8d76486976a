"""Differences with intervals, one row each: against references and controls, and claim by claim."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opinion_sae.book.figures.style import ROW, WIDTH, look, name_rows
from opinion_sae.score.names import label

# verdict: colour, marker, how much of it is filled
VERDICTS = {
    "supported": ("#0072B2", "o", "full"),
    "mixed": ("#E69F00", "s", "left"),
    "not supported": ("#777777", "o", "none"),
    "contradicted": ("#D55E00", "X", "full"),
}


def against(table: pd.DataFrame) -> Figure:
    """Paired difference in KL of a method to each reference, with 95 % intervals; a row of `comparison_table` each."""
    figure, axes = _rows(table)
    for place, row in zip(range(len(table)), table.to_dict("records"), strict=True):
        error = [[row["kl_difference"] - row["low"]], [row["high"] - row["kl_difference"]]]
        axes.errorbar(row["kl_difference"], place, xerr=error, capsize=2, **look(row["method"], size=4.0))
    axes.set_xlabel(
        f"difference in mean KL (nats)\n{table['n_questions'].max()} held-out questions, below zero is closer"
    )
    return figure


def claims(table: pd.DataFrame) -> Figure:
    """Effect of each claim over all groups with its 95 % interval and margin; colour, shape and filling by verdict."""
    part = table[table["group"] == "all"].reset_index(drop=True)
    figure, axes = _rows(part)
    for verdict, (colour, marker, fill) in VERDICTS.items():
        rows = np.flatnonzero(part["verdict"] == verdict)
        one = part.iloc[rows]
        error = [one["effect"] - one["low"], one["high"] - one["effect"]]
        look = {"fmt": marker, "color": colour, "fillstyle": fill, "capsize": 2, "markersize": 5, "label": verdict}
        axes.errorbar(one["effect"], rows, xerr=error, **look)
    at_margin = np.flatnonzero(part["margin"] > 0)
    axes.plot(part["margin"].iloc[at_margin], at_margin, "|", color="black", markersize=10, label="margin")
    axes.set_xlabel("difference in mean held-out KL (nats)\nbelow zero is closer")
    figure.legend(loc="outside upper left", ncols=2)
    return figure


def _rows(table: pd.DataFrame) -> tuple[Figure, Axes]:
    """A panel with a named row per difference."""
    figure, axes = plt.subplots(figsize=(WIDTH, ROW * len(table) + 1.2))
    axes.axvline(0, color="black", linewidth=1)
    pairs = zip(table["method"], table["reference"], strict=True)
    name_rows(axes, [f"{label(one)} minus {label(other)}" for one, other in pairs])
    return figure, axes
