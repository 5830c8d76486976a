"""What people and models answer, and how far apart they are."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from opinion_sae.book.figures.style import MARKS, group_labels, legend_above, reference_line
from opinion_sae.score.names import label as name_of
from opinion_sae.survey import Survey


def group_distance(survey: Survey, table: pd.DataFrame) -> Figure:
    """Each group's mean total variation from all respondents, with the distance that sampling alone would give."""
    figure, axes = plt.subplots(figsize=(6.5, 0.26 * len(table) + 1))
    y = np.arange(len(table))
    error = [table["tv"] - table["tv_low"], table["tv_high"] - table["tv"]]
    axes.errorbar(table["tv"], y, xerr=error, fmt="o", color="#0072B2", capsize=2, label="group against everyone")
    axes.plot(table["floor"], y, "|", color="#000000", markersize=9, label="expected from sampling alone")
    labels = [f"{label} (n={n:,.0f})" for label, n in zip(group_labels(survey), table["n"], strict=True)]
    axes.set_yticks(y, labels)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel(f"mean total variation over {table['questions'].max()} questions (0 to 1)")
    legend_above(axes, 1)
    return figure


def position_shares(table: pd.DataFrame) -> Figure:
    """Mean probability by letter for the model and by the same places for people, per number of options."""
    counts = sorted(table["options"].unique())
    figure, panels = plt.subplots(
        1, len(counts), figsize=(1.6 * len(counts) + 0.6, 2.6), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, count in zip(panels[0], counts, strict=True):
        part = table[table["options"] == count]
        x = np.arange(count)
        axes.bar(x - 0.2, part["model"], 0.4, color="#0072B2", label="model")
        axes.bar(x + 0.2, part["people"], 0.4, color="#E69F00", hatch="//", edgecolor="white", label="people")
        axes.axhline(1 / count, color="black", linewidth=0.8, linestyle=":")
        axes.set_xticks(x, list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:count]))
        axes.set_title(f"{count} options (n={part['questions'].iloc[0]})", fontsize=9)
        axes.set_xlabel("letter")
    panels[0, 0].set_ylabel("mean probability or share")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def alignment(table: pd.DataFrame, floor: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Headline: mean KL and alignment of each method over all groups, with 95 % intervals over questions."""
    part = table[table["group"] == "all"].set_index("method").loc[list(methods)]
    figure, panels = plt.subplots(1, 2, figsize=(6.5, 0.36 * len(part) + 1.1), sharey=True, layout="constrained")
    y = np.arange(len(part))
    for axes, measure in zip(panels, ("kl", "alignment"), strict=True):
        for place, (method, row) in zip(y, part.iterrows(), strict=True):
            colour, marker, _ = MARKS[method]
            error = [[row[measure] - row[f"{measure}_low"]], [row[f"{measure}_high"] - row[measure]]]
            axes.errorbar(row[measure], place, xerr=error, fmt=marker, color=colour, capsize=3)
        reference_line(axes, measure, "floor", floor.set_index("group").loc["all", measure], upright=True)
    panels[0].set_yticks(y, [name_of(method) for method in part.index])
    panels[0].invert_yaxis()
    panels[0].set_xlabel("mean KL (nats)\nlower is closer")
    panels[1].set_xlabel("alignment\nhigher is closer")
    panels[0].set_title(
        f"{part['n_questions'].iloc[0]} held-out questions; dotted: noise floor", loc="left", fontsize=9
    )
    return figure


def alignment_by_group(survey: Survey, table: pd.DataFrame, floor: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Mean KL per group and method with 95 % intervals, and the group's noise floor."""
    figure, axes = plt.subplots(figsize=(6.5, 0.42 * len(survey.groups) + 1.2))
    y = np.arange(len(survey.groups))
    for n, method in enumerate(methods):
        part = table[table["method"] == method].set_index("group").loc[list(survey.groups)]
        label, (colour, marker, _) = name_of(method), MARKS[method]
        offset = 0.6 * (n / max(1, len(methods) - 1) - 0.5)
        error = [part["kl"] - part["kl_low"], part["kl_high"] - part["kl"]]
        axes.errorbar(part["kl"], y + offset, xerr=error, fmt=marker, color=colour, markersize=4, lw=1, label=label)
    axes.plot(floor.set_index("group").loc[list(survey.groups), "kl"], y, "|", color="black", label="noise floor")
    counts = table[table["method"] == methods[0]].set_index("group").loc[list(survey.groups), "n_questions"]
    axes.set_yticks(y, [f"{name} ({n} q.)" for name, n in zip(group_labels(survey), counts, strict=True)])
    axes.invert_yaxis()
    axes.set_xlabel("mean KL, people to model, on held-out questions (nats)")
    figure.legend(loc="outside upper center", ncols=3)
    return figure


def differences(survey: Survey, table: pd.DataFrame, method: str, reference: str) -> Figure:
    """Paired difference in KL of a method to its reference, per group, with 95 % intervals."""
    part = table[(table["method"] == method) & (table["reference"] == reference)].set_index("group")
    names = ["all", *survey.groups]
    part = part.loc[names]
    figure, axes = plt.subplots(figsize=(6.5, 0.26 * len(names) + 1))
    y = np.arange(len(names))
    error = [part["kl_difference"] - part["low"], part["high"] - part["kl_difference"]]
    axes.errorbar(part["kl_difference"], y, xerr=error, fmt="o", color="#0072B2", capsize=2)
    axes.axvline(0, color="black", linewidth=1)
    labels = ["mean over groups", *group_labels(survey)]
    axes.set_yticks(y, [f"{label} ({n} q.)" for label, n in zip(labels, part["n_questions"], strict=True)])
    axes.invert_yaxis()
    axes.set_xlabel(f"KL of {name_of(method)} minus KL of {name_of(reference)} (nats)")
    return figure
