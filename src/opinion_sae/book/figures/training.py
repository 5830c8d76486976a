"""Training curves of the SAE, of Δ, and of both together."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from opinion_sae.book.figures.style import WIDTH, label_lines, legend_above, log_scale, nothing


def sae_training(history: pd.DataFrame) -> Figure:
    """Loss, explained variance, L0 and dead latents against steps."""
    if history.empty:
        return nothing("SAE loaded, not trained here")
    figure, panels = plt.subplots(3, 1, figsize=(WIDTH, 5.6), sharex=True)
    step = history["step"]
    panels[0].plot(step, history["fvu"], color="#0072B2", label="training batch (loss)")
    panels[0].plot(step, history["validation_fvu"], "--", color="#E69F00", label="held-out text")
    log_scale(panels[0].yaxis)
    panels[0].set_ylabel("variance unexplained")
    legend_above(panels[0], 1)
    panels[1].plot(step, 1 - history["fvu"], color="#0072B2")
    panels[1].plot(step, 1 - history["validation_fvu"], "--", color="#E69F00")
    panels[1].set_ylabel("explained variance")
    panels[2].plot(step, 100 * history["dead"], color="#000000", label="dead latents (%)")
    panels[2].plot(step, history["l0"], ":", color="#009E73", label="L0 (latents per token)")
    panels[2].set_ylim(bottom=-1)
    panels[2].set_ylabel("% or latents")
    legend_above(panels[2], 1)
    panels[2].set_xlabel("training step")
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
    figure, panels = plt.subplots(3, len(stages), figsize=(WIDTH, 6), squeeze=False, sharex="col")
    for column_of_panels, stage in zip(panels.T, stages, strict=True):
        part = history[history["stage"] == stage].groupby("epoch")
        for axes, (columns, label) in zip(column_of_panels, terms, strict=True):
            for column, colour, line in zip(columns, ("#0072B2", "#E69F00"), ("-", "--"), strict=True):
                middle = part[column].mean()
                axes.plot(middle.index, middle, line, color=colour, label=names[column])
                axes.fill_between(middle.index, part[column].min(), part[column].max(), color=colour, alpha=0.2)
            axes.set_ylabel(label if axes in panels[:, 0] else "")
            legend_above(axes, 1)
        column_of_panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        column_of_panels[-1].set_xlabel(f"epoch, {stage} stage")
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
        (("sparsity", "validation_sparsity"), ("training tokens", "held-out tokens"), "|z|₁ / at start"),
        (("l1_shared", "l1_deviation"), ("shared", "group"), "L1 terms (nats)"),
    ]
    figure, row = plt.subplots(4, 1, figsize=(WIDTH, 6.6), sharex=True)
    epochs = history[history["stage"] == "joint"].groupby("epoch")
    for axes, (columns, labels, title) in zip(row.flat, panels, strict=True):
        for column, label, colour, line in zip(columns, labels, ("#0072B2", "#E69F00"), ("-", "--"), strict=False):
            middle = epochs[column].mean()
            axes.plot(middle.index, middle, line, color=colour, label=label)
            axes.fill_between(middle.index, epochs[column].min(), epochs[column].max(), color=colour, alpha=0.2)
        axes.set_ylabel(title)
        label_lines(axes)
    row[-1].set_xlabel("epoch")
    return figure
