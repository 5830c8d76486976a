"""How fast: ratios to other libraries, shares of the machine's limit, and growth with the size of the work."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter


def speed_ratios(rows: pd.DataFrame, asked: dict[str, tuple[float, float]]) -> Figure:
    """Left: how often as fast as each peer, with ticks at what was asked. Right: share of the machine's limit."""
    rows = rows.iloc[::-1].reset_index(drop=True)
    compared = rows[rows["ratio"].notna()].reset_index(drop=True)
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.5, 0.5 * len(rows) + 1), width_ratios=[3, 2])
    place = np.arange(len(compared))
    left.barh(place, compared["ratio"], height=0.6, color="#56B4E9", edgecolor="black")
    for y, (name, ratio) in enumerate(zip(compared["name"], compared["ratio"], strict=True)):
        left.text(1.15 * max(ratio, *asked[name]), y, f"{ratio:.3g}x", va="center")
        left.plot(asked[name], [y, y], linestyle="", marker="|", markersize=14, color="#D55E00", markeredgewidth=2)
    left.axvline(1, color="black", linewidth=0.8)
    left.set_yticks(
        place, [f"{name}\n{peer}" for name, peer in zip(compared["name"], compared["peer_name"], strict=True)]
    )
    left.set_xscale("log")
    left.set_xlim(min(0.5, 0.8 * compared["ratio"].min()), 4 * max(100, compared["ratio"].max()))
    left.set_xlabel("peer's time over ours (log scale)")
    ours = rows.drop_duplicates("name").reset_index(drop=True)
    right.barh(np.arange(len(ours)), ours["limit_fraction"], height=0.6, color="#E69F00", edgecolor="black", hatch="//")
    right.axvline(0.5, color="black", linestyle=":")
    right.set_xlim(0, 1)
    right.set_yticks(np.arange(len(ours)), ours["name"])
    right.set_xlabel("share of the machine's limit")
    return figure


def growth(table: pd.DataFrame, slopes: pd.DataFrame) -> Figure:
    """Seconds and peak memory against the size of the work; dotted, the expected slope through the largest size."""
    kinds = list(slopes.index)
    figure, panels = plt.subplots(2, len(kinds), figsize=(1.65 * len(kinds), 4.6), squeeze=False)
    for column, kind in enumerate(kinds):
        part = table[table["grows"] == kind].sort_values("size")
        for axes, value, label in ((panels[0, column], "seconds", "time"), (panels[1, column], "peak_mb", "memory")):
            size, found, expected = part["size"], part[value], slopes.loc[kind, f"{label}, expected"]
            axes.loglog(size, found, "o-", color="#0072B2")
            axes.loglog(size, found.iloc[-1] * (size / size.iloc[-1]) ** expected, ":", color="black")
            axes.set_title(f"slope {slopes.loc[kind, f'{label}, fitted']:.2f}\nexpected {expected:g}", fontsize=8)
            axes.set_xticks(size.iloc[::2], [f"{one:,}" for one in size.iloc[::2]])
            axes.xaxis.set_minor_formatter(NullFormatter())
        panels[1, column].set_xlabel(kind)
    panels[0, 0].set_ylabel("seconds")
    panels[1, 0].set_ylabel("peak memory (MB)")
    return figure
