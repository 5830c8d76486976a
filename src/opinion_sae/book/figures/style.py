"""What all figures share: the style, the methods' marks, labels and files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from jaxtyping import Float
from matplotlib.figure import Figure

from opinion_sae.artifacts import replacing
from opinion_sae.survey import Survey

# method: label, colour, marker, line style
METHODS = {
    "unsteered": ("unsteered", "#000000", "X", "-"),
    "uniform": ("uniform", "#999999", "P", ":"),
    "shared-delta": ("Δ shared only", "#E69F00", "s", "--"),
    "delta": ("Δ shared + group", "#0072B2", "o", "-"),
    "delta-selected": ("Δ, doses and γ chosen", "#56B4E9", "D", "--"),
    "delta-joint": ("Δ, SAE trained with it", "#D55E00", "v", "-"),
    "dense": ("dense vector", "#CC79A7", "^", "-."),
    "position-prior": ("people's place preference", "#777777", "<", ":"),
    "calibrated": ("temperature and place bias", "#777777", ">", ":"),
    "calibrated-shared": ("the same, one for all groups", "#777777", "p", ":"),
    "unembedding": ("option rows only", "#777777", "d", ":"),
    "probe": ("linear probe", "#777777", "*", ":"),
    "diff-means": ("difference of persona means", "#777777", "h", ":"),
    "prompt-best": ("persona prompt, best style", "#777777", "H", ":"),
    "few-shot": ("examples in the prompt", "#777777", "8", ":"),
    "lora": ("LoRA, group named", "#777777", "D", ":"),
    "shuffled-groups": ("Δ, group labels shuffled", "#777777", "X", ":"),
    "permuted-decoder": ("Δ shared, decoder permuted", "#777777", "P", ":"),
    "random-latents": ("Δ on random latents", "#777777", "p", ":"),
    "sign-flip": ("Δ with its sign flipped", "#777777", "h", ":"),
    "everyone": ("all respondents' answers", "#009E73", "D", ":"),
    "floor": ("noise floor", "#56B4E9", "|", ":"),
}


def rank(method: str) -> tuple[int, str]:
    """Order of the methods in tables and figures: as in METHODS, then by name."""
    names = list(METHODS)
    return (names.index(method) if method in names else len(names), method)


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
    "svg.fonttype": "none",
}
plt.rcParams.update(STYLE)


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
