"""Sentences on how often the intervals of `opinion-sae predict` hold."""

from __future__ import annotations

import pandas as pd

from opinion_sae.use.predict import NOMINAL


def said_of(coverage: pd.DataFrame) -> dict[str, str]:
    """By task, what was measured of its intervals."""
    made = coverage[coverage["nominal"] == NOMINAL]
    return {str(task): _of_task(rows.set_index("group")) for task, rows in made.groupby("task")}


def _of_task(rows: pd.DataFrame) -> str:
    row, worst = rows.loc["all"], rows.drop(index="all")["coverage"].idxmin()
    return (
        f"intervals made for {row['nominal']:.0%} of shares held {row['coverage']:.1%} (95% interval "
        f"{row['low']:.1%} to {row['high']:.1%}) on {row['n_questions']} questions that were left out; least often for "
        f"{worst}: {rows.loc[worst, 'coverage']:.1%}"
    )
