"""Specialised SAEs beside the book's: perplexity, gains of offsets, tokens, decoder rows, probes."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from opinion_sae.book.figures.style import ROW, WIDTH, legend_above, log_scale, name_rows, nothing
from opinion_sae.book.specialised import FEATURES, STRATEGY, called
from opinion_sae.book.study_tables import SAE

COLOURS = {
    "dense": "#0072B2",
    "random": "#777777",
    "bm25": "#009E73",
    "tracin": "#CC79A7",
    "seed": "#E69F00",
    "full": "#56B4E9",
}
MARKS = {"dense": "o", "random": "s", "bm25": "^", "tracin": "v", "seed": "D", "full": "P"}
KINDS = {  # of the figures that show a few SAEs only: colour, marker, line
    ("general", "", 0.0): ("#000000", "X", ":"),
    ("tuned", "dense", 0.0): ("#0072B2", "o", "-"),
    ("tuned", "dense", 500.0): ("#D55E00", "^", "--"),
    ("scratch", "dense", 0.0): ("#009E73", "s", "-."),
}
PROBES = {
    "stream": ("#777777", "D", ":"),
    "general": ("#000000", "X", "-"),
    "tuned": ("#0072B2", "o", "-"),
    "scratch": ("#009E73", "s", "-."),
    "narrow": ("#E69F00", "^", "--"),
}


def perplexity(quality: pd.DataFrame) -> Figure:
    """Perplexity with an SAE spliced in against latents a token, on held-out questions and text; those trained on."""
    if quality.empty:
        return nothing("the study has not been run")
    figure, panels = plt.subplots(2, 1, figsize=(WIDTH, 6.4))
    for axes, place in zip(panels, ("questions", "text"), strict=True):
        l0, column = f"l0_{place}", f"perplexity_{place}"
        for start, strategy in (("general", ""), *(("tuned", strategy) for strategy in STRATEGY)):
            part = quality[(quality["start"] == start) & (quality["strategy"] == strategy) & (quality["tilt"] == 0)]
            if len(part):
                colour, marker = COLOURS.get(strategy, "#000000"), MARKS.get(strategy, "X")
                error = [part[column] - part[f"{column}_low"], part[f"{column}_high"] - part[column]]
                name = STRATEGY.get(strategy, "the book's SAE")
                axes.errorbar(part[l0], part[column], error, color=colour, marker=marker, ms=4, lw=1.2, label=name)
        plain = quality.loc[quality["start"] == "model", column].iloc[0]
        axes.axhline(plain, color="black", linestyle=":", linewidth=1)
        axes.set_ylabel(f"perplexity, {place}")
        log_scale(axes.xaxis, 2)
        log_scale(axes.yaxis)
    legend_above(panels[0])
    panels[1].set_xlabel("L0 (latents a token)")
    return figure


def gains(gaps: pd.DataFrame) -> Figure:
    """Gap correlation less that with the book's SAE, with 95 % intervals over questions, a row per SAE."""
    own = gaps[gaps["start"] != "general"]
    if own.empty:
        return nothing("the study has not been run")
    names = [called(*kind) for kind in own[[*SAE]].drop_duplicates().itertuples(index=False)]
    figure, axes = plt.subplots(figsize=(WIDTH, ROW * len(names) + 1.3))
    for (latents, part), (marker, colour, move) in zip(
        own.groupby("latents"), (("o", "#0072B2", -0.1), ("d", "#E69F00", 0.15)), strict=False
    ):
        place = [names.index(called(*kind)) + move for kind in part[[*SAE]].itertuples(index=False)]
        middle = part["gap_r_gain"]
        error = [middle - part["gap_r_gain_low"], part["gap_r_gain_high"] - middle]
        label = f"{latents} latents read" if latents else "all latents read"
        axes.errorbar(middle, place, xerr=error, fmt=marker, color=colour, ms=5, capsize=2, label=label)
    axes.axvline(0, color="black", linewidth=1)
    name_rows(axes, names)
    legend_above(axes)
    axes.set_xlabel("gain in gap correlation over the book's SAE")
    return figure


