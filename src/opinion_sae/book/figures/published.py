"""Published runs of several models beside each other."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opinion_sae.book.figures.style import MARKS, ROW, SHAPES, WIDTH, label_lines, log_scale, look, name_rows, nothing
from opinion_sae.score.names import label as name_of
from opinion_sae.score.names import rank

MODELS = [("#000000", "o"), ("#E69F00", "s"), ("#0072B2", "^"), ("#009E73", "D")]  # colour, marker


def compare_models(overall: Mapping[str, pd.DataFrame], floor: Mapping[str, float]) -> Figure:
    """Mean KL with 95 % intervals and share of the gap closed, a row per method and a mark per model.

    `overall` holds each model's rows of alignment.csv for all groups together, by method; `floor` its noise floor
    (nats).
    """
    if not overall:
        return nothing("no published run in this checkout")
    methods = sorted({method for table in overall.values() for method in table.index}, key=rank)
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, (ROW + 0.04 * len(overall)) * len(methods) + 1.2), sharey=True)
    height = {method: place for place, method in enumerate(methods)}
    for n, (model, table) in enumerate(overall.items()):
        colour, marker = MODELS[n % len(MODELS)]
        y = np.array([height[method] for method in table.index]) + _shift(n, len(overall))
        error = [table["kl"] - table["kl_low"], table["kl_high"] - table["kl"]]
        label = f"{model} ({table['n_questions'].max()} questions)"
        panels[0].errorbar(table["kl"], y, xerr=error, fmt=marker, color=colour, ms=4, capsize=2, label=label)
        panels[0].axvline(floor[model], color=colour, linestyle=":", linewidth=1)
        panels[1].plot(100 * table["gap_closed"], y, marker, color=colour, ms=4)
    name_rows(panels[0], [name_of(method) for method in methods])
    panels[1].tick_params(axis="y", length=0)
    panels[1].spines["left"].set_visible(False)
    panels[0].set_xlabel("mean KL (nats)")
    for share in (0, 100):
        panels[1].axvline(share, color="black", linewidth=0.8)
    panels[1].set_xlabel("gap closed (%)")
    figure.legend(loc="outside upper left", ncols=1)
    return figure


def gaps_by_size(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Gap correlation from toplines with 95 % intervals against the model's parameters, a labelled line per method and
    a panel per survey; the name of a method that answered some of the questions says how many. The rows of each are
    those of `benches.gaps_by_size`."""
    tables = {survey: table for survey, table in tables.items() if len(table)}
    if not tables:
        return nothing("no published run in this checkout")
    sizes = sorted({size for table in tables.values() for size in table["parameters"]})
    figure, panels = plt.subplots(len(tables), 1, figsize=(WIDTH, 3.4 * len(tables)), sharex=True, squeeze=False)
    for axes, (survey, table) in zip(panels[:, 0], tables.items(), strict=True):
        _lines_by_size(axes, table)
        axes.set_title(f"{survey}, {table['n_questions'].max():.0f} questions", loc="left")
    log_scale(panels[-1, 0].xaxis)
    panels[-1, 0].set_xticks(sizes, [f"{size / 1e6:,.0f}" for size in sizes])
    panels[-1, 0].minorticks_off()
    panels[-1, 0].set_xlabel("parameters of the model (millions)")
    return figure


def _lines_by_size(axes: Axes, table: pd.DataFrame) -> None:
    for shift, (method, rows) in enumerate(table.groupby("method", sort=False)):
        error = np.maximum([rows["gap_r"] - rows["gap_r_low"], rows["gap_r_high"] - rows["gap_r"]], 0)
        few = "" if rows["whole"].all() else f" ({rows['n_questions'].min():.0f} questions)"
        sign = MARKS[str(method)][1]
        letter = "" if sign in SHAPES else f"{sign}: "
        drawn = {"yerr": np.nan_to_num(error), "capsize": 2, "label": f"{letter}{name_of(str(method))}{few}"}
        axes.errorbar(rows["parameters"] * 1.04**shift, rows["gap_r"], **drawn, **look(str(method), joined=True))
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylabel("correlation of gaps")
    label_lines(axes)


def groups_by_model(
    tables: Mapping[str, pd.DataFrame], floors: Mapping[str, pd.DataFrame], methods: Sequence[str]
) -> Figure:
    """Mean KL per group with 95 % intervals, a panel per model and a mark per method; ticks are the noise floor.

    `tables` are the models' alignment.csv, `floors` their floor.csv.
    """
    if not tables:
        return nothing("no published run in this checkout")
    groups = [group for group in next(iter(tables.values()))["group"].unique() if group != "all"]
    size = (WIDTH, (0.2 + 0.07 * len(methods)) * len(groups) + 1.4)
    figure, panels = plt.subplots(1, len(tables), figsize=size, sharex=True, sharey=True, squeeze=False)
    y = np.arange(len(groups))
    for axes, (model, table) in zip(panels[0], tables.items(), strict=True):
        for n, method in enumerate(methods):
            part = table[table["method"] == method].set_index("group").reindex(groups)
            error = [part["kl"] - part["kl_low"], part["kl_high"] - part["kl"]]
            place = y + _shift(n, len(methods))
            axes.errorbar(part["kl"], place, xerr=error, label=name_of(method), **look(method, size=4.0))
        axes.plot(floors[model].set_index("group")["kl"].reindex(groups), y, "|", color="black", label="noise floor")
        axes.set_xlabel("mean KL (nats)")
        axes.set_title(textwrap.fill(model, 24))
    name_rows(panels[0, 0], groups)
    for axes in panels[0, 1:]:
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


def _shift(n: int, of: int) -> float:
    """Where the n-th of several marks stands in its row, below the row's name, so that intervals lie side by side."""
    return 0.35 * n / max(1, of - 1)
