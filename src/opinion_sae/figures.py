"""Every figure of the book, in one style; each function returns a matplotlib Figure.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; each series also has a marker or line style of
its own, so that the figures read in black and white.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
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
    "delta-joint": ("Δ, SAE trained with it", "#D55E00", "v", "-"),
    "dense": ("dense vector", "#CC79A7", "^", "-."),
    "position-prior": ("people's place preference", "#777777", "<", ":"),
    "calibrated": ("temperature and place bias", "#777777", ">", ":"),
    "unembedding": ("option rows only", "#777777", "d", ":"),
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


def group_distance(survey: Survey, table: pd.DataFrame) -> Figure:
    """Each group's mean total variation from all respondents, with the distance that sampling alone would give."""
    figure, axes = plt.subplots(figsize=(6.5, 0.26 * len(table) + 1))
    y = np.arange(len(table))
    error = [table["tv"] - table["tv_low"], table["tv_high"] - table["tv"]]
    axes.errorbar(table["tv"], y, xerr=error, fmt="o", color="#0072B2", capsize=2, label="group against everyone")
    axes.plot(table["floor"], y, "|", color="#000000", markersize=9, label="expected from sampling alone")
    labels = [f"{label} (n={n:,.0f})" for label, n in zip(group_labels(survey), table["n"], strict=True)]
    axes.set_yticks(y, labels)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel(f"mean total variation over {table['questions'].max()} questions (0 to 1)")
    axes.legend(loc="lower right")
    return figure


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


def position_shares(table: pd.DataFrame) -> Figure:
    """Mean probability by letter for the model and by the same places for people, per number of options."""
    counts = sorted(table["options"].unique())
    figure, panels = plt.subplots(
        1, len(counts), figsize=(2.3 * len(counts) + 0.6, 2.8), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, count in zip(panels[0], counts, strict=True):
        part = table[table["options"] == count]
        x = np.arange(count)
        axes.bar(x - 0.2, part["model"], 0.4, color="#0072B2", label="model")
        axes.bar(x + 0.2, part["people"], 0.4, color="#E69F00", hatch="//", edgecolor="white", label="people")
        axes.axhline(1 / count, color="black", linewidth=0.8, linestyle=":")
        axes.set_xticks(x, list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:count]))
        axes.set_title(f"{count} options (n={part['questions'].iloc[0]})", fontsize=9)
        axes.set_xlabel("letter")
    panels[0, 0].set_ylabel("mean probability or share")
    panels[0, -1].legend()
    return figure


def sae_training(history: pd.DataFrame) -> Figure:
    """Loss, explained variance, L0 and dead latents against steps."""
    figure, panels = plt.subplots(1, 3, figsize=(8, 2.7), layout="constrained")
    if history.empty:
        for axes in panels:
            axes.text(0.5, 0.5, "SAE loaded,\nnot trained here", ha="center", va="center", transform=axes.transAxes)
        return figure
    step = history["step"]
    panels[0].plot(step, history["fvu"], color="#0072B2", label="training batch (loss)")
    panels[0].plot(step, history["validation_fvu"], "--", color="#E69F00", label="held-out text")
    panels[0].set_yscale("log")
    panels[0].set_ylabel("fraction of variance unexplained")
    panels[0].legend()
    panels[1].plot(step, 1 - history["fvu"], color="#0072B2")
    panels[1].plot(step, 1 - history["validation_fvu"], "--", color="#E69F00")
    panels[1].set_ylabel("explained variance")
    panels[2].plot(step, 100 * history["dead"], color="#000000", label="dead latents (%)")
    panels[2].plot(step, history["l0"], ":", color="#009E73", label="L0 (latents per token)")
    panels[2].set_ylim(bottom=-1)
    panels[2].set_ylabel("% or latents")
    panels[2].legend()
    for axes in panels:
        axes.set_xlabel("training step")
    return figure


def delta_training(history: pd.DataFrame) -> Figure:
    """The terms of the loss of one method against epochs: mean over folds, with the range; stages side by side."""
    stages = list(dict.fromkeys(history["stage"]))
    terms = [
        (("train_kl", "validation_kl"), "KL (nats)"),
        (("l1_shared", "l1_deviation"), "L1 terms (nats)"),
        (("latents_shared", "latents_deviation"), "latents touched"),
    ]
    names = {"train_kl": "training", "validation_kl": "validation", "l1_shared": "shared", "l1_deviation": "group"}
    names |= {"latents_shared": "shared", "latents_deviation": "group (mean)"}
    figure, panels = plt.subplots(len(stages), 3, figsize=(8, 2.4 * len(stages)), squeeze=False, layout="constrained")
    for row, stage in zip(panels, stages, strict=True):
        part = history[history["stage"] == stage].groupby("epoch")
        for axes, (columns, label) in zip(row, terms, strict=True):
            for column, colour, line in zip(columns, ("#0072B2", "#E69F00"), ("-", "--"), strict=True):
                middle = part[column].mean()
                axes.plot(middle.index, middle, line, color=colour, label=names[column])
                axes.fill_between(middle.index, part[column].min(), part[column].max(), color=colour, alpha=0.2)
            axes.set_ylabel(label)
            axes.set_xlabel("epoch")
            axes.legend()
        row[0].set_title(f"{stage} stage", loc="left", fontsize=9)
    return figure


