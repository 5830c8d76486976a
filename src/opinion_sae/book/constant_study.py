"""What the study of constant offsets found (`studies.constant`), as chapter 08 shows it."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from opinion_sae.book import sentences
from opinion_sae.book.figures import latents
from opinion_sae.book.figures.style import nothing
from opinion_sae.book.study_tables import ABSENT, StudyTables


def tilt(study: StudyTables) -> str:
    """What the tilted loss does for the worst-off group."""
    return ABSENT if study["tilt"].empty else sentences.tilt(study["tilt"])


def tilt_figure(study: StudyTables) -> Figure:
    """Mean and worst-off group against the tilt."""
    return nothing(ABSENT) if study["tilt"].empty else latents.tilt(study["tilt"])


def composition(study: StudyTables) -> tuple[pd.DataFrame, str]:
    """The table of intersections and its caption."""
    page, of = study["composition"], ""
    if len(page):
        of = f" ({page['intersections'].iloc[0]} intersections)"
    ends = {f"difference {end}": f"minus direct fit_{end}" for end in ("low", "high")}
    page = page.drop(columns="intersections").rename(columns=ends)
    return page, f"KL of people who are in two groups{of}, default run, with 95% intervals"
