"""Specialised SAEs beside the book's: perplexity, gains of offsets, tokens, decoder rows, probes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opinion_sae.book.figures.style import ROW, WIDTH, legend_above, log_scale, name_rows, nothing
from opinion_sae.book.specialised import FEATURES, SHOWN, STRATEGY, called
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
    ("tuned", "dense", 1e9): ("#CC79A7", "v", ":"),
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
    """Perplexity with an SAE spliced in against latents a token: on held-out questions and text, those trained on and
    those from scratch, beside the book's; means over seeds with 95 % intervals."""
    starts = [start for start in ("tuned", "scratch") if start in set(quality["start"])]
    if not starts:
        return nothing("the study has not been run")
    shown = [(start, place) for place in ("questions", "text") for start in starts]
    figure, panels = plt.subplots(len(shown), 1, figsize=(WIDTH, 2.6 * len(shown) + 0.8), squeeze=False)
    for axes, (start, place) in zip(panels[:, 0], shown, strict=True):
        l0, column = f"l0_{place}", f"perplexity_{place}"
        for number, (of, strategy) in enumerate((("general", ""), *((start, strategy) for strategy in STRATEGY))):
            part = quality[(quality["start"] == of) & (quality["strategy"] == strategy) & (quality["tilt"] == 0)]
            if part.empty:
                continue
            style = {"color": COLOURS.get(strategy, "#000000"), "marker": MARKS.get(strategy, "X"), "ms": 4}
            aside = part[l0] * 2 ** (0.08 * (number - 3))  # of the others
            name = STRATEGY.get(strategy, "the book's SAE")
            axes.errorbar(aside, part[column], _reach(part, column), lw=1, capsize=1.5, label=name, **style)
        plain = quality.loc[quality["start"] == "model", column].iloc[0]
        axes.axhline(plain, color="black", linestyle=":", linewidth=1)
        axes.set_ylabel(f"{place}, {'trained on' if start == 'tuned' else start}")
        log_scale(axes.xaxis, 2)
        log_scale(axes.yaxis)
    legend_above(panels[0, 0])
    panels[-1, 0].set_xlabel("L0 (latents a token)")
    return figure


def _reach(part: pd.DataFrame, column: str) -> list[pd.Series]:
    """How far an interval goes to either side; 0 where there is none."""
    low, high = part[column] - part[f"{column}_low"], part[f"{column}_high"] - part[column]
    return [low.fillna(0), high.fillna(0)]


def gains(gaps: pd.DataFrame) -> Figure:
    """Above, a row per SAE: gap correlation less that with the book's. Below: gap correlation against the latents that
    an axis may read, furthest to the right all of them, of the SAEs of which more than two numbers are known. With 95 %
    intervals over questions and seeds."""
    own = gaps[(gaps["start"] != "general") & gaps["latents"].isin(SHOWN)]
    if own.empty:
        return nothing("the study has not been run")
    names = [called(*kind) for kind in own[[*SAE]].drop_duplicates().itertuples(index=False)]
    known = {kind: part for kind, part in gaps.groupby([*SAE], sort=False) if len(part) > len(SHOWN)}
    heights = [ROW * len(names) + 1.3, *([3.2] if known else [])]
    shape = {"figsize": (WIDTH, sum(heights)), "height_ratios": heights, "squeeze": False}
    figure, panels = plt.subplots(len(heights), 1, **shape)
    axes = panels[0, 0]
    for (latents, part), (marker, colour, move) in zip(
        own.groupby("latents"), (("o", "#0072B2", -0.1), ("d", "#E69F00", 0.15)), strict=False
    ):
        place = [names.index(called(*kind)) + move for kind in part[[*SAE]].itertuples(index=False)]
        label = f"{latents} latents read" if latents else "all latents read"
        style = {"fmt": marker, "color": colour, "ms": 5, "capsize": 2, "label": label}
        axes.errorbar(part["gap_r_gain"], place, xerr=_reach(part, "gap_r_gain"), **style)
    axes.axvline(0, color="black", linewidth=1)
    name_rows(axes, names)
    legend_above(axes)
    axes.set_xlabel("gain in gap correlation over the book's SAE")
    axes.locator_params(axis="x", nbins=5)
    if known:
        _needed(panels[1, 0], known)
    return figure


