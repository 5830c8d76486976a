"""Reader of one tidy CSV: a row per question, option and group.

question, option, attribute, group, count
    the question's and the option's text, the group, and how many of its people chose the option
    (weighted, so any number from 0). Options stand in their order. A row with nobody may be missing.
people, n_effective   optional, the same in all rows of a group's answers to a question: how many
                      people answered, and Kish's effective number of them; otherwise a count of 1
                      is one person
key, topic, cluster   optional, of the question; otherwise a number, "general" and none
ordinal               optional, "true" or "false": whether the options run along a scale; otherwise they do

Rows with attribute "all" and group "everyone" hold all people; where a question has none, the groups
of the attribute that holds most of its people are added up.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from opinion_sae.survey.checks import check_groups, check_question, numbers, read_table, refuse
from opinion_sae.survey.core import Question
from opinion_sae.survey.groups import EVERYONE
from opinion_sae.survey.table import CELL_COLUMNS, SurveyTable

TIDY_COLUMNS = ("question", "option", "attribute", "group", "count")
CELL = ["key", "attribute", "group"]  # what people and n_effective belong to


def read_tidy(path: Path) -> SurveyTable:
    """Read such a file; its name without ".csv" is the survey's. ValueError names file, row and column."""
    frame = read_table(path, TIDY_COLUMNS)
    for column in TIDY_COLUMNS[:-1]:
        frame[column] = frame[column].str.strip()
        refuse(frame, frame[column] == "", column, "is empty", path)
    check_groups(frame, path)
    frame["weight"] = numbers(frame, "count", path)
    if "key" not in frame:
        frame["key"] = [f"{path.stem}-{number + 1}" for number in pd.factorize(frame["question"])[0]]
    again = frame.duplicated([*CELL, "option"])
    refuse(frame, again, "option", "is there twice for this question and group", path)
    questions = tuple(_question(rows, path) for _, rows in frame.groupby("key", sort=False))
    place = {(q.key, option): i for q in questions for i, option in enumerate(q.options)}
    frame["place"] = [place[pair] for pair in zip(frame["key"], frame["option"], strict=True)]
    frame = frame.sort_values(CELL + ["place"], kind="stable")
    frame["people"], frame["effective"] = _sizes(frame, path)
    cells = _with_everyone(_cells(frame), path)
    return SurveyTable(path.stem, questions, cells, {"title": path.stem, "source": path.name})


def _question(rows: pd.DataFrame, path: Path) -> Question:
    """The question that these rows are about; what is said of it must be the same in all of them."""
    said = {"question": "", "topic": "general", "ordinal": "true", "cluster": ""}
    for column in said:
        if column in rows:
            refuse(rows, rows[column] != rows[column].iloc[0], column, "differs from the question's first row", path)
            said[column] = rows[column].iloc[0].strip() or said[column]
    if said["ordinal"] not in ("true", "false"):
        raise ValueError(f"{path}: row {rows.index[0]}, column 'ordinal': {said['ordinal']!r} is not true or false")
    question = Question(
        key=rows["key"].iloc[0],
        text=said["question"],
        options=tuple(dict.fromkeys(rows["option"])),
        ordinal=said["ordinal"] == "true",
        topic=said["topic"],
        survey=path.stem,
        cluster=said["cluster"],
    )
    check_question(question, f"{path}: row {rows.index[0]}")
    return question


def _sizes(frame: pd.DataFrame, path: Path) -> tuple[pd.Series, pd.Series]:
    """People and effective people of each row's cell."""
    total = frame.groupby(CELL)["weight"].transform("sum")
    known = {}
    for column, whole in (("n_effective", False), ("people", True)):
        if column in frame:
            given = frame[frame[column] != ""]
            known[column] = numbers(given, column, path, whole=whole).reindex(frame.index)
            first = known[column].groupby([frame[name] for name in CELL]).transform("first")
            refuse(frame, ~(known[column].eq(first) | first.isna()), column, "differs within the group's answers", path)
    people = known.get("people", pd.Series(np.nan, frame.index))
    effective = known.get("n_effective", people).fillna(people).fillna(total)
    people = people.fillna(np.ceil(effective))
    # Kish's number is at most the people's; six digits are written
    refuse(frame, effective > people * (1 + 1e-5), "n_effective", "is larger than the number of people", path)
    refuse(frame, (effective > 0) != (total > 0), "count", "does not go with the people: both or neither are 0", path)
    return people, effective


def _cells(frame: pd.DataFrame) -> pd.DataFrame:
    """Each cell's people dealt out to its options in whole numbers, its Σw² in proportion."""
    by_cell = frame.groupby(CELL)
    total = by_cell["weight"].transform("sum").where(lambda w: w > 0, 1.0)
    up_to = (by_cell["weight"].cumsum() / total * frame["people"]).round()
    before = up_to.groupby([frame[name] for name in CELL]).shift(fill_value=0)
    # Σw² = (Σw)² / n
    mean_weight = total / frame["effective"].where(frame["effective"] > 0, 1.0)
    cells = pd.DataFrame(
        {
            "question": frame["key"],
            "attribute": frame["attribute"],
            "group": frame["group"],
            "option": frame["place"],
            "respondents": (up_to - before).astype(int),
            "weight": frame["weight"],
            "weight_squared": frame["weight"] * mean_weight,
        }
    )
    return cells[list(CELL_COLUMNS)].reset_index(drop=True)


def _with_everyone(cells: pd.DataFrame, path: Path) -> pd.DataFrame:
    whole = (cells["attribute"] == EVERYONE[0]) & (cells["group"] == EVERYONE[1])
    missing = cells[~cells["question"].isin(cells.loc[whole, "question"])]
    if missing.empty:
        return cells
    single = missing[~missing["attribute"].str.contains(" x ")]
    alone = sorted(set(missing["question"]) - set(single["question"]))
    if alone:
        raise ValueError(
            f"{path}: question {alone[0]!r} is there for intersections only; rows of {EVERYONE[0]},{EVERYONE[1]} "
            "or of a single attribute are needed"
        )
    size = single.groupby(["question", "attribute"], sort=False)["weight"].sum()
    chosen = set(size.groupby("question").idxmax())
    used = single[[pair in chosen for pair in zip(single["question"], single["attribute"], strict=True)]]
    sums = used.groupby(["question", "option"], as_index=False)[["respondents", "weight", "weight_squared"]].sum()
    sums["attribute"], sums["group"] = EVERYONE
    return pd.concat([sums[list(CELL_COLUMNS)], cells], ignore_index=True)
