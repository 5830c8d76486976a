"""The long form in which every reader hands over a survey, and how people become such counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from opinion_sae.survey.core import Question
from opinion_sae.survey.groups import EVERYONE, canonical_attribute

CELL_COLUMNS = (
    "question",
    "attribute",
    "group",
    "option",
    "respondents",
    "weight",
    "weight_squared",
)


@dataclass(frozen=True)
class SurveyTable:
    """One source as read: its questions and one row per (question, attribute, group, option).

    `cells` has CELL_COLUMNS: the question's key, the option's position, the number of people who
    chose it, the sum of their weights and the sum of their squared weights. Rows with attribute
    "all" and group "everyone" hold all respondents. Rows with nobody in them may be missing.
    """

    name: str
    questions: tuple[Question, ...]
    cells: pd.DataFrame
    provenance: Mapping[str, object]


def count_answers(
    keys: Sequence[str],
    options: Sequence[int],
    answers: Int[np.ndarray, "respondent question"],
    groups: Mapping[str, Sequence[str | None]],
    weights: Float[np.ndarray, "respondent"],
) -> pd.DataFrame:
    """Weighted counts of one row per respondent, in the form of SurveyTable.cells.

    `options` is the number of options of each question; an answer is an option's position, or -1
    for none (refused, not asked). `groups` names each respondent's group for every attribute;
    None leaves the respondent out of that attribute only. People with weight 0 are not counted.
    """
    people = weights > 0
    membership = {EVERYONE[0]: (np.zeros(len(weights), int), [EVERYONE[1]])}
    for attribute, names in groups.items():
        codes, uniques = pd.factorize(np.asarray(names, dtype=object))
        membership[attribute] = (codes, list(uniques))
    parts = []
    for q, (key, n_options) in enumerate(zip(keys, options, strict=True)):
        answer = answers[:, q]
        for attribute, (codes, names) in membership.items():
            used = people & (answer >= 0) & (codes >= 0)
            index, w = codes[used] * n_options + answer[used], weights[used]
            size = len(names) * n_options
            parts.append(
                pd.DataFrame(
                    {
                        "question": key,
                        "attribute": attribute,
                        "group": np.repeat(np.asarray(names, dtype=object), n_options),
                        "option": np.tile(np.arange(n_options), len(names)),
                        "respondents": np.bincount(index, minlength=size),
                        "weight": np.bincount(index, w, minlength=size),
                        "weight_squared": np.bincount(index, w * w, minlength=size),
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)[list(CELL_COLUMNS)]


def intersect(groups: Mapping[str, Sequence[str | None]], attribute: str) -> list[str | None]:
    """Each respondent's group for an intersection: "party x sex" -> "Republican & Female".

    None where any part is None. Raises KeyError if a part is not among `groups`.
    """
    columns = [groups[part] for part in canonical_attribute(attribute).split(" x ")]
    return [None if any(n is None for n in row) else " & ".join(row) for row in zip(*columns, strict=True)]
