"""Group differences: which methods predict them, two groups question by question, and where groups stand on axes."""

from __future__ import annotations

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opinion_sae.book.figures.style import ROW, WIDTH, group_labels, label_lines, log_scale, look, name_rows
from opinion_sae.book.gap_report import overall
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
    part = overall(gaps[gaps["split"] == "question"], task)
    methods = sorted(part.index, key=rank)
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, ROW * len(methods) + 0.8), sharey=True)
    parts = parts[parts["task"] == task]
    for axes, (measure, name) in zip(panels, PANELS[task].items(), strict=True):
        for place, method in enumerate(methods):
            row, each = part.loc[method], parts.loc[parts["method"] == method, measure]
            axes.plot(each, [place] * len(each), ".", color="#BBBBBB", markersize=4, zorder=1)
            error = np.array([[row[measure] - row[f"{measure}_low"]], [row[f"{measure}_high"] - row[measure]]])
            axes.errorbar(row[measure], place, xerr=np.nan_to_num(error).clip(0), capsize=2, zorder=2, **look(method))
        if measure != "kl":
            axes.axvline(0, color="black", linewidth=0.8)
        axes.set_xlabel(textwrap.fill(name, 22))
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    # a part far out would squeeze all the rest
    panels[1].set_xlim(*_limits(part, list(PANELS[task])[1]))
    name_rows(panels[0], [label(method) for method in methods])
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
    figure, axes = plt.subplots(figsize=(WIDTH, WIDTH))
    axes.axhline(0, color="black", linewidth=0.8)
    axes.axvline(0, color="black", linewidth=0.8)
    bound = 1.1 * max(0.01, np.nanmax(np.abs(np.concatenate([actual, predicted])), initial=0.0))
    axes.plot([-bound, bound], [-bound, bound], color="#777777", linestyle=":", linewidth=1)
    axes.plot(actual, predicted, "o", color="#0072B2", markersize=4, alpha=0.6)
    axes.set_xlim(-bound, bound)
    axes.set_ylim(-bound, bound)
    axes.set_aspect("equal")
    axes.set_xlabel(f"actual gap (places, 0 to 1)\n{pair[0]} minus {pair[1]}")
    axes.set_ylabel("predicted from toplines, held out")
    shown = "too few questions for r" if np.isnan(r) else f"r = {r:.2f}"
    axes.set_title(f"{shown}, {int((~np.isnan(actual)).sum())} questions", loc="left")
    axes.annotate("equal", (bound, bound), (-6, -2), textcoords="offset points", ha="right", va="top")
    return figure


def codes_figure(survey: Survey, table: pd.DataFrame) -> Figure:
    """Where each group stands on the first two axes: mean over folds, and from the least to the largest of any fold."""
    shown = [axis for axis in (1, 2) if (table["axis"] == axis).any()]
    size = (WIDTH, ROW * len(survey.groups) + 0.8)
    figure, panels = plt.subplots(1, len(shown), figsize=size, sharey=True, squeeze=False)
    for axes, axis in zip(panels[0], shown, strict=True):
        _codes(axes, table[table["axis"] == axis].set_index("group").loc[list(survey.groups)])
        axes.set_xlabel(f"c on axis {axis}")
    name_rows(panels[0, 0], group_labels(survey))
    return figure


def _codes(axes: Axes, part: pd.DataFrame) -> None:
    axes.axvline(0, color="black", linewidth=0.8)
    error = np.maximum([part["c"] - part["low"], part["high"] - part["c"]], 0)
    axes.errorbar(part["c"], range(len(part)), xerr=error, fmt="o", color="#0072B2", capsize=2, markersize=4)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def learning_curve(table: pd.DataFrame) -> Figure:
    """Two measures from toplines over all groups against the questions that a fit saw, a labelled line per method."""
    part = table[(table["task"] == "toplines") & (table["group"] == "all")]
    figure, panels = plt.subplots(2, 1, figsize=(WIDTH, 6), sharex=True)
    seen = sorted(part["n_seen"].unique())
    for axes, (measure, name) in zip(panels, PANELS["toplines"].items(), strict=True):
        for shift, method in enumerate(part["method"].unique()):
            rows = part[part["method"] == method].sort_values("n_seen")
            error = np.maximum([rows[measure] - rows[f"{measure}_low"], rows[f"{measure}_high"] - rows[measure]], 0)
            drawn = {"yerr": np.nan_to_num(error), "capsize": 2, "label": label(method)}
            axes.errorbar(rows["n_seen"] * 1.04**shift, rows[measure], **drawn, **look(method, joined=True))
        axes.axhline(0, color="black", linewidth=0.8)
        log_scale(axes.xaxis, base=2)
        axes.set_xticks(seen, [f"{count:.0f}" for count in seen])
        axes.minorticks_off()
        axes.set_ylabel(name)
        label_lines(axes)
    panels[1].set_xlabel("questions to fit and choose by")
    return figure


def front_figure(rows: pd.DataFrame) -> Figure:
    """Gap correlation of a few methods, a row each, with 95 % intervals: narrow enough for a phone."""
    figure, axes = plt.subplots(figsize=(WIDTH, 0.33 * len(rows) + 0.6))
    for place, (method, row) in enumerate(rows.iterrows()):
        error = [[row["gap_r"] - row["gap_r_low"]], [row["gap_r_high"] - row["gap_r"]]]
        axes.errorbar(row["gap_r"], place, xerr=np.nan_to_num(error).clip(0), capsize=3, **look(str(method), size=6.0))
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [label(str(method)) for method in rows.index])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(labelsize=10)
    axes.set_xlabel("correlation of predicted with actual gaps", fontsize=10, loc="right")
    return figure
