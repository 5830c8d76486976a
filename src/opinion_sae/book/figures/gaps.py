"""Group differences: which methods predict them, two groups question by question, and where groups stand on axes."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opinion_sae.book.figures.style import MARKS, group_labels, log_scale
from opinion_sae.score.gap_pairs import Pair
from opinion_sae.score.names import label, rank
from opinion_sae.survey import Survey

PANELS = {
    "toplines": {"gap_r": "correlation of gaps", "group_kl_closed": "share of the group KL closed"},
    "alone": {"gap_r": "correlation of gaps", "kl": "mean KL (nats), lower is closer"},
}


def gap_methods(gaps: pd.DataFrame, parts: pd.DataFrame, task: str) -> Figure:
    """Two measures of a task over all groups, a row per method of the question split: mean with its 95 % interval, and
    each of the `parts`, folds or seeds (grey)."""
    part = gaps[(gaps["task"] == task) & (gaps["group"] == "all") & (gaps["split"] == "question")].set_index("method")
    methods = sorted(part.index, key=rank)
    figure, panels = plt.subplots(1, 2, figsize=(6.5, 0.25 * len(methods) + 1.1), sharey=True)
    parts = parts[parts["task"] == task]
    for axes, (measure, name) in zip(panels, PANELS[task].items(), strict=True):
        for place, method in enumerate(methods):
            row, each = part.loc[method], parts.loc[parts["method"] == method, measure]
            axes.plot(each, [place] * len(each), ".", color="#BBBBBB", markersize=4, zorder=1)
            colour, marker, _ = MARKS.get(method, ("#777777", "o", ""))
            error = np.array([[row[measure] - row[f"{measure}_low"]], [row[f"{measure}_high"] - row[measure]]])
            look = {"fmt": marker, "color": colour, "capsize": 2, "markersize": 4, "zorder": 2}
            axes.errorbar(row[measure], place, xerr=np.nan_to_num(error).clip(0), **look)
        if measure != "kl":
            axes.axvline(0, color="black", linewidth=0.8)
        axes.set_xlabel(name)
    # a part far out would squeeze all the rest
    panels[1].set_xlim(*_limits(part, list(PANELS[task])[1]))
    panels[0].set_yticks(range(len(methods)), [label(method) for method in methods], fontsize=8)
    panels[0].set_ylim(len(methods) - 0.4, -0.6)
    return figure


def _limits(part: pd.DataFrame, measure: str) -> tuple[float, float]:
    """Room for every interval, from half the spread below the bulk: a method that is far off leaves the panel."""
    low, high = part[f"{measure}_low"].fillna(part[measure]), part[f"{measure}_high"].fillna(part[measure])
    top, bottom = float(high.max()), float(low.quantile(0.1))
    if np.isnan(top) or np.isnan(bottom):
        return 0.0, 1.0
    margin = 0.1 * max(top - bottom, 1e-3)
    return bottom - margin, top + margin


def reading_gap(
    actual: Float[np.ndarray, "question"], predicted: Float[np.ndarray, "question"], pair: Pair, r: float
) -> Figure:
    """Predicted against actual difference in place between two groups, a dot per held-out question."""
    figure, axes = plt.subplots(figsize=(4.6, 4.4))
    axes.axhline(0, color="black", linewidth=0.8)
    axes.axvline(0, color="black", linewidth=0.8)
    bound = 1.1 * max(0.01, np.nanmax(np.abs(np.concatenate([actual, predicted])), initial=0.0))
    axes.plot([-bound, bound], [-bound, bound], color="#777777", linestyle=":", linewidth=1)
    axes.plot(actual, predicted, "o", color="#0072B2", markersize=4, alpha=0.6)
    axes.set_xlim(-bound, bound)
    axes.set_ylim(-bound, bound)
    axes.set_aspect("equal")
    axes.set_xlabel(f"actual gap, {pair[0]} minus {pair[1]} (places, 0 to 1)")
    axes.set_ylabel("predicted from toplines, held out")
    shown = "too few questions for r" if np.isnan(r) else f"r = {r:.2f}"
    axes.set_title(f"{shown}, {int((~np.isnan(actual)).sum())} questions", loc="left", fontsize=9)
    axes.annotate("equal", (bound, bound), (-6, -2), textcoords="offset points", ha="right", va="top")
    return figure


def codes_figure(survey: Survey, table: pd.DataFrame) -> Figure:
    """Where each group stands on the first two axes: mean over folds, and from the least to the largest of any fold."""
    shown = [axis for axis in (1, 2) if (table["axis"] == axis).any()]
    figure, panels = plt.subplots(
        1, len(shown), figsize=(3 * len(shown) + 2, 0.21 * len(survey.groups) + 0.9), sharey=True, squeeze=False
    )
    for axes, axis in zip(panels[0], shown, strict=True):
        _codes(axes, table[table["axis"] == axis].set_index("group").loc[list(survey.groups)])
        axes.set_xlabel(f"c on axis {axis}")
    panels[0, 0].set_yticks(range(len(survey.groups)), group_labels(survey), fontsize=8)
    panels[0, 0].set_ylim(len(survey.groups) - 0.4, -0.6)
    return figure


def _codes(axes: Axes, part: pd.DataFrame) -> None:
    axes.axvline(0, color="black", linewidth=0.8)
    error = np.maximum([part["c"] - part["low"], part["high"] - part["c"]], 0)
    axes.errorbar(part["c"], range(len(part)), xerr=error, fmt="o", color="#0072B2", capsize=2, markersize=4)


def learning_curve(table: pd.DataFrame) -> Figure:
    """Two measures from toplines over all groups against the questions that a fit saw, a labelled line per method."""
    part = table[(table["task"] == "toplines") & (table["group"] == "all")]
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.2))
    for axes, (measure, name) in zip(panels, PANELS["toplines"].items(), strict=True):
        ends = {}
        for shift, method in enumerate(part["method"].unique()):
            rows, (colour, marker, line) = part[part["method"] == method].sort_values("n_seen"), MARKS[method]
            error = np.maximum([rows[measure] - rows[f"{measure}_low"], rows[f"{measure}_high"] - rows[measure]], 0)
            look = {"color": colour, "marker": marker, "linestyle": line, "capsize": 2, "markersize": 4}
            axes.errorbar(rows["n_seen"] * 1.04**shift, rows[measure], yerr=np.nan_to_num(error), **look)
            ends[method] = float(rows[measure].iloc[-1])
        low, high = axes.get_ylim()
        for place, method in _apart(ends, 0.08 * (high - low)):
            axes.annotate(
                label(method), (1.02, place), xycoords=("axes fraction", "data"), color=MARKS[method][0], va="center"
            )
        axes.axhline(0, color="black", linewidth=0.8)
        log_scale(axes.xaxis, base=2)
        seen = sorted(part["n_seen"].unique())
        axes.set_xticks(seen, [f"{count:.0f}" for count in seen])
        axes.minorticks_off()
        axes.set_xlabel("questions to fit and choose by")
        axes.set_ylabel(name)
    return figure


def _apart(ends: dict[str, float], least: float) -> list[tuple[float, str]]:
    """Places for labels, in order and so far apart at least, each at its line's end or as little above as it takes."""
    placed: list[tuple[float, str]] = []
    for value, method in sorted((value, method) for method, value in ends.items()):
        placed.append((max(value, placed[-1][0] + least) if placed else value, method))
    return placed


def front_figure(rows: pd.DataFrame) -> Figure:
    """Gap correlation of a few methods, a row each, with 95 % intervals: narrow enough for a phone."""
    figure, axes = plt.subplots(figsize=(4.4, 0.33 * len(rows) + 0.6))
    for place, (method, row) in enumerate(rows.iterrows()):
        colour, marker, _ = MARKS[str(method)]
        error = [[row["gap_r"] - row["gap_r_low"]], [row["gap_r_high"] - row["gap_r"]]]
        look = {"fmt": marker, "color": colour, "capsize": 3, "markersize": 6}
        axes.errorbar(row["gap_r"], place, xerr=np.nan_to_num(error).clip(0), **look)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [label(str(method)) for method in rows.index])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(labelsize=10)
    axes.set_xlabel("correlation of predicted with actual gaps", fontsize=10, loc="right")
    return figure
