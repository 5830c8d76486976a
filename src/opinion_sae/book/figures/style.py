"""What all figures share: the style, the methods' marks, reference lines and files."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.colors import to_rgb
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.ticker import LogFormatterSciNotation

from opinion_sae.artifacts import replacing
from opinion_sae.score.names import label
from opinion_sae.survey import Survey

WIDTH = 4.0  # of every figure, in inches: on a phone of 390 pixels its 9 points are then 8
ROW = 0.36  # inches of a row that has its name above it, `name_rows`

# method: colour, marker (a letter for controls), line style; what it is called stands in `score/names.py`
MARKS = {
    "unsteered": ("#000000", "X", ":"),
    "toplines": ("#000000", "+", ":"),
    "uniform": ("#777777", "_", ":"),
    "shared-delta": ("#E69F00", "s", "--"),
    "delta": ("#0072B2", "o", "-"),
    "delta-half": ("#0072B2", "½", ":"),
    "delta-selected": ("#0072B2", "p", "--"),
    "delta-joint": ("#56B4E9", "v", "-"),
    "dense": ("#CC79A7", "^", "-."),
    "position-prior": ("#777777", "Z", ":"),
    "delta-reading": ("#D55E00", "D", "-"),
    "delta-reading-64": ("#E69F00", "d", "--"),
    "delta-reading-joint": ("#56B4E9", "8", "--"),
    "dense-reading": ("#CC79A7", ">", "-."),
    "shuffled-questions": ("#777777", "N", ":"),
    "shuffled-groups-reading": ("#777777", "H", ":"),
    "random-dictionary": ("#777777", "Y", ":"),
    "random-read-latents": ("#777777", "V", ":"),
    "words": ("#009E73", "*", "-"),
    "words+direct": ("#009E73", "P", "-."),
    "embedding": ("#009E73", "<", "--"),
    "embedding+direct": ("#009E73", "J", "-."),
    "direct": ("#56B4E9", "h", ":"),
    "direct-dense": ("#CC79A7", "1", ":"),
    "direct-dense-last": ("#CC79A7", "2", ":"),
    "direct-shuffled": ("#777777", "3", ":"),
    "calibrated": ("#777777", "T", ":"),
    "calibrated-shared": ("#777777", "C", ":"),
    "unembedding": ("#777777", "U", ":"),
    "probe": ("#777777", "B", ":"),
    "diff-means": ("#777777", "M", ":"),
    "prompt-best": ("#777777", "A", ":"),
    "prompt-qa": ("#777777", "Q", ":"),
    "prompt-bio": ("#777777", "S", ":"),
    "prompt-portray": ("#777777", "I", ":"),
    "few-shot": ("#777777", "E", ":"),
    "lora": ("#777777", "L", ":"),
    "shuffled-groups": ("#777777", "G", ":"),
    "permuted-decoder": ("#777777", "K", ":"),
    "random-latents": ("#777777", "R", ":"),
    "sign-flip": ("#777777", "F", ":"),
    "everyone": ("#000000", "4", ":"),
    "floor": ("#000000", "|", ":"),
}
SHAPES = frozenset("+o_|spvD^Xd8>*P<h1234")  # of these; any other is drawn as a letter


STYLE = {
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "figure.titlesize": 9,
    "figure.labelsize": 9,
    "figure.constrained_layout.w_pad": 0.06,
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
        inline = InlineBackend.instance(parent=shell)
        # as wide as it was made, and as `save_svg` writes it; read when the format is set
        inline.print_figure_kwargs.update(bbox_inches=None)  # pyright: ignore[reportCallIssue, reportArgumentType]
        inline.figure_formats = {"svg"}


class PlainNumbers(LogFormatterSciNotation):
    """The ticks that matplotlib labels, but as 0.001 where it writes mathtext."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def log_scale(axis: XAxis | YAxis, base: int = 10) -> None:
    """A logarithmic axis; its own labels would be mathtext, which the style takes for plain text."""
    (axis.axes.set_xscale if isinstance(axis, XAxis) else axis.axes.set_yscale)("log", base=base)
    axis.set_major_formatter(PlainNumbers(base))
    axis.set_minor_formatter(PlainNumbers(base, labelOnlyBase=False))


