"""Predicted shares of questions of one's own."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opinion_sae.book.figures.style import WIDTH
from opinion_sae.use.asked import Asked

ACROSS = 2  # options side by side; further ones go below
LINE, TITLE = 58, 17  # letters in a line over a question, and over an option
TASKS = {"alone": ("#0072B2", "o", "predicted alone"), "toplines": ("#D55E00", "s", "predicted from toplines")}


def predictions(table: pd.DataFrame, asked: Sequence[Asked], unlike: Sequence[str] = ()) -> Figure:
    """A panel per question and option: each group's predicted share with its interval, dotted: everybody's share.

    From toplines where they are known, else alone. Questions in `unlike` say so in their title.
    """
    cells = [
        (one, range(first, min(first + ACROSS, len(one.question.options))))
        for one in asked
        for first in range(0, len(one.question.options), ACROSS)
    ]
    groups = len(table[["attribute", "group"]].drop_duplicates())
    across = max(len(options) for _, options in cells)
    figure = plt.figure(figsize=(WIDTH, len(cells) * (0.19 * groups + 1.4)))
    for part, (one, options) in zip(figure.subfigures(len(cells), 1, squeeze=False)[:, 0], cells, strict=True):
        _question(list(part.subplots(1, across, squeeze=False)[0]), table, one, options)
        odd = " (unlike the survey's questions)" if one.question.key in unlike else ""
        head = f"{one.question.key}: {one.question.text[:300]}{odd}; {TASKS[_task(one)][2]}"
        part.suptitle("\n".join(textwrap.wrap(head, LINE)), x=0.01, ha="left")
    return figure


def _task(one: Asked) -> str:
    return "toplines" if one.toplines else "alone"


def _question(row: Sequence[Axes], table: pd.DataFrame, one: Asked, options: range) -> None:
    """Some of a question's options, a panel each."""
    part = table[(table["question"] == one.question.key) & (table["task"] == _task(one))]
    for axes, option in zip(row, options, strict=False):
        _panel(axes, part[part["option"] == one.question.options[option]], _task(one), axes is row[0])
        if one.toplines:
            axes.axvline(one.toplines[option], color="#000000", linestyle=":", linewidth=1)
        lines = textwrap.wrap(one.question.options[option], TITLE)
        shown = lines[:2] if len(lines) <= 2 else [lines[0], f"{lines[1][: TITLE - 1]}…"]
        axes.set_title("\n".join(shown), loc="left")
    for axes in row[len(options) :]:
        axes.set_axis_off()


def _panel(axes: Axes, part: pd.DataFrame, task: str, named: bool) -> None:
    """One option's shares, a row per group."""
    y = np.arange(len(part))
    colour, marker, _ = TASKS[task]
    error = [part["share"] - part["low"], part["high"] - part["share"]]
    axes.errorbar(part["share"], y, xerr=error, fmt=marker, color=colour, markersize=3, elinewidth=1)
    names = [f"{attribute}: {group}" for attribute, group in zip(part["attribute"], part["group"], strict=True)]
    axes.set_yticks(y, names if named else [])
    axes.set_xlim(0, 1)
    axes.set_ylim(len(part) - 0.5, -0.5)
    axes.set_xlabel("share")
