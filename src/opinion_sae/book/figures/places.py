"""Where group differences can be read, and where a persona enters: a line per place over the layers."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opinion_sae.book.figures.style import WIDTH, label_lines, nothing
from opinion_sae.book.places import PLACES, Mapped

LOOKS = {"last": ("#0072B2", "-", "o"), "question": ("#D55E00", "--", "s"), "options": ("#009E73", "-.", "^")}
NOT_RUN = "this study has not been run"


def decoded(maps: Sequence[Mapped]) -> Figure:
    """Gap correlation from toplines by layer, a panel per run; dotted across, words; dotted upright, the hook layer."""
    if not maps:
        return nothing(NOT_RUN)
    figure, panels = plt.subplots(len(maps), 1, figsize=(WIDTH, 3.2 * len(maps)), squeeze=False)
    for axes, one in zip(panels[:, 0], maps, strict=True):
        for place in PLACES:
            _line(axes, one.of("places", place), "gap_r", place)
        _across(axes, one.of("places", "words"), "gap_r", "words")
        _finish(axes, one, "gap correlation")
        axes.set_title(one.name.replace(" on ", "\non ", 1))
    return figure


def entering(maps: Sequence[Mapped]) -> Figure:
    """Of each run the share of variance that which group is named makes up, and how far it goes the groups' true way;
    dotted across, the model's own answers under the personas."""
    maps = [one for one in maps if len(one.tables["personas"])]
    if not maps:
        return nothing(NOT_RUN)
    figure, panels = plt.subplots(2 * len(maps), 1, figsize=(WIDTH, 5.6 * len(maps)), squeeze=False)
    for number, one in enumerate(maps):
        share, way = panels[2 * number : 2 * number + 2, 0]
        for place in PLACES:
            rows = one.of("personas", place)
            _line(share, rows, "named", place, 100)
            _line(way, rows, "pair_r", place)
        _across(way, one.of("personas", "answers"), "pair_r", "own answers")
        share.set_title(one.name.replace(" on ", "\non ", 1))
        _finish(share, one, "variance by group named (%)")
        _finish(way, one, "correlation, pairs")
    return figure


def _line(axes: Axes, rows: pd.DataFrame, name: str, place: str, unit: float | int = 1) -> None:
    """The values with their intervals; a mark at the largest."""
    if not len(rows):
        return
    colour, line, marker = LOOKS[place]
    x = rows["layer"].to_numpy(float)
    value, low, high = (unit * rows[f"{name}{end}"].to_numpy(float) for end in ("", "_low", "_high"))
    axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    most = int(np.nanargmax(value))
    look = {"color": colour, "linestyle": line, "linewidth": 1.4, "marker": marker, "markersize": 6}
    axes.plot(x, value, **look, markevery=[most], label=PLACES[place])


def _across(axes: Axes, rows: pd.DataFrame, name: str, label: str) -> None:
    """A reference without layers, and its interval."""
    if not len(rows):
        return
    value, low, high = (float(rows[f"{name}{end}"].iloc[0]) for end in ("", "_low", "_high"))
    left, right = axes.get_xlim()
    axes.plot([left, right], [value, value], color="#000000", linestyle=":", linewidth=1.2, label=label)
    axes.errorbar(
        [right - 0.015 * (right - left)],
        [value],
        [[value - low], [high - value]],
        color="#000000",
        linewidth=1,
        capsize=2,
    )
    axes.set_xlim(left, right)


def _finish(axes: Axes, one: Mapped, head: str) -> None:
    """The axes' names, the hook layer and the lines' names."""
    axes.axvline(one.hook_layer, color="#777777", linestyle=":", linewidth=1)
    layers = one.of("places", "last")["layer"] if len(one.of("places", "last")) else one.of("personas", "last")["layer"]
    last = int(layers.max()) if len(layers) else one.hook_layer
    ticks = [-1, *range(4, last + 1, 5)]
    axes.set_xticks(ticks, ["emb.", *(str(tick) for tick in ticks[1:])])
    axes.set_xlabel("layer")
    axes.set_ylabel(head)
    label_lines(axes, 10)
