"""What validation would choose: doses and L1 strength in the run, layers and beta beside it."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opinion_sae.book.figures.style import WIDTH, legend_above, log_scale, nothing
from opinion_sae.score.names import label as name_of

STYLES = [("#0072B2", "o", "-"), ("#E69F00", "s", "--"), ("#009E73", "^", "-."), ("#CC79A7", "v", ":")]
STYLES += [("#D55E00", "D", "-"), ("#56B4E9", "P", "--"), ("#999999", "*", "-."), ("#000000", "X", ":")]


def doses(grid: pd.DataFrame) -> Figure:
    """Validation KL against the dose of the shared part, a panel per fold; the chosen candidate has a ring."""
    folds = sorted(grid["fold"].unique())
    size = (WIDTH, 1.9 * len(folds) + 1.5)
    figure, panels = plt.subplots(len(folds), 1, figsize=size, sharex=True, sharey=True, squeeze=False)
    start = grid[grid["shared"] == 0]
    lines = grid[grid["shared"] != 0].groupby(["group", "l1", "kept"], sort=False)
    for axes, fold in zip(panels[:, 0], folds, strict=True):
        for ((group, l1, kept), part), (colour, marker, line) in zip(lines, STYLES, strict=False):
            alone = f"{name_of('shared-delta')}, γ = {l1:g}" if kept == "all" else f"its {kept} strongest"
            name = alone if group == 0 else f"{name_of('shared-delta')} and {group:g} D"
            rows = pd.concat([start, part]) if group == 0 else part
            rows = rows[rows["fold"] == fold]
            axes.plot(rows["shared"], rows["validation_kl"], line, marker=marker, color=colour, ms=4, label=name)
        chosen = grid[(grid["fold"] == fold) & grid["chosen"]]
        axes.plot(chosen["shared"], chosen["validation_kl"], "o", ms=11, fillstyle="none", color="black")
        axes.set_title(f"fold {fold}: {chosen['n_questions'].iloc[0]} questions")
        axes.set_ylabel("validation KL (nats)")
    panels[-1, 0].set_xlabel("dose of Δ_shared")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


def layer_grid(table: pd.DataFrame) -> Figure:
    """Validation KL against the layer for each L1 strength, and KL and unexplained variance against beta.

    Means over folds; bars run from the lowest fold to the highest.
    """
    if table.empty:
        return nothing("not run for this profile")
    figure, panels = plt.subplots(3, 1, figsize=(WIDTH, 7))
    methods = {"shared": "shared-delta", "both": "delta"}
    lines = table[table["mode"] != "joint"].groupby(["mode", "l1"])
    for ((mode, l1), part), style in zip(lines, STYLES, strict=False):
        name = name_of(methods.get(mode, mode))
        label = name if mode == "unsteered" else f"{name}, γ = {l1:g}"
        _points(panels[0], part, "layer", "kl", style, label)
    panels[0].set_xlabel("layer")
    panels[0].set_ylabel("validation KL (nats)")
    legend_above(panels[0], 1)
    joint = table[table["mode"] == "joint"]
    for axes, name, label in zip(panels[1:], ("kl", "fvu"), ("KL (nats)", "unexplained variance"), strict=True):
        _points(axes, joint, "kl_weight", name, STYLES[0], "joint training")
        log_scale(axes.xaxis)
        axes.set_xlabel("β")
        axes.set_ylabel(f"{label}, held out")
    return figure


def _points(axes: Axes, table: pd.DataFrame, x: str, y: str, style: tuple[str, str, str], label: str) -> None:
    colour, marker, line = style
    groups = table.groupby(x)[y]
    middle = groups.mean()
    error = [middle - groups.min(), groups.max() - middle]
    axes.errorbar(middle.index, middle, error, fmt=marker, ls=line, color=colour, capsize=2, ms=4, label=label)
