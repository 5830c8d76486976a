"""What is lost elsewhere for what is gained on survey questions."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from opinion_sae.book.figures.style import MARKS, letter
from opinion_sae.score.names import label as name_of

# those that are hard to tell apart here, and those that only this figure has
OURS = MARKS | {
    "delta-half": ("#0072B2", letter("½"), "-"),
    "random-latents": ("#777777", "P", ":"),
    "diff-means": ("#777777", letter("M"), ":"),
    "few-shot": ("#777777", letter("E"), ":"),
    "prompt-qa": ("#777777", letter("Q"), ":"),
    "prompt-bio": ("#777777", letter("S"), ":"),
    "prompt-portray": ("#777777", letter("I"), ":"),
}
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
    figure, panels = plt.subplots(1, 2, figsize=(6.5, 6), layout="constrained")
    for axes, (quantity, scale, label, units) in zip(panels, PANELS, strict=True):
        loss = part.loc[quantity, ["value", "low", "high"]] * scale
        for method in gain.index.intersection(loss.index):
            x, y = gain.loc[method], loss.loc[method]
            colour, marker, _ = OURS[method]
            style = {
                "marker": marker,
                "ls": "none",
                "color": colour,
                "ms": 7 if isinstance(marker, str) else 9,
                "capsize": 2,
                "elinewidth": 0.8,
                "label": name_of(method),
            }
            axes.errorbar(x["value"], y["value"], _error(y), _error(x), **style)
        doses = [method for method in DOSES[1:] if method in gain.index]
        path = [(0, 0), *((gain.loc[method, "value"], loss.loc[method, "value"]) for method in doses)]
        axes.plot(*np.array(path).T, color="#0072B2", lw=1, ls=":", zorder=0)
        axes.plot(0, 0, "X", color="black", ms=6, label=name_of("unsteered"))
        axes.axhline(0, color="black", lw=0.5, zorder=0)
        count = part.loc[quantity, "n"].max()
        axes.set_title(f"{gain['n'].max()} questions, {count} {units}", loc="left", fontsize=9)
        axes.set_xlabel("alignment gained (0 to 1)")
        axes.set_ylabel(label)
    handles = dict(zip(*reversed(_legend(panels)), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2)
    return figure


def _error(row: pd.Series) -> list[list[float]]:
    """Lengths of the two arms of an interval, whichever end is which after a change of sign."""
    ends = sorted((row["low"], row["high"]))
    return [[row["value"] - ends[0]], [ends[1] - row["value"]]]


def _legend(panels: np.ndarray) -> tuple[list, list[str]]:
    """Handles and labels of all panels together."""
    found = [axes.get_legend_handles_labels() for axes in panels]
    return sum((handles for handles, _ in found), []), sum((labels for _, labels in found), [])
