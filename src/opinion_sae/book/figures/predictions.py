"""Predicted shares of questions of one's own."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opinion_sae.use.asked import Asked

ACROSS = 5  # options side by side; further ones go below
TASKS = {"alone": ("#0072B2", "o", "predicted alone"), "toplines": ("#D55E00", "s", "predicted from toplines")}


def predictions(table: pd.DataFrame, asked: Sequence[Asked], unlike: Sequence[str] = ()) -> Figure:
    """A panel per question and option: each group's predicted share with its interval, dotted: everybody's share.

    From toplines where they are known, else alone. Questions in `unlike` say so in their title. What stands in a
    question is shown as it is written: a dollar sign starts no formula.
    """
    cells = [
        (one, range(first, min(first + ACROSS, len(one.question.options))))
        for one in asked
        for first in range(0, len(one.question.options), ACROSS)
    ]
    groups = len(table[["attribute", "group"]].drop_duplicates())
    across = max(len(options) for _, options in cells)
    size = (1.9 + 1.9 * across, len(cells) * (0.17 * groups + 1.4))
    figure, panels = plt.subplots(len(cells), across, figsize=size, sharex=True, squeeze=False)
    for row, (one, options) in zip(panels, cells, strict=True):
        part = table[table["question"] == one.question.key]
        task = "toplines" if one.toplines else "alone"
        part = part[part["task"] == task]
        for axes, option in zip(row, options, strict=False):
            _panel(axes, part[part["option"] == one.question.options[option]], task, axes is row[0])
            if one.toplines:
                axes.axvline(one.toplines[option], color="#000000", linestyle=":", linewidth=1)
            _title(axes, one.question.options[option], 26)
        for axes in row[len(options) :]:
            axes.set_axis_off()
        odd = " (unlike the survey's questions)" if one.question.key in unlike else ""
        head = f"{one.question.key}: {one.question.text}"
        row[0].annotate(
            "\n".join(textwrap.wrap(f"{head[:300]}{odd}; {TASKS[task][2]}", 28 * across)),
            (0, 1), (0, 30), "axes fraction", "offset points", fontweight="bold", parse_math=False,
        )  # fmt: skip
    return figure


def _panel(axes: Axes, part: pd.DataFrame, task: str, named: bool) -> None:
    """One option's shares, a row per group."""
    y = np.arange(len(part))
    colour, marker, _ = TASKS[task]
    error = [part["share"] - part["low"], part["high"] - part["share"]]
    axes.errorbar(part["share"], y, xerr=error, fmt=marker, color=colour, markersize=3, elinewidth=1)
    names = [f"{attribute}: {group}" for attribute, group in zip(part["attribute"], part["group"], strict=True)]
    axes.set_yticks(y, names if named else [])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
        label.set_fontsize(7)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(part) - 0.5, -0.5)
    axes.set_xlabel("share", fontsize=8)


def _title(axes: Axes, text: str, width: int) -> None:
    wrapped = textwrap.wrap(text, width)
    shown = wrapped[:2] if len(wrapped) <= 2 else [wrapped[0], f"{wrapped[1][: width - 1]}…"]
    axes.set_title("\n".join(shown), fontsize=8, loc="left", parse_math=False)
