"""What offsets do at several strengths."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from opinion_sae.book.figures.style import WIDTH, legend_above, log_scale, reference_line


def dose(curve: pd.DataFrame, spot: float | None = None, references: Mapping[str, float] | None = None) -> Figure:
    """KL, option mass and perplexity against strength, with 95 % intervals; `spot` is marked if given.

    `references` are mean KL over groups of other methods, as in alignment.csv, each drawn as a line.
    """
    first = curve.iloc[0]
    questions = f"{first['n_questions']:.0f} questions"
    text = f"{first['n_windows']:.0f} texts"
    panels = [
        ("kl", "mean KL (nats)", questions, "#0072B2", "o", "-"),
        ("option_mass", "on option letters", questions, "#E69F00", "s", "--"),
        ("perplexity_ratio", "relative perplexity", text, "#009E73", "^", "-."),
    ]
    figure, row = plt.subplots(3, 1, figsize=(WIDTH, 7.2))
    for axes, (name, label, size, colour, marker, line) in zip(row, panels, strict=True):
        error = [curve[name] - curve[f"{name}_low"], curve[f"{name}_high"] - curve[name]]
        axes.errorbar(curve["strength"], curve[name], error, fmt=marker, ls=line, color=colour, capsize=2, ms=4)
        axes.axvline(0, color="black", linewidth=0.8)
        if spot is not None:
            at = curve.loc[curve["strength"] == spot, name]
            axes.plot([spot], at, "o", markersize=11, fillstyle="none", color="black", label=f"strength {spot:g}")
        axes.set_ylabel(label)
        axes.set_xlabel(f"strength (0: unsteered, 1: as fitted)\n{size}")
    for method, value in (references or {}).items():
        reference_line(row[0], "kl", method, value)
    for axes in row if spot is not None or references else ():
        legend_above(axes, 1)
    row[1].set_ylim(0, 1.02)
    log_scale(row[2].yaxis)
    return figure
