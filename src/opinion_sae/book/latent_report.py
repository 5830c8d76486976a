"""What chapter 09 says of the latents that the reading offset uses: tables and sentences, from `latents.csv`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from opinion_sae.book.cards import SCORES
from opinion_sae.book.gap_report import FEW, plain
from opinion_sae.book.latent_pages import addresses, labeler_name
from opinion_sae.book.sentences import counted, with_ends
from opinion_sae.book.typeset import Link, Shown, sentence
from opinion_sae.book.typeset import table as typeset
from opinion_sae.effects.latent_table import ALIKE
from opinion_sae.score.statistics import paired_effect

CHANGE = "gap r without it, minus with it"
OTHERS = 3  # labelers beside the statistics in a table
NOTHING = f"No axis reads anything: {FEW}."


def axes_page(axes: Sequence[Mapping[str, Any]]) -> str:
    """A sentence per axis, with a link to its page."""
    lines = [f"- {one['sentence']} ({{ref}}`questions, groups and latents <axis-{one['axis']}>`)" for one in axes]
    return "\n".join(lines) + "\n"


def path_sentence(path: pd.DataFrame) -> str:
    """What few latents leave of the gain in gap correlation over the constant part, of `removal.path_table`."""
    by_fit = {fit: rows.set_index("latents")["gap_r"] for fit, rows in path.groupby("fit")}
    if "refitted" not in by_fit:
        return NOTHING
    cut, anew, whole = by_fit["cut"], by_fit["refitted"], by_fit["as fitted"]
    if not whole["all"] > cut["0"]:
        return NOTHING
    start, gain = cut["0"], whole["all"] - cut["0"]
    kept = [
        f"{counted(int(n), 'latent')} an axis {'keeps' if n == '1' else 'keep'} {(anew[n] - start) / gain:.0%} "
        f"refitted and {(cut[n] - start) / gain:.0%} only cut"
        for n in anew.index
    ]
    most = whole.index[0]
    return (
        f"From the constant part alone to all latents read, the gap correlation goes from {plain(start)} to "
        f"{plain(whole['all'])}; of that gain {', '.join(kept)}, and {most} keep {(whole[most] - start) / gain:.0%}."
    )


def read_page(table: pd.DataFrame, cards: int, again: pd.DataFrame | None = None) -> str:
    """The sentences under the table of latents; `again` is `found_again` of SAEs of other seeds."""
    said = [read_sentence(table, cards), removal_sentence(table), label_sentence(table), again_sentence(table, again)]
    return "\n\n".join(said)


def read_sentence(table: pd.DataFrame, cards: int) -> str:
    """How many latents are read and written, how many of them by every fold."""
    read, write = (table[table["role"] == role] for role in ("read", "write"))
    if not len(read):
        return NOTHING
    folds = table["folds"].max()
    return (
        f"The fit to all questions reads {counted(int(read['in_fit_to_all'].sum()), 'latent')} and writes "
        f"{write['in_fit_to_all'].sum()} in the groups' own part; of all latents some fold reads "
        f"{(read['folds'] > 0).sum()} and every one of the {folds} reads {(read['folds'] == folds).sum()}. There "
        f"{'is' if cards == 1 else 'are'} {counted(cards, 'card')}."
    )


def latents_page(
    table: pd.DataFrame, cards: Sequence[Mapping[str, Any]], labels: pd.DataFrame, role: str, count: int
) -> Shown:
    """The `count` latents that each axis reads with the largest weights, or that are written so, with links to their
    pages, their labels by statistics and those of `labels.csv`."""
    links, known = addresses(cards), {(row["by"], row["latent"]): row for row in labels.to_dict("records")}
    part = table[[pair[0] == role and pair in links for pair in zip(table["role"], table["latent"], strict=True)]]
    part = part.groupby("axis", dropna=False).head(count)
    others = [by for by in dict.fromkeys(labels.loc[labels["latent"].isin(part["latent"]), "by"]) if by != "statistics"]
    rows = []
    for row in part.to_dict("records"):
        key = role, row["latent"]
        said = {"latent": Link(str(row["latent"]), links[key])} | ({"axis": str(row["axis"])} if role == "read" else {})
        said |= {"weight": f"{row['weight']:+.2f}", "label": str(row["label"])}
        said |= {"detection (random latent)": scored(row["label_score"], row["random_score"])}
        for by in others[:OTHERS]:
            one = known.get((by, row["latent"]), {"label": "not labelled", "detection": None, "random_detection": None})
            said |= {f"label by {labeler_name(by)}": one["label"]}
            said |= {
                f"its detection (random latent), by {labeler_name(by)}": scored(
                    one["detection"], one["random_detection"]
                )
            }
        rows.append(said | {CHANGE: changed(row["gap_r_if_removed"], row["gap_r_low"], row["gap_r_high"])})
    what = "each axis reads" if role == "read" else "are written"
    said = f"The {count} latents that {what} with the largest weights"
    return typeset(pd.DataFrame(rows), said) if rows else sentence(NOTHING)


def labelers_page(labels: pd.DataFrame) -> str:
    """Of `labels.csv`: every labeler's mean scores on the latents that all have labelled, beside random latents."""
    if not len(labels):
        return "No other labels have been made for this SAE (`opinion-sae label`)."
    by = {labeler_name(str(name)): rows.set_index("latent") for name, rows in labels.groupby("by", sort=False)}
    common = sorted(set.intersection(*(set(rows.dropna(subset=[*SCORES]).index) for rows in by.values())))
    if len(common) < 2:
        return f"No two latents have scores by {' and '.join(by)} alike."
    said, better = [], []
    made = " and ".join(f"{counted(len(rows), 'latent')} by {name}" for name, rows in by.items())
    for name, rows in by.items():
        rows, scores = rows.loc[common], []
        for kind in SCORES[::2]:
            beyond = paired_effect((rows[kind] - rows[f"random_{kind}"]).to_numpy()[None], np.arange(len(rows)))
            interval = with_ends(beyond.effect, beyond.low, beyond.high, 3)
            scores.append(
                f"{kind} {rows[kind].mean():.2f}, random latents {rows[f'random_{kind}'].mean():.2f} ({interval})"
            )
            better += [f"{kind} by {name}"] * (beyond.low > 0)
        said.append(f"- by {name}, judged by {labeler_name(rows['judge'].iloc[0])}: {'; '.join(scores)}.")
    head = (
        f"So labelled and judged are {made}, what is read with the largest weights first; all others have the rule's "
        f"label alone. Clearly above random latents, by the intervals below: {', '.join(better) or 'none'}.\n\n"
        f"On {len(common)} latents that have labels by each, and the same {by[name]['contexts'].max()} stretches and "
        "words of each, labels score (0.50 being chance; differences with intervals over latents):\n"
    )
    return "\n".join([head, *said])


