"""How few latents an offset needs, read or touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from opinion_sae.book.figures.style import MARKS, WIDTH, label_lines, log_scale, look, reference_line
from opinion_sae.score.names import label as name_of

FITS = {  # of `removal.path_table`: colour, marker, line style
    "refitted": MARKS["delta-reading"],
    "cut": MARKS["delta-reading-64"],
}
SAID = {"refitted": "refitted", "cut": "only cut"}


def reading_path(table: pd.DataFrame) -> Figure:
    """Gap correlation and KL from toplines against the latents read by an axis, with 95 % intervals: cut and refitted;
    both end at the offsets as they were fitted. To the right the share of what reading any number gains."""
    figure, panels = plt.subplots(2, 1, figsize=(WIDTH, 5), sharex=True)
    places = {latents: n for n, latents in enumerate(dict.fromkeys(table["latents"]))}
    for axes, measure, name in zip(panels, ("gap_r", "kl"), ("correlation of gaps", "mean KL (nats)"), strict=True):
        for shift, (fit, (colour, marker, line)) in enumerate(FITS.items()):
            rows = table[table["fit"].isin([fit, "as fitted"])]
            value = rows[measure].to_numpy()
            error = np.nan_to_num([value - rows[f"{measure}_low"], rows[f"{measure}_high"] - value]).clip(0)
            look = {"marker": marker, "ls": line, "color": colour, "capsize": 2, "ms": 4}
            axes.errorbar(rows["latents"].map(places) + 0.1 * shift, value, error, **look)
        axes.set_ylabel(name)
        name_fits(axes, table, measure, places)
        share_of_gain(axes, table, measure)
    panels[1].set_xticks(list(places.values()), list(places))
    panels[1].set_xlabel("latents read by an axis")
    return figure


def name_fits(axes: Axes, table: pd.DataFrame, measure: str, places: Mapping[str, int]) -> None:
    """The name of either line where they are furthest apart, since they end together: one above its interval there, the
    other below."""
    rows = {(row["fit"], row["latents"]): row for row in table.to_dict("records") if not pd.isna(row[measure])}
    known = [latents for latents in places if all((fit, latents) in rows for fit in FITS)]
    apart = {latents: rows["refitted", latents][measure] - rows["cut", latents][measure] for latents in known}
    if not apart:
        return
    at = max(apart, key=lambda latents: abs(apart[latents]))
    for shift, (fit, (colour, *_)) in enumerate(FITS.items()):
        row, above = rows[fit, at], (fit == "refitted") == bool(apart[at] >= 0)
        end = row[f"{measure}_{'high' if above else 'low'}"]
        place = places[at] + 0.1 * shift, row[measure] if pd.isna(end) else end
        dark = tuple(0.75 * part for part in to_rgb(colour))
        look = {"color": dark, "ha": "center", "va": "bottom" if above else "top", "gid": f"{measure}-of-{fit}"}
        axes.annotate(SAID[fit], place, (0, 3 if above else -3), textcoords="offset points", **look)
    axes.margins(y=0.12)


def share_of_gain(axes: Axes, table: pd.DataFrame, measure: str) -> None:
    """A second scale to the right: 0% without any latent, 100% with any number; none where that gains nothing."""
    value = table.set_index(["latents", "fit"])[measure]
    if not {("0", "cut"), ("all", "as fitted")} <= set(value.index):
        return
    start, whole = float(value["0", "cut"]), float(value["all", "as fitted"])
    if not (whole < start if measure == "kl" else whole > start):
        return
    shares = (lambda y: (y - start) / (whole - start)), (lambda share: start + share * (whole - start))
    second = axes.secondary_yaxis("right", functions=shares)
    second.set_ylabel("share of the gain")
    second.set_yticks([0, 0.25, 0.5, 0.75, 1])
    second.yaxis.set_major_formatter(PercentFormatter(1))


def latent_path(table: pd.DataFrame, references: Mapping[str, float], questions: int) -> Figure:
    """Held-out KL and alignment against the number of latents touched per group, beside the dense vector.

    `references` are mean KL over groups of other methods, as in alignment.csv, each drawn as a line. Names are short,
    as the lines end together and each is to stand at its end.
    """
    styles = {
        "refitted": (SAID["refitted"], *MARKS["delta"]),
        "cut": (SAID["cut"], "#009E73", "s", ":"),  # not the look of Δ_shared, whose line crosses the panel
        "dense": (name_of("dense"), *MARKS["dense"]),
    }
    part = table[table["group"] == "all"]
    figure, panels = plt.subplots(2, 1, figsize=(WIDTH, 6.4), sharex=True)
    for axes, measure, label in zip(panels, ("kl", "alignment"), ("mean KL (nats)", "alignment"), strict=True):
        for n, (method, (name, colour, marker, line)) in enumerate(styles.items()):
            rows = part[part["method"] == method].sort_values("latents")
            error = [rows[measure] - rows[f"{measure}_low"], rows[f"{measure}_high"] - rows[measure]]
            place = rows["latents"] * (1 + 0.05 * (n - 1))  # side by side, so that the intervals can be told apart
            axes.errorbar(place, rows[measure], error, fmt=marker, ls=line, color=colour, capsize=2, ms=4, label=name)
        log_scale(axes.xaxis, base=2)
        axes.set_ylabel(label)
    panels[1].set_xlabel(f"latents touched per group (mean)\n{questions} held-out questions")
    for method, value in references.items():
        reference_line(panels[0], "kl", method, value)
    for axes in panels:
        label_lines(axes)
    return figure


def latent_path_by_group(table: pd.DataFrame, groups: Sequence[str]) -> Figure:
    """Held-out KL against latents touched, one small panel per group: refitted, with intervals, and dense."""
    rows = -(-len(groups) // 2)
    size = (WIDTH, 1.2 * rows + 0.4)
    figure, panels = plt.subplots(rows, 2, figsize=size, sharex=True, sharey=True, squeeze=False)
    for axes in panels.flat[len(groups) :]:
        axes.set_axis_off()
    for axes, group in zip(panels.flat, groups, strict=False):
        part = table[(table["group"] == group) & (table["method"] == "refitted")].sort_values("latents")
        axes.plot(part["latents"], part["kl"], label="refitted", **look("delta", joined=True, size=3.0))
        axes.fill_between(part["latents"], part["kl_low"], part["kl_high"], color="#0072B2", alpha=0.2)
        dense = table[(table["group"] == group) & (table["method"] == "dense")].sort_values("latents")
        axes.plot(dense["latents"], dense["kl"], label=name_of("dense"), **look("dense", joined=True, size=3.0))
        log_scale(axes.xaxis, base=2)
        axes.set_title(group)
    figure.supxlabel("latents touched")
    figure.supylabel("held-out KL (nats)")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


def tilt(table: pd.DataFrame) -> Figure:
    """Mean and worst group against the tilt t, in KL and alignment, with 95 % intervals."""
    figure, panels = plt.subplots(2, 1, figsize=(WIDTH, 4.6), sharex=True)
    places = {t: n for n, t in enumerate(sorted(table["t"].unique()))}
    styles = [("mean over groups", "#0072B2", "o", "-"), ("worst-off group", "#D55E00", "s", "--")]
    for axes, measure, label in zip(panels, ("kl", "alignment"), ("KL (nats)", "alignment"), strict=True):
        for shift, (which, colour, marker, line) in enumerate(styles):
            rows = table[(table["measure"] == measure) & (table["which"] == which)].sort_values("t")
            error = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
            x = rows["t"].map(places) + 0.04 * shift
            axes.errorbar(x, rows["value"], error, fmt=marker, ls=line, color=colour, capsize=2, ms=4, label=which)
        axes.set_xticks(list(places.values()), [f"{t:g}" for t in places])
        axes.set_ylabel(f"held-out {label}")
        label_lines(axes)
    panels[1].set_xlabel("tilt t (0: plain mean)")
    return figure
