"""One question before and after, and the scale of the problem on one axis."""

from __future__ import annotations

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from opinion_sae.book.figures.style import WIDTH, log_scale, name_rows
from opinion_sae.book.one_question import columns_of
from opinion_sae.score.gap_pairs import Pair
from opinion_sae.score.names import label
from opinion_sae.survey import Question

BARS = (("#0072B2", ""), ("#F0E442", "////"))  # of the first and the second group: dark, and light with a hatch
BAR = 0.38  # width of a bar, where options are 1 apart
TASKS = {"alone": ("alone", "o"), "toplines": ("from toplines", "s"), "floor": ("", "|")}


def before_and_after(rows: pd.DataFrame, question: Question, pair: Pair, task: str) -> Figure:
    """A panel for people and one per method, one below the other: a bar per option and group, in percent.

    `rows` is that of `book.one_question.rows_of`: people's bars have their interval.
    """
    columns = {"people": "people"} | {label(name): column for name, column in columns_of(rows, task).items()}
    figure, panels = plt.subplots(len(columns), 1, figsize=(WIDTH, 1.05 * len(columns) + 0.7), sharex=True, sharey=True)
    for axes, (name, column) in zip(panels, columns.items(), strict=True):
        for group, shift, (colour, hatch) in zip(pair, (-BAR / 2, BAR / 2), BARS, strict=True):
            part = rows[rows["group"] == group].set_index("option").reindex(list(question.options))
            place, share = np.arange(len(part)) + shift, 100 * part[column].to_numpy()
            axes.bar(place, share, BAR, color=colour, hatch=hatch, edgecolor="black", linewidth=0.6, label=group)
            top = share
            if column == "people":
                error = 100 * np.array([part["people"] - part["low"], part["high"] - part["people"]])
                axes.errorbar(place, share, yerr=error.clip(0), fmt="none", color="black", capsize=2, linewidth=1)
                top = share + error[1]
            for x, value, y in zip(place, share, top, strict=True):
                axes.text(x, y + 2, f"{value:.0f}", ha="center", va="bottom")
        axes.set_title(name, fontweight="bold")
        axes.grid(False)
        axes.spines["left"].set_visible(False)
        axes.set_yticks([])
    panels[0].set_ylim(0, 1.25 * max(rows[list(columns.values())].to_numpy().max() * 100, rows["high"].max() * 100))
    options = ["\n".join(textwrap.wrap(option, max(6, 48 // len(question.options)))) for option in question.options]
    panels[-1].set_xticks(range(len(options)), options)
    panels[0].legend(loc="lower right", bbox_to_anchor=(1.0, 0.98), ncols=2, borderpad=0)
    return figure


def kl_scale(table: pd.DataFrame) -> Figure:
    """A dot per row of `book.one_question.scale_table` on one KL axis, with its 95 % interval and its name above it.

    The axis is logarithmic, as the furthest is a hundred times as far as the nearest; a dot's name in the SVG is
    'kl-of-<task>-<method>'.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 0.36 * len(table) + 0.8))
    log_scale(axes.xaxis)
    names = []
    for place, (task, method, kl, low, high) in enumerate(table.itertuples(index=False)):
        said, marker = TASKS[task]
        look = {"fmt": marker, "color": "black" if task != "toplines" else "#D55E00", "capsize": 2, "markersize": 5}
        low, high = (kl if np.isnan(end) else end for end in (low, high))
        error = [[kl - low], [high - kl]]
        dot = axes.errorbar(kl, place, xerr=error, mfc="black" if task == "alone" else "white", **look)[0]
        dot.set_gid(f"kl-of-{task}-{method}")
        names.append(label(method) + (f", {said}" if said and method != "toplines" else ""))
    name_rows(axes, names)
    low, high = table["kl"].min(), table["kl"].max()
    axes.set_xlim(low / 1.6, high * 2)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("mean KL (nats, logarithmic): lower is closer")
    return figure