def removal_sentence(table: pd.DataFrame) -> str:
    """How many latents matter singly: the interval of the change in gap correlation leaves out 0."""
    part = table[(table["role"] == "read") & table["gap_r_if_removed"].notna()]
    if not len(part):
        return NOTHING
    worse, better = (part["gap_r_high"] < 0).sum(), (part["gap_r_low"] > 0).sum()
    most = part.sort_values("gap_r_if_removed", kind="stable").iloc[0]
    return (
        f"Of {counted(len(part), 'latent')} that some fold reads, taking one out lowers the gap correlation clearly "
        f"for {worse} (the interval lies below 0) and raises it for {better}, where chance alone "
        f"would put about one in forty on either side; latent {most['latent']} ({most['label']}) costs most: "
        f"{most['gap_r_if_removed']:+.3f}."
    )


def label_sentence(table: pd.DataFrame) -> str:
    """The labels' mean scores beside those of random latents, by role."""
    said = []
    for role, part in table.groupby("role"):
        means = part[["label_score", "random_score", "fuzzing_score", "random_fuzzing_score"]].mean()
        said.append(
            f"of the latents that are {'read' if role == 'read' else 'written'} detection {means.iloc[0]:.2f} (random "
            f"latents {means.iloc[1]:.2f}) and fuzzing {means.iloc[2]:.2f} ({means.iloc[3]:.2f})"
        )
    return f"The labels' mean scores, 0.50 being chance: {'; '.join(said)}." if said else NOTHING


def again_sentence(table: pd.DataFrame, again: pd.DataFrame | None) -> str:
    """How many of the latents that are read SAEs of other seeds have too, beside all latents."""
    if again is None:
        return "Whether SAEs of other seeds have these latents too is not known: `make evaluate` has not run."
    seeds, of = again.set_index("latent")["seeds"], int(again["of"].iloc[0])
    if not (table["role"] == "read").any():
        return NOTHING
    read = seeds[table.loc[table["role"] == "read", "latent"].unique()]
    return (
        f"Of {len(read)} latents that are read, {(read > 0).mean():.0%} are found again (a decoder row of a cosine of "
        f"{ALIKE} or more) in one of {of} SAEs of other seeds at least, {(read == of).mean():.0%} in all; of all "
        f"{len(seeds)} latents {(seeds > 0).mean():.0%} and {(seeds == of).mean():.0%}."
    )


def scored(value: Any, random: Any) -> str:
    """'0.60 (0.55)', with a random latent's score beside it."""
    return (
        "not measured" if pd.isna(value) else f"{value:.2f} ({'not measured' if pd.isna(random) else f'{random:.2f}'})"
    )


def changed(value: Any, low: Any, high: Any) -> str:
    if pd.isna(value):
        return "not measured"
    return with_ends(value, low, high, 3)
