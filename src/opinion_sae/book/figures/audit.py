"""Audited latents by strength, the gradient beside the fits, and groups' offsets beside persona prompts."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from opinion_sae.book.audit_report import PARTS
from opinion_sae.book.figures.style import WIDTH, legend_above, name_rows, nothing
from opinion_sae.book.study_tables import ABSENT, StudyTables


def audit_figure(table: pd.DataFrame, means: pd.DataFrame, bound: float) -> Figure:
    """Above the shift of those that a latent is meant for and of others, below the KL of the others, by strength."""
    figure, (shifts, costs) = plt.subplots(2, 1, figsize=(WIDTH, 5.6), sharex=True, layout="constrained")
    places = {strength: n for n, strength in enumerate(sorted(table["strength"].unique()))}
    for _, part in table.groupby("latent"):
        shifts.plot(part["strength"].map(places), part["on_target"], color="#BBBBBB", linewidth=0.6, zorder=1)
        costs.plot(part["strength"].map(places), part["off_target_kl"], color="#BBBBBB", linewidth=0.6, zorder=1)
    shifts.plot([], [], color="#BBBBBB", linewidth=0.6, label="single latents")
    marks = (
        (shifts, "on_target", "groups meant, signed", "#0072B2", "o", "-"),
        (shifts, "off_target", "other groups, size", "#D55E00", "s", "--"),
        (costs, "off_target_kl", "other groups", "#D55E00", "s", "--"),
    )
    for axes, name, label, colour, marker, line in marks:
        error = np.abs(means[[f"{name}_low", f"{name}_high"]].to_numpy().T - means[name].to_numpy())
        error = np.nan_to_num(error)
        x = means["strength"].map(places)
        axes.errorbar(x, means[name], error, fmt=marker + line, color=colour, ms=4, capsize=2, label=label)
    shifts.axhline(0, color="black", linewidth=0.8)
    costs.axhline(bound, color="black", linestyle=":", linewidth=1, label="a group to everybody")
    shifts.set_ylabel("shift of place")
    costs.set_ylabel("KL from taken out (nats)")
    costs.set_xticks(list(places.values()), [f"{strength:g}" for strength in places])
    costs.set_xlabel("strength (0: taken out, 1: as it is)")
    for axes in (shifts, costs):
        legend_above(axes, 1)
    return figure


def written_figure(study: StudyTables, bound: float) -> Figure:
    """The same of the latents that are written, from the study `audit`."""
    return nothing(ABSENT) if study["written"].empty else audit_figure(study["written"], study["means"], bound)


def gradient_figure(table: pd.DataFrame) -> Figure:
    """A row per part of an offset: rank correlation with the gradient, and overlap of the largest beside chance."""
    whole = table[(table["fold"] == "all") & table["rank_r"].notna()]
    figure, panels = plt.subplots(2, 1, figsize=(WIDTH, 1.2 * len(whole) + 1.6), layout="constrained")
    rows = range(len(whole))
    names = {"rank_r": "rank correlation", "overlap": "share of the largest in common"}
    for axes, (measure, name) in zip(panels, names.items(), strict=True):
        value = whole[measure].to_numpy()
        error = np.nan_to_num([value - whole[f"{measure}_low"], whole[f"{measure}_high"] - value]).clip(0)
        axes.errorbar(value, rows, xerr=error, fmt="o", color="#0072B2", capsize=2, ms=4, label="with the gradient")
        axes.set_xlabel(name)
        name_rows(axes, [PARTS[part] for part in whole["part"]])
    panels[0].axvline(0, color="black", linewidth=0.8)
    panels[1].plot(whole["chance"], rows, "|", color="black", ms=10, label="by chance")
    figure.legend(*panels[1].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def likeness_figure(table: pd.DataFrame) -> Figure:
    """A row per group: the cosine of what an offset and a persona prompt do, in all and beyond the mean over groups."""
    rows = np.arange(len(table))[::-1]
    figure, axes = plt.subplots(figsize=(WIDTH, 0.24 * len(table) + 1), layout="constrained")
    marks = (("whole", "in all", "#777777", "s", 0.13), ("own", "beyond the mean over groups", "#0072B2", "o", -0.13))
    for name, label, colour, marker, up in marks:
        value = table[name].to_numpy()
        error = np.nan_to_num([value - table[f"{name}_low"], table[f"{name}_high"] - value]).clip(0)
        axes.errorbar(value, rows + up, xerr=error, fmt=marker, color=colour, ms=4, capsize=2, label=label)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(rows, table["group"].replace("all", "all groups"), parse_math=False)
    axes.set_xlabel("cosine, mean over questions")
    legend_above(axes, 1)
    return figure
