"""Write a survey for others: in OpinionQA's layout, or as one tidy CSV. `load_survey` reads both back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from opinion_sae.artifacts import check_file, check_folder, replacing, write_csv, write_json
from opinion_sae.survey.assemble import assemble
from opinion_sae.survey.core import Question, Survey
from opinion_sae.survey.groups import EVERYONE
from opinion_sae.survey.load import read_source

FILES = ("info.csv", "metadata.csv", "provenance.json", "*_data.json")  # in a folder of OpinionQA's layout
# What OpinionQA calls the attributes; any other is written in capitals.
COLUMNS = {
    "party": "POLPARTY",
    "ideology": "POLIDEOLOGY",
    "religion": "RELIG",
    "religious attendance": "RELIGATTEND",
    "region": "CREGION",
    "marital status": "MARITAL",
    "citizenship": "CITIZEN",
}


def whole_survey(source: str) -> Survey:
    """All of a survey by its name or path (`load_survey`): intersections too, and no cell left out."""
    table = read_source(source)
    attributes = [a for a in dict.fromkeys(table.cells["attribute"]) if a != EVERYONE[0]]
    return assemble([table], 1, attributes)


def write_tidy(survey: Survey | str, path: str | Path) -> None:
    """Write one row per question, option and group, as survey.tidy describes it.

    `survey` is a Survey or the name of one, which is then written whole (`whole_survey`). Numbers have six digits.
    """
    check_file(Path(path))  # before a survey is read, which may take long
    survey = whole_survey(survey) if isinstance(survey, str) else survey
    rows = []
    for q, question in enumerate(survey.questions):
        rows += _tidy_rows(question, EVERYONE, survey.everyone[q], "", survey.everyone_effective[q])
        for g in np.flatnonzero(survey.respondents[:, q]):
            group = (survey.attributes[g], survey.groups[g])
            rows += _tidy_rows(question, group, survey.counts[g, q], survey.respondents[g, q], survey.effective[g, q])
    write_csv(path, pd.DataFrame(rows))


def _tidy_rows(
    question: Question, group: tuple[str, str], counts: Float[np.ndarray, "option"], people: object, effective: float
) -> list[dict]:
    return [
        {
            "question": question.text,
            "option": option,
            "attribute": group[0],
            "group": group[1],
            "count": count,
            "people": people,
            "n_effective": effective,
            "key": question.key,
            "topic": question.topic,
            "ordinal": str(question.ordinal).lower(),
            "cluster": question.cluster,
        }
        for option, count in zip(question.options, counts, strict=False)  # counts are padded
    ]


def write_opinionqa(survey: Survey | str, folder: str | Path) -> None:
    """Write info.csv, metadata.csv, provenance.json and a file of counts per attribute.

    The layout (survey.opinionqa) holds whole people without weights. What is written are the weighted counts times
    n_q / Σw_q, everybody's effective number over everybody's weights on the question, in whole numbers: so groups add
    up, and sizes are those of unweighted samples that would be as accurate. `survey` as in `write_tidy`.
    """
    check_folder(Path(folder), FILES)
    survey = whole_survey(survey) if isinstance(survey, str) else survey
    with replacing(folder, own=FILES) as side:
        side.mkdir()
        write_csv(side / "info.csv", pd.DataFrame([_info(question) for question in survey.questions]))
        attributes = list(dict.fromkeys(survey.attributes))
        members = {a: [g for g, of in enumerate(survey.attributes) if of == a] for a in attributes}
        metadata = [
            {"key": _column(a), "options": [survey.groups[g] for g in members[a]]} for a in attributes if " x " not in a
        ]
        write_csv(side / "metadata.csv", pd.DataFrame(metadata))
        for attribute, groups in members.items():
            name = "_".join(_column(part) for part in attribute.split(" x "))
            content = {q.key: _counts(survey, i, groups) for i, q in enumerate(survey.questions)}
            write_json(side / f"{name}_data.json", content)
        facts = survey.provenance.get(survey.name, {"surveys": dict(survey.provenance)})
        write_json(
            side / "provenance.json",
            {"title": survey.name, **facts, "counts": "weighted counts, scaled to the question's effective sample"},
        )


def _column(attribute: str) -> str:
    return COLUMNS.get(attribute, attribute.upper())


def _info(question: Question) -> dict[str, object]:
    n = len(question.options)
    places = list(question.positions) or (list(range(1, n + 1)) if question.ordinal else [1] * n)
    return {
        "key": question.key,
        "question": question.text,
        "references": [*question.options, "Refused"],
        "option_ordinal": places,
        "topic": question.topic,
        "cluster": question.cluster,
    }


def _counts(survey: Survey, q: int, groups: list[int]) -> dict[str, object]:
    """One question's part of a file: {group: {option: people}}, one level deeper for each further attribute."""
    question = survey.questions[q]
    scale = survey.everyone_effective[q] / survey.everyone[q].sum()
    found: dict[str, object] = {"MC_options": list(question.options), "question_text": question.text}
    for g in groups:
        people = _whole_people(survey.counts[g, q, : len(question.options)] * scale)
        if people.sum() == 0:
            continue
        *outer, last = survey.groups[g].split(" & ") if " x " in survey.attributes[g] else [survey.groups[g]]
        inside = found
        for name in outer:
            inside = inside.setdefault(name, {})
        inside[last] = dict(zip(question.options, people.tolist(), strict=True))
    return found


def _whole_people(counts: Float[np.ndarray, "option"]) -> Int[np.ndarray, "option"]:
    """Whole numbers that add up to the rounded sum; the largest remainders are rounded up."""
    total = round(counts.sum())
    exact = counts * total / max(counts.sum(), 1e-12)
    whole = np.floor(exact).astype(int)
    up = np.argsort(whole - exact, kind="stable")[: total - whole.sum()]
    whole[up] += 1
    return whole
