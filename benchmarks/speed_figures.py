"""How fast: ratios to other libraries, shares of the machine's limit, and growth with the size of the work."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from opinion_sae.book.figures.style import ROW, WIDTH, log_scale, name_rows

DROP = 0.2  # of a row that bars and numbers stand lower, clear of the name above them


def speed_ratios(rows: pd.DataFrame, asked: dict[str, tuple[float, float]]) -> Figure:
    """How often as fast as each peer, with ticks at what was asked; below, the share of the machine's limit."""
    compared, ours = rows[rows["ratio"].notna()], rows.drop_duplicates("name")
    size = (WIDTH, 1.1 * ROW * (len(compared) + len(ours)) + 1.4)
    figure, (above, below) = plt.subplots(2, 1, figsize=size, height_ratios=[len(compared), len(ours)])
    look = {"height": 0.3, "edgecolor": "black"}
    above.barh([y + DROP for y in range(len(compared))], compared["ratio"], color="#56B4E9", **look)
    for row, (name, ratio) in enumerate(zip(compared["name"], compared["ratio"], strict=True)):
        y = row + DROP
        above.text(1.15 * max(ratio, *asked[name]), y, f"{ratio:.3g}x", va="center")
        above.plot(asked[name], [y, y], linestyle="", marker="|", markersize=8, color="#D55E00", markeredgewidth=2)
    above.axvline(1, color="black", linewidth=0.8)
    name_rows(above, [f"{name}: {peer}" for name, peer in zip(compared["name"], compared["peer_name"], strict=True)])
    log_scale(above.xaxis)
    above.set_xlim(min(0.5, 0.8 * compared["ratio"].min()), 4 * max(100, compared["ratio"].max()))
    above.set_xlabel("peer's time over ours (log scale)")
    below.barh([y + DROP for y in range(len(ours))], ours["limit_fraction"], color="#E69F00", hatch="//", **look)
    below.axvline(0.5, color="black", linestyle=":")
    below.set_xlim(0, 1)
    name_rows(below, ours["name"].tolist())
    below.set_xlabel("share of the machine's limit")
    return figure


def growth(table: pd.DataFrame, slopes: pd.DataFrame) -> Figure:
    """Seconds and peak memory against the size of the work; dotted, the expected slope through the largest size."""
    kinds = list(slopes.index)
    figure, panels = plt.subplots(len(kinds), 2, figsize=(WIDTH, 2.1 * len(kinds)), squeeze=False, sharex="row")
    for row, kind in zip(panels, kinds, strict=True):
        part = table[table["grows"] == kind].sort_values("size")
        for axes, value, label in ((row[0], "seconds", "time"), (row[1], "peak_mb", "memory")):
            size, found, expected = part["size"], part[value], slopes.loc[kind, f"{label}, expected"]
            axes.plot(size, found, "o-", color="#0072B2")
            axes.plot(size, found.iloc[-1] * (size / size.iloc[-1]) ** expected, ":", color="black")
            log_scale(axes.xaxis)
            log_scale(axes.yaxis)
            axes.set_title(f"slope {slopes.loc[kind, f'{label}, fitted']:.2f}\nexpected {expected:g}")
            axes.set_xticks(size.iloc[::2], [f"{one:,}" for one in size.iloc[::2]])
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlabel(kind)
        row[0].set_ylabel("seconds")
        row[1].set_ylabel("peak memory (MB)")
    return figure
