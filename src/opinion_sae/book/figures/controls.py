"""Differences with intervals, one row each: against references and controls, and claim by claim."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from opinion_sae.book.figures.style import METHODS

# labels of what is compared here only
OTHERS = {
    "other-delta": "other groups' Δ",
    "sibling-delta": "Δ of the attribute's other groups",
    "random-latents-deviation": "group's part on random latents",
    "sign-flip-deviation": "group's part, sign flipped",
    "delta-by-topic": "Δ from other topics",
    "shared-delta-by-topic": "Δ shared from other topics",
    "delta-by-survey": "Δ from the other survey",
    "left-out-shared": "Δ shared, group left out",
    "left-out-sibling": "Δ of its attribute, group left out",
}
# verdict: colour, marker
VERDICTS = {"supported": ("#0072B2", "o"), "mixed": ("#E69F00", "s"), "not supported": ("#777777", "X")}


def against(table: pd.DataFrame) -> Figure:
    """Paired difference in KL of a method to each reference, with 95 % intervals; a row of `comparison_table` each."""
    figure, axes = _rows(len(table))
    for place, row in zip(range(len(table)), table.to_dict("records"), strict=True):
        error = [[row["kl_difference"] - row["low"]], [row["high"] - row["kl_difference"]]]
        marker = "o" if row["method"] == "delta" else "s"
        axes.errorbar(row["kl_difference"], place, xerr=error, fmt=marker, color="#0072B2", capsize=2, markersize=4)
    axes.set_yticks(np.arange(len(table)), _differences(table))
    axes.set_xlabel(
        f"difference in mean KL (nats)\n{table['n_questions'].max()} held-out questions, below zero is closer"
    )
    return figure


def claims(table: pd.DataFrame) -> Figure:
    """Effect of each claim over all groups, with its 95 % interval, its margin and its verdict."""
    part = table[table["group"] == "all"].reset_index(drop=True)
    figure, axes = _rows(len(part))
    for verdict, (colour, marker) in VERDICTS.items():
        rows = np.flatnonzero(part["verdict"] == verdict)
        one = part.iloc[rows]
        error = [one["effect"] - one["low"], one["high"] - one["effect"]]
        axes.errorbar(one["effect"], rows, xerr=error, fmt=marker, color=colour, capsize=2, markersize=4, label=verdict)
    at_margin = np.flatnonzero(part["margin"] > 0)
    axes.plot(part["margin"].iloc[at_margin], at_margin, "|", color="black", markersize=10, label="margin")
    axes.set_yticks(np.arange(len(part)), _differences(part))
    axes.set_xlabel("difference in mean held-out KL (nats)\nbelow zero is closer")
    axes.legend(fontsize=7)
    return figure


def _differences(table: pd.DataFrame) -> list[str]:
    return [
        f"{_label(one)} minus {_label(other)}" for one, other in zip(table["method"], table["reference"], strict=True)
    ]


def _rows(count: int) -> tuple[Figure, plt.Axes]:
    figure, axes = plt.subplots(figsize=(7, 0.27 * count + 1))
    axes.axvline(0, color="black", linewidth=1)
    axes.invert_yaxis()
    return figure, axes


def _label(method: str) -> str:
    return METHODS[method][0] if method in METHODS else OTHERS.get(method, method)
