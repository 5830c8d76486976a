"""What all figures share: the style, the methods' marks, reference lines and files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.ticker import LogFormatterSciNotation

from opinion_sae.artifacts import replacing
from opinion_sae.score.names import label
from opinion_sae.survey import Survey

# method: colour, marker, line style; what it is called stands in `score/names.py`
MARKS = {
    "unsteered": ("#000000", "X", ":"),
    "uniform": ("#999999", "P", "-."),
    "shared-delta": ("#E69F00", "s", "--"),
    "delta": ("#0072B2", "o", "-"),
    "delta-selected": ("#56B4E9", "D", "--"),
    "delta-joint": ("#D55E00", "v", "-"),
    "dense": ("#CC79A7", "^", "-."),
    "position-prior": ("#777777", "<", ":"),
    "toplines": ("#000000", "X", ":"),
    "delta-reading": ("#0072B2", "o", "-"),
    "delta-reading-64": ("#56B4E9", "D", "--"),
    "dense-reading": ("#CC79A7", "^", "-."),
    "shuffled-questions": ("#777777", "X", ":"),
    "random-dictionary": ("#777777", "P", ":"),
    "random-read-latents": ("#777777", "p", ":"),
    "words": ("#009E73", "s", "-"),
    "words+direct": ("#D55E00", "v", "-"),
    "embedding": ("#E69F00", "<", "--"),
    "direct": ("#0072B2", "h", "--"),
    "direct-dense": ("#CC79A7", "d", ":"),
    "direct-dense-last": ("#CC79A7", "*", ":"),
    "direct-shuffled": ("#777777", "8", ":"),
    "calibrated": ("#777777", ">", ":"),
    "calibrated-shared": ("#777777", "p", ":"),
    "unembedding": ("#777777", "d", ":"),
    "probe": ("#777777", "*", ":"),
    "diff-means": ("#777777", "h", ":"),
    "prompt-best": ("#777777", "H", ":"),
    "few-shot": ("#777777", "8", ":"),
    "lora": ("#777777", "D", ":"),
    "shuffled-groups": ("#777777", "X", ":"),
    "permuted-decoder": ("#777777", "P", ":"),
    "random-latents": ("#777777", "p", ":"),
    "sign-flip": ("#777777", "h", ":"),
    "everyone": ("#009E73", "D", ":"),
    "floor": ("#000000", "|", ":"),
}


STYLE = {
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.hashsalt": "opinion-sae",
    "text.parse_math": False,  # groups and options may be called anything, such as "$30,000-$50,000"
    "svg.fonttype": "none",
}
plt.rcParams.update(STYLE)
if "ipykernel" in sys.modules:
    from IPython.core.getipython import get_ipython
    from matplotlib_inline.config import InlineBackend

    if (shell := get_ipython()) is not None:
        InlineBackend.instance(parent=shell).figure_formats = {"svg"}


class PlainNumbers(LogFormatterSciNotation):
    """The ticks that matplotlib labels, but as 0.001 where it writes mathtext."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def log_scale(axis: XAxis | YAxis, base: int = 10) -> None:
    """A logarithmic axis; its own labels would be mathtext, which the style takes for plain text."""
    (axis.axes.set_xscale if isinstance(axis, XAxis) else axis.axes.set_yscale)("log", base=base)
    axis.set_major_formatter(PlainNumbers(base))
    axis.set_minor_formatter(PlainNumbers(base, labelOnlyBase=False))


def letter(text: str) -> MarkerStyle:
    """A letter as a marker."""
    with plt.rc_context({"text.parse_math": True}):
        return MarkerStyle(f"${text}$")


def reference_line(axes: Axes, measure: str, method: str, value: float, upright: bool = False) -> None:
    """A line at the mean over groups that the tables give for a method, across the panel or upright.

    Its name in the SVG is '<measure>-of-<method>', so that a test can hold it against the tables.
    """
    colour, _, line = MARKS[method]
    draw = axes.axvline if upright else axes.axhline
    draw(value, color=colour, linestyle=line, linewidth=1, label=label(method), gid=f"{measure}-of-{method}")


def legend_above(axes: Axes, ncols: int = 2) -> None:
    """The names of the marks above the panel, off the data."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=ncols, borderaxespad=0.2, columnspacing=1)


def save_svg(figure: Figure, path: str | Path) -> None:
    """Write the figure as SVG; equal figures give equal bytes."""
    with replacing(path) as side:
        figure.savefig(side, format="svg", metadata={"Date": None})


def group_labels(survey: Survey) -> list[str]:
    """'attribute: group', in the survey's order."""
    return [f"{a}: {g}" for a, g in zip(survey.attributes, survey.groups, strict=True)]


def matrix(
    values: Float[np.ndarray, "row column"], names: Sequence[str], label: str, centre: float | None = None
) -> Figure:
    """A square heatmap of one number per pair of groups."""
    size = 0.3 * len(names) + 1.8
    figure, axes = plt.subplots(figsize=(size + 0.8, size))
    colours = "cividis" if centre is None else "PuOr"
    sns.heatmap(
        values,
        ax=axes,
        cmap=colours,
        center=centre,
        square=True,
        xticklabels=list(names),
        yticklabels=list(names),
        cbar_kws={"label": label, "shrink": 0.7},
    )
    axes.grid(False)
    axes.tick_params(axis="x", rotation=90)
    return figure