def _needed(axes: Axes, known: Mapping[Any, pd.DataFrame]) -> None:
    counts = sorted({count for part in known.values() for count in part["latents"] if count})
    places = {count: number for number, count in enumerate([*counts, 0])}
    for number, (kind, part) in enumerate(known.items()):
        colour, marker, line = KINDS.get(kind, ("#777777", ".", "-"))
        own = part.assign(at=part["latents"].map(places)).sort_values("at")
        style = {"color": colour, "marker": marker, "ls": line, "ms": 4, "lw": 1.2, "capsize": 2}
        axes.errorbar(own["at"] + 0.1 * (number - 1), own["gap_r"], _reach(own, "gap_r"), label=called(*kind), **style)
    axes.set_xticks(range(len(places)), [str(count) if count else "all" for count in places])
    axes.set_xlabel("latents that an axis may read")
    axes.set_ylabel("gap correlation")
    legend_above(axes, 1)


def tokens(dictionary: pd.DataFrame) -> Figure:
    """Share of tokens with a latent by frequency, unexplained variance by rank, means over seeds with 95 % intervals;
    and below, a row per SAE, over its live latents: entropy of the tokens on which one fires, its strongest firing, and
    the cosine of its decoder row with the nearest of the book's: the middle, half of the latents (thick) and four
    fifths."""
    if dictionary.empty:
        return nothing("the study has not been run")
    heads = {"covered": "times in the pool", "error": "rank by frequency"}
    below = {"entropy": "entropy over tokens (nats)", "maximum": "strongest firing"}
    below |= {"cosine": "cosine with the nearest of the book's rows"}
    shown = {name: head for name, head in below.items() if name in set(dictionary["measure"])}
    heights = [2.8, 2.8, *[ROW * len(KINDS) + 0.8] * len(shown)]
    figure, panels = plt.subplots(len(heights), 1, figsize=(WIDTH, sum(heights)), height_ratios=heights)
    for axes, (measure, head) in zip(panels[:2], heads.items(), strict=True):
        for number, (kind, own) in enumerate(_of_kinds(dictionary[dictionary["measure"] == measure])):
            colour, marker, line = KINDS[kind]
            aside = [at + 0.06 * (number - 2) for at in range(len(own))]
            style = {"color": colour, "marker": marker, "ls": line, "ms": 4, "lw": 1.2, "capsize": 1.5}
            axes.errorbar(aside, own["value"], _reach(own, "value"), label=called(*kind), **style)
            axes.set_xticks(range(len(own)), [name.removeprefix("from ") for name in own["place"]])
        axes.set_xlabel(f"{head}, from")
    panels[0].set_ylabel("share with a latent")
    panels[1].set_ylabel("variance unexplained")
    legend_above(panels[0], 1)
    for axes, (measure, head) in zip(panels[2:], shown.items(), strict=True):
        _spread(axes, dictionary[dictionary["measure"] == measure])
        axes.set_xlabel(head)
    return figure


def _spread(axes: Axes, part: pd.DataFrame) -> None:
    rows = _of_kinds(part)
    for place, (kind, own) in enumerate(rows):
        at = dict(zip(own["place"], own["value"], strict=True))
        for low, high, width in (("0.1", "0.9", 1.0), ("0.25", "0.75", 3.0)):
            if {low, high} <= at.keys():
                axes.plot([at[low], at[high]], [place, place], color=KINDS[kind][0], lw=width)
        axes.plot(at["0.5"], place, KINDS[kind][1], color=KINDS[kind][0], ms=6, mec="white")
    name_rows(axes, [called(*kind) for kind, _ in rows])


def _of_kinds(part: pd.DataFrame) -> list[tuple[tuple[str, str, float], pd.DataFrame]]:
    """The rows of each of `KINDS` that has some."""
    found = [(kind, part[(part[[*SAE]] == pd.Series(dict(zip(SAE, kind, strict=True)))).all(axis=1)]) for kind in KINDS]
    return [(kind, own) for kind, own in found if len(own)]


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