def alignment(table: pd.DataFrame, floor: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Headline: mean KL and alignment of each method over all groups, with 95 % intervals over questions."""
    part = table[table["group"] == "all"].set_index("method").loc[list(methods)]
    figure, panels = plt.subplots(1, 2, figsize=(8, 0.36 * len(part) + 1.1), sharey=True, layout="constrained")
    y = np.arange(len(part))
    for axes, measure in zip(panels, ("kl", "alignment"), strict=True):
        for place, (method, row) in zip(y, part.iterrows(), strict=True):
            _, colour, marker, _ = METHODS[method]
            error = [[row[measure] - row[f"{measure}_low"]], [row[f"{measure}_high"] - row[measure]]]
            axes.errorbar(row[measure], place, xerr=error, fmt=marker, color=colour, capsize=3)
        axes.axvline(floor.set_index("group").loc["all", measure], color="#000000", linestyle=":", linewidth=1)
    panels[0].set_yticks(y, [METHODS[method][0] for method in part.index])
    panels[0].invert_yaxis()
    panels[0].set_xlabel("mean KL, people to model (nats); lower is closer")
    panels[1].set_xlabel("alignment, ordinal questions; higher is closer")
    panels[0].set_title(
        f"{part['n_questions'].iloc[0]} held-out questions; dotted: noise floor", loc="left", fontsize=9
    )
    return figure


def alignment_by_group(survey: Survey, table: pd.DataFrame, floor: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Mean KL per group and method with 95 % intervals, and the group's noise floor."""
    figure, axes = plt.subplots(figsize=(7, 0.42 * len(survey.groups) + 1.2))
    y = np.arange(len(survey.groups))
    for n, method in enumerate(methods):
        part = table[table["method"] == method].set_index("group").loc[list(survey.groups)]
        label, colour, marker, _ = METHODS[method]
        offset = 0.6 * (n / max(1, len(methods) - 1) - 0.5)
        error = [part["kl"] - part["kl_low"], part["kl_high"] - part["kl"]]
        axes.errorbar(part["kl"], y + offset, xerr=error, fmt=marker, color=colour, markersize=4, lw=1, label=label)
    axes.plot(floor.set_index("group").loc[list(survey.groups), "kl"], y, "|", color="black", label="noise floor")
    counts = table[table["method"] == methods[0]].set_index("group").loc[list(survey.groups), "n_questions"]
    axes.set_yticks(y, [f"{name} ({n} q.)" for name, n in zip(group_labels(survey), counts, strict=True)])
    axes.invert_yaxis()
    axes.set_xlabel("mean KL, people to model, on held-out questions (nats)")
    figure.legend(loc="outside upper center", ncols=3)
    return figure


def differences(survey: Survey, table: pd.DataFrame, method: str, reference: str) -> Figure:
    """Paired difference in KL of a method to its reference, per group, with 95 % intervals."""
    part = table[(table["method"] == method) & (table["reference"] == reference)].set_index("group")
    names = ["all", *survey.groups]
    part = part.loc[names]
    figure, axes = plt.subplots(figsize=(6.5, 0.26 * len(names) + 1))
    y = np.arange(len(names))
    error = [part["kl_difference"] - part["low"], part["high"] - part["kl_difference"]]
    axes.errorbar(part["kl_difference"], y, xerr=error, fmt="o", color="#0072B2", capsize=2)
    axes.axvline(0, color="black", linewidth=1)
    labels = ["mean over groups", *group_labels(survey)]
    axes.set_yticks(y, [f"{label} ({n} q.)" for label, n in zip(labels, part["n_questions"], strict=True)])
    axes.invert_yaxis()
    axes.set_xlabel(f"KL of {METHODS[method][0]} minus KL of {METHODS[reference][0]} (nats)")
    return figure


def latent_heatmap(
    survey: Survey, table: pd.DataFrame, offsets: Float[np.ndarray, "group latent"], count: int
) -> Figure:
    """Offsets of the latents that appear most among the groups' strongest, groups against latents."""
    order = table.groupby("latent")["delta"].apply(lambda d: d.abs().sum()).sort_values(ascending=False)
    latents = order.index[:count].tolist()
    labels = table.drop_duplicates("latent").set_index("latent")["label"]
    figure, axes = plt.subplots(figsize=(0.36 * len(latents) + 3, 0.26 * len(survey.groups) + 2.4))
    sns.heatmap(
        offsets[:, latents],
        ax=axes,
        cmap="PuOr",
        center=0,
        yticklabels=group_labels(survey),
        xticklabels=[f"{latent}: {labels[latent]}"[:34] for latent in latents],
        cbar_kws={"label": "offset (latent units)", "shrink": 0.7},
    )
    axes.grid(False)
    axes.set_xlabel("latent and its label")
    axes.tick_params(axis="x", rotation=90)
    return figure


def joint_training(history: pd.DataFrame) -> Figure:
    """Every term of the joint loss against epochs: mean over folds with the range."""
    panels = [
        (("train_kl", "validation_kl"), ("training", "validation"), "KL (nats)"),
        (
            ("reconstruction", "validation_reconstruction"),
            ("training tokens", "held-out tokens"),
            "unexplained variance",
        ),
        (("sparsity",), ("training tokens",), "|z|₁, relative to start"),
        (("l1_shared", "l1_deviation"), ("shared", "group"), "L1 terms (nats)"),
    ]
    figure, row = plt.subplots(1, 4, figsize=(10, 2.6), layout="constrained")
    epochs = history[history["stage"] == "joint"].groupby("epoch")
    for axes, (columns, labels, title) in zip(row, panels, strict=True):
        for column, label, colour, line in zip(columns, labels, ("#0072B2", "#E69F00"), ("-", "--"), strict=False):
            middle = epochs[column].mean()
            axes.plot(middle.index, middle, line, color=colour, label=label)
            axes.fill_between(middle.index, epochs[column].min(), epochs[column].max(), color=colour, alpha=0.2)
        axes.set_ylabel(title)
        axes.set_xlabel("epoch")
        axes.legend()
    return figure


def latent_path(table: pd.DataFrame, shared: float, unsteered: float, questions: int) -> Figure:
    """Held-out KL and alignment against the number of latents touched per group, beside the dense vector."""
    styles = {
        "refitted": ("strongest latents, refitted", "#0072B2", "o", "-"),
        "cut": ("strongest latents, only cut", "#56B4E9", "s", "--"),
        "dense": ("dense vector of the same norm", "#CC79A7", "^", "-."),
    }
    part = table[table["group"] == "all"]
    figure, panels = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for axes, measure, label in zip(panels, ("kl", "alignment"), ("mean KL (nats)", "alignment"), strict=True):
        for n, (method, (name, colour, marker, line)) in enumerate(styles.items()):
            rows = part[part["method"] == method].sort_values("latents")
            error = [rows[measure] - rows[f"{measure}_low"], rows[f"{measure}_high"] - rows[measure]]
            place = rows["latents"] * (1 + 0.05 * (n - 1))  # side by side, so that the intervals can be told apart
            axes.errorbar(place, rows[measure], error, fmt=marker, ls=line, color=colour, capsize=2, ms=4, label=name)
        axes.set_xscale("log", base=2)
        axes.set_xlabel("latents touched per group (mean)")
        axes.set_ylabel(f"{label}, {questions} held-out questions")
    panels[0].axhline(unsteered, color="black", lw=1, ls=":", label="unsteered")
    panels[0].axhline(shared, color="#E69F00", lw=1, ls="--", label="Δ shared only")
    panels[0].legend(fontsize=7)
    return figure


def latent_path_by_group(table: pd.DataFrame, groups: Sequence[str]) -> Figure:
    """Held-out KL against latents touched, one small panel per group; the refitted path with its intervals."""
    columns = 6
    rows = -(-len(groups) // columns)
    figure, panels = plt.subplots(
        rows, columns, figsize=(9, 1.5 * rows + 0.4), sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for axes in panels.flat[len(groups) :]:
        axes.set_axis_off()
    for axes, group in zip(panels.flat, groups, strict=False):
        part = table[(table["group"] == group) & (table["method"] == "refitted")].sort_values("latents")
        axes.plot(part["latents"], part["kl"], "o-", color="#0072B2", ms=3)
        axes.fill_between(part["latents"], part["kl_low"], part["kl_high"], color="#0072B2", alpha=0.2)
        axes.set_xscale("log", base=2)
        axes.set_title(group, fontsize=8)
    figure.supxlabel("latents touched")
    figure.supylabel("held-out KL (nats)")
    return figure


def tilt(table: pd.DataFrame) -> Figure:
    """Mean and worst group against the tilt t, in KL and alignment, with 95 % intervals."""
    figure, panels = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
    places = {t: n for n, t in enumerate(sorted(table["t"].unique()))}
    styles = [("mean over groups", "#0072B2", "o", "-"), ("worst-off group", "#D55E00", "s", "--")]
    for axes, measure, label in zip(panels, ("kl", "alignment"), ("KL (nats)", "alignment"), strict=True):
        for which, colour, marker, line in styles:
            rows = table[(table["measure"] == measure) & (table["which"] == which)].sort_values("t")
            error = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
            x = rows["t"].map(places)
            axes.errorbar(x, rows["value"], error, fmt=marker, ls=line, color=colour, capsize=2, ms=4, label=which)
        axes.set_xticks(list(places.values()), [f"{t:g}" for t in places])
        axes.set_xlabel("tilt t (0: plain mean)")
        axes.set_ylabel(f"held-out {label}")
    panels[0].legend()
    return figure
