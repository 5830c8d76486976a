"""What offsets do at several strengths."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from opinion_sae.book.figures.style import WIDTH, legend_above, log_scale, look, reference_line
from opinion_sae.score.names import label

PANELS = {
    "kl": "KL, alone (nats)",
    "kl_toplines": "KL, from toplines (nats)",
    "option_mass": "on option letters",
    "perplexity_ratio": "relative perplexity",
}


def dose(curves: pd.DataFrame, spots: Mapping[str, float], references: Mapping[str, float]) -> Figure:
    """KL for both tasks, option mass and perplexity against strength, a line per method, with 95 % intervals.

    The strength in `spots` is ringed. `references` are mean KL over groups of other methods, as in alignment.csv, each
    drawn as a line.
    """
    first = curves.iloc[0]
    figure, row = plt.subplots(4, 1, figsize=(WIDTH, 9.2))
    for axes, (name, title) in zip(row, PANELS.items(), strict=True):
        for method, curve in curves.groupby("method", sort=False):
            error = [curve[name] - curve[f"{name}_low"], curve[f"{name}_high"] - curve[name]]
            drawn = look(str(method), joined=True)
            axes.errorbar(curve["strength"], curve[name], error, capsize=2, label=label(str(method)), **drawn)
            at = curve.loc[curve["strength"] == spots.get(str(method)), ["strength", name]]
            axes.plot(at["strength"], at[name], "o", markersize=11, fillstyle="none", color=drawn["color"])
        size = (
            f"{first['n_windows']:.0f} texts" if name == "perplexity_ratio" else f"{first['n_questions']:.0f} questions"
        )
        axes.set_ylabel(title)
        axes.set_xlabel(f"strength (0: unsteered, 1: as fitted)\n{size}")
    for method, value in references.items():
        reference_line(row[0], "kl", method, value)
    legend_above(row[0], 1)
    row[2].set_ylim(0, 1.02)
    log_scale(row[3].yaxis)
    return figure
