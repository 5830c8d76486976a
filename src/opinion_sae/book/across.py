"""What the study `across` found: fitted to the book's surveys, tested on another one, and back."""

from __future__ import annotations

from typing import Any

import pandas as pd

from opinion_sae.book.evaluated import LEFT_OUT
from opinion_sae.book.gap_claims import MEASURES
from opinion_sae.book.gap_report import measured
from opinion_sae.book.study_tables import ABSENT, StudyTables
from opinion_sae.book.typeset import Shown, table
from opinion_sae.score.names import prose

SAID = ("delta-reading", "words")


def _directions(study: StudyTables) -> dict[str, dict[str, dict[Any, Any]]]:
    """From toplines by what was tested on, the rows by method; to the other survey first."""
    found = study["gaps"]
    found = found[found["task"] == "toplines"] if len(found) else found
    order = sorted(found["tested_on"].unique(), reverse=True) if len(found) else []
    return {
        str(name): {str(row["method"]): row for row in found[found["tested_on"] == name].to_dict("records")}
        for name in order
    }


def across_table(study: StudyTables) -> Shown:
    """Both measures from toplines in either direction, a row per method and measure."""
    columns = _directions(study)
    rows = [
        [method, MEASURES[measure], *(measured(of[method], measure) for of in columns.values())]
        for method in LEFT_OUT
        for measure in MEASURES
        if columns and all(method in of for of in columns.values())
    ]
    head = ["method", "measure", *(f"tested on {name}" for name in columns)]
    caption = "From toplines, fitted to one side and tested on the other, with 95% intervals over questions"
    return table(pd.DataFrame(rows, columns=head), caption)


def across_sentence(study: StudyTables) -> str:
    """What the reading Δ and words do on a survey that no fit saw, and where everybody's answers by themselves are
    nearer to the groups."""
    said = []
    for name, of in _directions(study).items():
        first = next(iter(of.values()))
        listed = [
            f"{prose(method)} has a gap correlation of {measured(of[method], 'gap_r')} and closes "
            f"{measured(of[method], 'group_kl_closed')} of the group KL"
            for method in SAID
            if method in of
        ]
        text = (
            f"Fitted to {first['n_fitted']:.0f} questions of {first['fitted_to']} and tested on "
            f"{first['n_questions']:.0f} of {name}, for the {first['n_groups']:.0f} groups that both have, "
            f"{' and '.join(listed)}."
        )
        worse = [prose(method) for method in LEFT_OUT if method in of and of[method]["group_kl_closed_high"] < 0]
        if worse:
            text += f" Everybody's answers by themselves are nearer to the groups than {', '.join(worse)}."
        said.append(text)
    return "\n\n".join(said) or ABSENT
