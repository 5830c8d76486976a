"""What is lost elsewhere for what is gained on survey questions."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from opinion_sae.book.figures.style import MARKS, WIDTH, look
from opinion_sae.score.names import label as name_of

DOSES = ("unsteered", "delta-half", "delta")  # joined by a line
PANELS = (
    ("accuracy_change", -100, "factual accuracy lost (percentage points)", "facts"),
    ("next_token_kl", 1, "next-token KL on plain text (nats per token)", "texts"),
)


def trade_off(table: pd.DataFrame) -> Figure:
    """Loss against gain, one mark per method: mean over groups, with 95 % intervals over questions, facts and texts.

    Right is better, up is worse. A method without a loss of some kind to measure is not in that panel.
    """
    part = table[table["group"] == "all"].set_index(["quantity", "method"])
    gain = part.loc["alignment_change"]
    figure, panels = plt.subplots(2, 1, figsize=(WIDTH, 9.5))
    for axes, (quantity, scale, label, units) in zip(panels, PANELS, strict=True):
        loss = part.loc[quantity, ["value", "low", "high"]] * scale
        for method in gain.index.intersection(loss.index):
            x, y = gain.loc[method], loss.loc[method]
            ends = {"yerr": _error(y), "xerr": _error(x), "capsize": 2, "elinewidth": 0.8}
            axes.errorbar(x["value"], y["value"], label=name_of(method), **ends, **look(method, size=6.0))
        doses = [method for method in DOSES[1:] if method in gain.index]
        path = [(0, 0), *((gain.loc[method, "value"], loss.loc[method, "value"]) for method in doses)]
        axes.plot(*np.array(path).T, color=MARKS["delta"][0], lw=1, ls=":", zorder=0)
        axes.plot(0, 0, label=name_of("unsteered"), **look("unsteered", size=6.0))
        axes.axhline(0, color="black", lw=0.5, zorder=0)
        count = part.loc[quantity, "n"].max()
        axes.set_title(f"{gain['n'].max()} questions, {count} {units}")
        axes.set_xlabel("alignment gained (0 to 1)")
        axes.set_ylabel(label)
    handles = dict(zip(*reversed(_legend(panels)), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=1)
    return figure


def _error(row: pd.Series) -> list[list[float]]:
    """Lengths of the two arms of an interval, whichever end is which after a change of sign."""
    ends = sorted((row["low"], row["high"]))
    return [[row["value"] - ends[0]], [ends[1] - row["value"]]]


def _legend(panels: np.ndarray) -> tuple[list, list[str]]:
    """Marks, without their intervals, and labels of all panels together."""
    found = [axes.get_legend_handles_labels() for axes in panels]
    marks = [one[0] if isinstance(one, ErrorbarContainer) else one for handles, _ in found for one in handles]
    return marks, sum((labels for _, labels in found), [])
