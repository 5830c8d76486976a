"""What people and models answer, and how far apart they are."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from opinion_sae.book.figures.style import ROW, WIDTH, group_labels, legend_above, look, name_rows, reference_line
from opinion_sae.score.names import label as name_of
from opinion_sae.survey import Survey


def group_distance(survey: Survey, table: pd.DataFrame) -> Figure:
    """Each group's mean total variation from all respondents, with the distance that sampling alone would give."""
    figure, axes = plt.subplots(figsize=(WIDTH, ROW * len(table) + 1))
    y = np.arange(len(table))
    error = [table["tv"] - table["tv_low"], table["tv_high"] - table["tv"]]
    axes.errorbar(table["tv"], y, xerr=error, fmt="o", color="#0072B2", capsize=2, label="group against everyone")
    axes.plot(table["floor"], y, "|", color="#000000", markersize=9, label="expected from sampling alone")
    name_rows(axes, [f"{label}, n = {n:,.0f}" for label, n in zip(group_labels(survey), table["n"], strict=True)])
    axes.set_xlim(left=0)
    axes.set_xlabel(f"mean total variation over {table['questions'].max()} questions (0 to 1)")
    legend_above(axes, 1)
    return figure


def position_shares(table: pd.DataFrame) -> Figure:
    """Mean probability by letter for the model and by the same places for people, per number of options."""
    counts = sorted(table["options"].unique())
    rows = -(-len(counts) // 2)
    figure, panels = plt.subplots(rows, 2, figsize=(WIDTH, 1.7 * rows + 0.4), sharey=True, squeeze=False)
    for axes in panels.flat[len(counts) :]:
        axes.set_axis_off()
    for axes, count in zip(panels.flat, counts, strict=False):
        part = table[table["options"] == count]
        x = np.arange(count)
        axes.bar(x - 0.2, part["model"], 0.4, color="#0072B2", label="model")
        axes.bar(x + 0.2, part["people"], 0.4, color="#E69F00", hatch="//", edgecolor="white", label="people")
        axes.axhline(1 / count, color="black", linewidth=0.8, linestyle=":")
        axes.set_xticks(x, list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:count]))
        axes.set_title(f"{count} options (n={part['questions'].iloc[0]})")
    figure.supxlabel("letter")
    figure.supylabel("mean probability or share")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def alignment(table: pd.DataFrame, floor: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Headline: mean KL and alignment of each method over all groups, with 95 % intervals over questions."""
    part = table[table["group"] == "all"].set_index("method").loc[list(methods)]
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, ROW * len(part) + 1.2), sharey=True)
    for axes, measure in zip(panels, ("kl", "alignment"), strict=True):
        for place, (method, row) in enumerate(part.iterrows()):
            error = [[row[measure] - row[f"{measure}_low"]], [row[f"{measure}_high"] - row[measure]]]
            axes.errorbar(row[measure], place, xerr=error, capsize=3, **look(str(method)))
        reference_line(axes, measure, "floor", floor.set_index("group").loc["all", measure], upright=True)
    name_rows(panels[0], [name_of(str(method)) for method in part.index])
    panels[1].spines["left"].set_visible(False)
    panels[1].tick_params(axis="y", length=0)
    panels[0].set_xlabel("mean KL (nats)\nlower is closer")
    panels[1].set_xlabel("alignment\nhigher is closer")
    panels[0].set_title(f"{part['n_questions'].iloc[0]} held-out questions; dotted: noise floor")
    return figure


def alignment_by_group(survey: Survey, table: pd.DataFrame, floor: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Mean KL per group and method with 95 % intervals, and the group's noise floor; of the methods that were run."""
    methods = [method for method in methods if (table["method"] == method).any()]
    figure, axes = plt.subplots(figsize=(WIDTH, (0.2 + 0.07 * len(methods)) * len(survey.groups) + 1.4))
    y = np.arange(len(survey.groups))
    for n, method in enumerate(methods):
        part = table[table["method"] == method].set_index("group").loc[list(survey.groups)]
        error = [part["kl"] - part["kl_low"], part["kl_high"] - part["kl"]]
        shift = 0.5 * n / max(1, len(methods) - 1)
        axes.errorbar(part["kl"], y + shift, xerr=error, label=name_of(method), **look(method, size=4.0))
    floors = floor.set_index("group").loc[list(survey.groups), "kl"]
    axes.plot(floors, y + 0.25, "|", color="black", label="noise floor")
    counts = table[table["method"] == methods[0]].set_index("group").loc[list(survey.groups), "n_questions"]
    name_rows(axes, [f"{name} ({n} q.)" for name, n in zip(group_labels(survey), counts, strict=True)])
    axes.set_ylim(len(survey.groups) - 0.3, -0.6)
    axes.set_xlabel("mean KL, people to model, held out (nats)")
    figure.legend(loc="outside upper left", ncols=2)
    return figure


def differences(survey: Survey, table: pd.DataFrame, method: str, reference: str) -> Figure:
    """Paired difference in KL of a method to its reference, per group, with 95 % intervals."""
    part = table[(table["method"] == method) & (table["reference"] == reference)].set_index("group")
    names = ["all", *survey.groups]
    part = part.loc[names]
    figure, axes = plt.subplots(figsize=(WIDTH, ROW * len(names) + 1))
    y = np.arange(len(names))
    error = [part["kl_difference"] - part["low"], part["high"] - part["kl_difference"]]
    axes.errorbar(part["kl_difference"], y, xerr=error, fmt="o", color="#0072B2", capsize=2)
    axes.axvline(0, color="black", linewidth=1)
    labels = ["mean over groups", *group_labels(survey)]
    name_rows(axes, [f"{label} ({n} q.)" for label, n in zip(labels, part["n_questions"], strict=True)])
    axes.xaxis.set_major_locator(MaxNLocator(2))  # at most three ticks: four long numbers overlap
    axes.set_xlabel(f"KL of {name_of(method)} minus KL of {name_of(reference)} (nats)")
    return figure
