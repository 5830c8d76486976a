"""Reader of this project's own form: a folder with questions.csv, counts.csv and provenance.json.

questions.csv    key, text, options (joined by "|"), ordinal (true or false), topic; optional: cluster,
                 a name that questions share which ask the same in other words
counts.csv       question, attribute, group, option (position from 0), respondents,
                 weight (Σw of those respondents), weight_squared (Σw²); or packed, counts.csv.gz
provenance.json  optional: title, source, dates, population, licence, ...
"""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from opinion_sae.artifacts import read_json
from opinion_sae.survey.checks import check_groups, check_question, numbers, read_table, refuse
from opinion_sae.survey.core import Question
from opinion_sae.survey.groups import EVERYONE
from opinion_sae.survey.table import CELL_COLUMNS, SurveyTable

QUESTION_COLUMNS = ("key", "text", "options", "ordinal", "topic")


def read_counted(folder: Path) -> SurveyTable:
    """Read such a folder; its name is the survey's. ValueError names file, row and column."""
    questions = read_questions(folder / "questions.csv", folder.name)
    path, packed = folder / "counts.csv", folder / "counts.csv.gz"
    path = packed if os.path.lexists(packed) and not path.is_file() else path
    frame = read_table(path, CELL_COLUMNS)
    cells = frame[["question", "attribute", "group"]].copy()
    cells["option"] = numbers(frame, "option", path, whole=True)
    cells["respondents"] = numbers(frame, "respondents", path, whole=True)
    cells["weight"] = numbers(frame, "weight", path)
    cells["weight_squared"] = numbers(frame, "weight_squared", path)
    _check_cells(cells, questions, path)
    provenance = folder / "provenance.json"
    facts = read_json(provenance, dict) if os.path.lexists(provenance) else {}
    return SurveyTable(folder.name, questions, cells.reset_index(drop=True), facts)


def read_questions(path: Path, survey: str) -> tuple[Question, ...]:
    """The questions of a questions.csv; ValueError for a doubled key or a wrong flag."""
    frame = read_table(path, QUESTION_COLUMNS)
    questions: dict[str, Question] = {}
    for row, r in frame.iterrows():
        if r["key"] in questions:
            raise ValueError(f"{path}: row {row}, column 'key': {r['key']!r} is there twice")
        if r["ordinal"] not in ("true", "false"):
            raise ValueError(f"{path}: row {row}, column 'ordinal': {r['ordinal']!r} is not true or false")
        options = tuple(o.strip() for o in r["options"].split("|"))
        question = Question(
            key=r["key"],
            text=r["text"],
            options=options,
            ordinal=r["ordinal"] == "true",
            topic=r["topic"] or "general",
            survey=survey,
            cluster=r.get("cluster", "").strip(),
        )
        check_question(question, f"{path}: row {row}")
        questions[r["key"]] = question
    return tuple(questions.values())


def _check_cells(cells: pd.DataFrame, questions: tuple[Question, ...], path: Path) -> None:
    size = {q.key: len(q.options) for q in questions}

    refuse(cells, ~cells["question"].isin(size), "question", "is not a key of questions.csv", path)
    refuse(cells, cells["option"] >= cells["question"].map(size), "option", "is past the last option", path)
    for column in ("attribute", "group"):
        refuse(cells, cells[column].str.strip() == "", column, "is empty", path)
    check_groups(cells, path)
    named = ["question", "attribute", "group", "option"]
    refuse(cells, cells.duplicated(named), "option", "is there twice for this question and group", path)
    empty = (cells["respondents"] > 0) != (cells["weight"] > 0)
    refuse(cells, empty, "weight", "does not go with the respondents: both or neither must be 0", path)
    # Cauchy-Schwarz: n people with weights w have (Σw)² <= n Σw²
    bound = cells["respondents"] * cells["weight_squared"] * (1 + 1e-6)
    refuse(cells, cells["weight"] ** 2 > bound, "weight_squared", "is too small for these weights", path)
    everyone = cells[(cells["attribute"] == EVERYONE[0]) & (cells["group"] == EVERYONE[1])]
    for key in size:
        if key not in set(everyone["question"]):
            raise ValueError(f"{path}: no row {EVERYONE[0]},{EVERYONE[1]} for question {key!r}")