def look(method: str, joined: bool = False, size: float = 5.0) -> dict[str, Any]:
    """How `errorbar` and `plot` draw a method, its points joined by a line or not; grey dots if it has no mark."""
    colour, marker, line = MARKS.get(method, ("#777777", ".", ":"))
    drawn = {"color": colour, "linestyle": line if joined else "none", "linewidth": 1.2}
    if marker in SHAPES | {"."}:
        return drawn | {"marker": marker, "markersize": size}
    with plt.rc_context({"text.parse_math": True}):
        return drawn | {"marker": MarkerStyle(f"${marker}$"), "markersize": 1.6 * size, "markeredgewidth": 0}


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


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Rows 0, 1, ... from the top, each with its name above it: beside the panel a phone has no room.

    A name may run on over the panel to the right.
    """
    axes.set_ylim(len(names) - 0.5, -0.9)
    axes.set_yticks(range(len(names)), [])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_zorder(1)
    over = {"boxstyle": "square,pad=0.05", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
    for place, name in enumerate(names):
        above = {"textcoords": "offset points", "va": "bottom", "annotation_clip": False, "bbox": over}
        axes.annotate(name, (0, place), (1, 4), xycoords=("axes fraction", "data"), **above).set_in_layout(False)


def label_lines(axes: Axes, wrap: int = 16) -> None:
    """The name of each labelled line beside its end, in its colour; names that would cover each other move apart."""
    axes.autoscale_view()
    spec = axes.get_subplotspec()
    rows, found = spec.get_gridspec().nrows if spec else 1, []
    for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
        line: Any = handle[0] if isinstance(handle, ErrorbarContainer) else handle
        ends = np.column_stack([np.asarray(data, float) for data in line.get_data()])
        end = axes.transAxes.inverted().transform(line.get_transform().transform(ends[np.isfinite(ends).all(1)][-1]))
        found.append((float(end[1]), textwrap.fill(name, wrap), to_rgb(line.get_color())))
    found.sort()
    figure = axes.get_figure(root=True)
    assert figure is not None
    line_height = 11 / 72 / (0.8 * figure.get_figheight() / rows)  # of the panel, about
    heights = [line_height * (name.count("\n") + 1) for _, name, _ in found]
    for height, (_, name, colour) in zip(apart([end for end, *_ in found], heights), found, strict=True):
        dark = tuple(0.75 * part for part in colour)
        axes.annotate(name, (1.02, height), xycoords="axes fraction", color=dark, va="center", annotation_clip=False)


def apart(places: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Middles of things of these sizes that do not overlap, in order, as near to `places` as can be (least squares)."""
    before = np.concatenate([[0.0], np.cumsum((np.array(sizes[:-1]) + sizes[1:]) / 2)])[: len(places)]
    blocks: list[list[float]] = []  # those that touch, each as far from its place as their mean
    for place in np.array(places) - before:
        blocks.append([float(place)])
        while len(blocks) > 1 and np.mean(blocks[-1]) < np.mean(blocks[-2]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    return [float(np.mean(block)) + at for at, block in zip(before, (b for b in blocks for _ in b), strict=True)]


def nothing(said: str) -> Figure:
    """In place of a figure for which there is no table."""
    figure, axes = plt.subplots(figsize=(WIDTH, 1))
    axes.text(0.5, 0.5, said, ha="center", va="center", transform=axes.transAxes)
    axes.set_axis_off()
    return figure


def save_svg(figure: Figure, path: str | Path) -> None:
    """Write the figure as SVG; equal figures give equal bytes."""
    figure.draw_without_rendering()  # once before, as ticks may change when their panels become narrower
    with replacing(path) as side:
        figure.savefig(side, format="svg", metadata={"Date": None})


def group_labels(survey: Survey) -> list[str]:
    """'attribute: group', in the survey's order."""
    return [f"{a}: {g}" for a, g in zip(survey.attributes, survey.groups, strict=True)]


def matrix(
    values: Float[np.ndarray, "row column"], names: Sequence[str], label: str, centre: float | None = None
) -> Figure:
    """A square heatmap of one number per pair of groups; columns have the numbers of the rows."""
    import seaborn  # it loads scipy.stats, which no other figure needs

    figure, axes = plt.subplots(figsize=(WIDTH, 0.125 * len(names) + 2))
    seaborn.heatmap(
        values,
        ax=axes,
        cmap="cividis" if centre is None else "PuOr",
        center=centre,
        xticklabels=[str(place) for place in range(1, len(names) + 1)],
        yticklabels=[f"{name} {place}" for place, name in enumerate(names, 1)],
        cbar_kws={"label": label, "location": "bottom", "aspect": 40},
    )
    axes.grid(False)
    axes.xaxis.tick_top()
    axes.tick_params(axis="x", rotation=90, length=0, pad=1)
    axes.tick_params(axis="y", length=0)
    return figure
