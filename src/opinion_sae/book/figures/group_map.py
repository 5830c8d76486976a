"""People's groups in the plane, and where a method puts them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from opinion_sae.book.figures.style import WIDTH
from opinion_sae.score.names import label

AWAY = (4, 14, 26)  # points between a point and its name; from the second on with a line to it
SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))  # of a point, where its name may stand
LETTER, LINE = 0.55 * 9 / 72, 1.25 * 9 / 72  # width of a letter and height of a line of 9 points, in inches
BEFORE = "before: unsteered model,\nthe same for all groups"
SIZE = (WIDTH, 4.4)  # of a panel, in inches
PREDICTED: dict[str, Any] = {"color": "#D55E00", "mfc": "white", "markersize": 4}
CROSS: dict[str, Any] = {"color": "#0072B2", "markersize": 7, "mec": "white", "mew": 0.8, "zorder": 3}


def group_map_figure(points: pd.DataFrame, near: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """A panel per method, one below the other: people's groups (dots, named), the method's (squares), lines between,
    and the one spot on which the unsteered model puts all groups (a cross); below, the last method's squares alone,
    enlarged and named."""
    people = points[points["method"] == "people"]
    place = people[["x", "y"]].to_numpy()
    before = points.loc[points["method"] == "unsteered", ["x", "y"]].to_numpy()[:1]
    size = (SIZE[0], SIZE[1] * (len(methods) + 1))
    figure, panels = plt.subplots(len(methods) + 1, 1, figsize=size, squeeze=False)
    reach = np.array([1.6, 1.2]) * np.abs(points[["x", "y"]].to_numpy()).max(0).clip(1e-3)
    for axes, method in zip(panels[:, 0], methods, strict=False):
        own = points[points["method"] == method].set_index("group").loc[list(people["group"]), ["x", "y"]].to_numpy()
        axes.axhline(0, color="#BBBBBB", linewidth=0.8)
        axes.axvline(0, color="#BBBBBB", linewidth=0.8)
        axes.plot(*np.stack([place, own]).transpose(2, 0, 1), color="#BBBBBB", linewidth=0.8, zorder=1)
        axes.plot(*place.T, "o", color="black", markersize=4, label="people", gid=f"people-beside-{method}")
        axes.plot(*own.T, "s", label="predicted", gid=f"groups-of-{method}", **PREDICTED)
        axes.plot(*before.T, "X", label=BEFORE, gid=f"before-beside-{method}", **CROSS)
        axes.set_xlim(-reach[0], reach[0])
        axes.set_ylim(-reach[1], reach[1])
        name_points(axes, place, list(people["group"]), reach)
        distance = near.set_index(["method", "fold"])["distance"][method, "all"]
        axes.set_title(f"{label(method)}: {distance:.3f} places off")
    last = points[points["method"] == methods[-1]]
    enlarged(panels[-1, 0], last, before, methods[-1])
    for axes in panels[:, 0]:
        axes.grid(False)
        axes.set_ylabel("second dimension (places)")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    panels[-1, 0].set_xlabel("first dimension (places)")
    return figure


def enlarged(axes: Axes, own: pd.DataFrame, before: Float[np.ndarray, "_ 2"], method: str) -> None:
    """The groups of a method (squares, named) and the unsteered model's spot, as large as the panel can show them."""
    place = own[["x", "y"]].to_numpy()
    ends = np.concatenate([place, before])
    centre = (ends.max(0) + ends.min(0)) / 2
    reach = np.array([1.0, 0.65]) * np.ptp(ends, axis=0).clip(1e-3)
    axes.plot(*place.T, "s", gid=f"enlarged-groups-of-{method}", **PREDICTED)
    axes.plot(*before.T, "X", gid=f"enlarged-before-beside-{method}", **CROSS)
    axes.set_xlim(centre[0] - reach[0], centre[0] + reach[0])
    axes.set_ylim(centre[1] - reach[1], centre[1] + reach[1])
    axes.xaxis.set_major_locator(MaxNLocator(4))
    name_points(axes, place, list(own["group"]), reach, centre)
    axes.set_title("the same squares alone, enlarged")


def name_points(
    axes: Axes,
    places: Float[np.ndarray, "point 2"],
    names: Sequence[str],
    reach: np.ndarray,
    centre: np.ndarray | float = 0.0,
) -> None:
    """Names beside their points, outwards if that covers no other point or name, else further away, or where it covers
    fewest."""
    scale = 0.8 * np.array(SIZE) / (2 * reach)  # inches per unit
    at, boxes = (places - centre) * scale, []
    for place, point, name in zip(places, at, names, strict=True):
        size, best = np.array([LETTER * len(name), LINE]), None
        sides = sorted(SIDES, key=lambda side: -np.dot(side, point) / np.hypot(*side))  # outwards first
        for away, side in product(AWAY, sides):
            middle = point + np.array(side) * (size / 2 + away / 72)
            low, high = middle - size / 2, middle + size / 2
            covered = ((at > low) & (at < high)).all(1).sum()
            covered += sum(bool((low < other[1]).all() and (high > other[0]).all()) for other in boxes)
            outside = bool((np.abs(middle) + size / 2 > reach * scale).any())
            if best is None or covered + outside < best[0]:
                best = covered + outside, away, side, (low, high)
        assert best is not None
        _, away, (x, y), box = best
        boxes.append(box)
        axes.annotate(
            name,
            place,
            (away * x, away * y),
            textcoords="offset points",
            ha={1: "left", 0: "center", -1: "right"}[x],
            va={1: "bottom", 0: "center", -1: "top"}[y],
            arrowprops=None if away == AWAY[0] else {"arrowstyle": "-", "linewidth": 0.5, "color": "#777777"},
            parse_math=False,
        )
