"""What the study of constant offsets found (`studies.constant`), as chapter 08 shows it."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from opinion_sae.book import sentences
from opinion_sae.book.figures import latents
from opinion_sae.book.figures.style import nothing
from opinion_sae.book.study_tables import ABSENT, StudyTables

SAME = 5e-5  # nats: what the table's digits do not tell apart
SUM = "sum of members"


def tilt(study: StudyTables) -> str:
    """What the tilted loss does for the worst-off group."""
    return ABSENT if study["tilt"].empty else sentences.tilt(study["tilt"])


def tilt_figure(study: StudyTables) -> Figure:
    """Mean and worst-off group against the tilt."""
    return nothing(ABSENT) if study["tilt"].empty else latents.tilt(study["tilt"])


def kinds(study: StudyTables) -> str:
    """Which kinds of Δ kept no part of the groups' own, so that their test KL is that of the shared part alone."""
    table = study["kinds"]
    if table.empty:
        return ABSENT
    kl, shared = table["test KL"], table["test KL, shared only"]
    same = (kl - shared).abs() < SAME
    idle = [str(kind) for kind in table["kind"][same]]
    said = [
        f"{row['kind']} goes from {row['test KL, shared only']:.4f} to {row['test KL']:.4f} with it"
        for row in table[~same].to_dict("records")
    ]
    if not idle:
        return f"Every kind kept an own part of the groups: {'; '.join(said)}."
    return (
        f"{len(idle)} of {len(table)} kinds ({'; '.join(idle)}) have the test KL of the shared part alone: no own part "
        f"of the groups was kept, so the table says nothing of what tells these kinds' own parts apart"
        f"{'; ' + '; '.join(said) if said else ''}."
    )


def composition_sentence(study: StudyTables) -> str:
    """Which offset comes closest to people who are in two groups, and whether the sum of both parts is told apart
    from a part of their own."""
    page = study["composition"]
    if page.empty:
        return ABSENT
    best = page.sort_values("kl", kind="stable").iloc[0]
    said = f"The lowest KL is that of the row '{best['offset']}' ({best['kl']:.4f})"
    rows = page.set_index("offset").to_dict("index")
    if SUM not in rows:
        return f"{said}."
    off, low, high = (float(rows[SUM][name]) for name in ("minus direct fit", "difference low", "difference high"))
    apart = "above" if low > 0 else "below" if high < 0 else "not told apart from"
    return f"{said}; the sum of both parts is {apart} a part fitted directly ({off:+.4f}, {low:+.4f} to {high:+.4f})."


def composition(study: StudyTables) -> tuple[pd.DataFrame, str]:
    """The table of intersections and its caption."""
    page, of = study["composition"], ""
    if len(page):
        of = f" ({page['intersections'].iloc[0]} intersections)"
    ends = {f"difference {end}": f"minus direct fit_{end}" for end in ("low", "high")}
    page = page.drop(columns="intersections").rename(columns=ends)
    return page, f"KL of people who are in two groups{of}, default run, with 95% intervals"