def tokens(dictionary: pd.DataFrame) -> Figure:
    """Share of tokens with a latent by frequency (above), and unexplained variance by rank (below)."""
    if dictionary.empty:
        return nothing("the study has not been run")
    figure, panels = plt.subplots(2, 1, figsize=(WIDTH, 5.6))
    heads = {"covered": "times in the pool", "error": "rank by frequency"}
    for axes, (measure, head) in zip(panels, heads.items(), strict=True):
        part = dictionary[dictionary["measure"] == measure]
        for kind, (colour, marker, line) in KINDS.items():
            own = part[(part[[*SAE]] == pd.Series(dict(zip(SAE, kind, strict=True)))).all(axis=1)]
            if len(own):
                place = [name.removeprefix("from ") for name in own["place"]]
                axes.plot(place, own["value"], line, marker=marker, ms=4, color=colour, label=called(*kind))
        axes.set_xlabel(f"{head}, from")
    panels[0].set_ylabel("share with a latent")
    panels[1].set_ylabel("variance unexplained")
    legend_above(panels[0], 1)
    return figure


def places(table: pd.DataFrame) -> Figure:
    """Decoder rows on the plane of the book's SAE's first two principal axes, a panel per SAE."""
    if table.empty:
        return nothing("the study has not been run")
    names = {_kind(name): name for name in table["sae"].unique()}
    kinds = [kind for kind in KINDS if kind in names]
    figure, _ = plt.subplots(len(kinds), 1, figsize=(WIDTH, 2.1 * len(kinds) + 0.5), sharex=True, sharey=True)
    for axes, kind in zip(figure.axes, kinds, strict=True):
        part = table[table["sae"] == names[kind]]
        axes.scatter(part["first"], part["second"], s=4, alpha=0.5, color=KINDS[kind][0])
        axes.set_title(called(*kind))
    figure.axes[-1].set_xlabel(f"first axis ({table['first_explained'].iloc[0]:.1%} of the variance)")
    figure.axes[0].set_ylabel(f"second ({table['second_explained'].iloc[0]:.1%})")
    return figure


def _kind(name: str) -> tuple[str, str, float]:
    """Of 'tuned-dense-t500-0'."""
    start, *rest = name.removesuffix("-0").split("-")
    return start, rest[0] if rest else "", float(rest[1].removeprefix("t")) if len(rest) > 1 else 0.0


def worst_group(accuracy: pd.DataFrame) -> Figure:
    """Accuracy in the worst of the four cells of theme and direction against the number of features taken out: those of
    the topic by score, by their cards, and as many drawn at random; the band holds the oracles."""
    if accuracy.empty:
        return nothing("the study has not been run")
    figure, panels = plt.subplots(3, 1, figsize=(WIDTH, 8.2), sharex=True, sharey=True)
    counts = sorted(accuracy["taken"].unique())
    oracle = accuracy.loc[accuracy["treatment"] == "balanced", "worst"]
    for axes, treatment in zip(panels, ("retrained", "retrained-cards", "random"), strict=True):
        axes.axhspan(oracle.min(), oracle.max(), color="#000000", alpha=0.12, lw=0)
        chosen = accuracy[accuracy["treatment"].isin(["confounded", treatment])].sort_values("taken")
        for number, (name, (colour, marker, line)) in enumerate(PROBES.items()):
            part = chosen[chosen["features"] == name]
            place = [counts.index(count) + 0.06 * (number - 2) for count in part["taken"]]
            error = [part["worst"] - part["worst_low"], part["worst_high"] - part["worst"]]
            style = {"fmt": marker, "ls": line, "color": colour, "ms": 4, "lw": 1.2, "capsize": 2}
            if len(part):
                axes.errorbar(place, part["worst"], error, label=FEATURES[name], **style)
        axes.set_xticks(range(len(counts)), [str(count) for count in counts])
    for axes, which in zip(panels, ("by score", "by cards", "at random"), strict=True):
        axes.set_ylabel(f"worst cell, {which}")
    panels[-1].set_xlabel("features taken out")
    legend_above(panels[0], 1)
    return figure
