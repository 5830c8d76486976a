"""Sentences on how often the intervals of `opinion-sae predict` hold."""

from __future__ import annotations

import pandas as pd

from opinion_sae.use.predict import NOMINAL


def coverage_numbers(coverage: pd.DataFrame) -> dict[str, str]:
    """A sentence on the intervals of each task, for the prose."""
    made = coverage[coverage["nominal"] == NOMINAL]
    return {f"coverage_{task}": of_task(task, rows.set_index("group")) for task, rows in made.groupby("task")}


def of_task(task: str, rows: pd.DataFrame) -> str:
    """What was measured of one task's intervals; a row per group and one for all."""
    row, worst = rows.loc["all"], rows.drop(index="all")["coverage"].idxmin()
    return (
        f"{task}: intervals made for {row['nominal']:.0%} of shares held {row['coverage']:.1%} (95% interval "
        f"{row['low']:.1%} to {row['high']:.1%}) on {row['n_questions']} questions that were left out; least often for "
        f"{worst}: {rows.loc[worst, 'coverage']:.1%}"
    )
