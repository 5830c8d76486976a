"""Reader of OpinionQA's layout (Santurkar et al. 2023, github.com/tatsu-lab/opinions_qa).

What the release holds, and what is relied on here:

info.csv       one row per question: `key` (ends in _W and the wave), `question`, `references` (the
               options as a Python list; those that are no answer, "Refused" and sometimes "Not
               sure", come last) and `option_ordinal` (a place on the scale for each option but
               those last ones; all equal: no scale). Optional: `topic` and `cluster`, a name that
               questions share which ask the same in other words.
metadata.csv   `key` (CREGION, AGE, SEX, EDUCATION, CITIZEN, MARITAL, RELIG, RELIGATTEND, POLPARTY,
               INCOME, POLIDEOLOGY, RACE) and `options`, that attribute's groups, as a Python list.
responses.csv  one row per respondent: a column per question and per attribute, holding option and
               group texts (empty: not asked), and a weight, WEIGHT_W26 for wave 26 or `weight`.
X_data.json    counts instead of respondents, unweighted, one file per attribute: {question key:
               {"MC_options", "question_text", group: {answer: count}}}; for two attributes
               (POLPARTY_RACE) one level deeper. MC_options is not used: it cuts texts at commas.

Options are put in the order of option_ordinal, with uneven steps kept in Question.positions.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from opinion_sae.artifacts import read_json
from opinion_sae.survey.checks import (
    LARGEST,
    check_question,
    literal,
    number_list,
    numbers,
    read_table,
)
from opinion_sae.survey.core import Question
from opinion_sae.survey.groups import (
    ATTRIBUTES,
    EVERYONE,
    canonical_attribute,
    canonical_group,
)
from opinion_sae.survey.table import CELL_COLUMNS, SurveyTable, count_answers, intersect

REFUSED = frozenset({"", "refused", "nan"})  # answers and groups that are none

# What each wave of the American Trends Panel was about, after the paper's table of surveys.
WAVE_TOPICS = {
    26: "guns",
    27: "automation",
    29: "views on gender",
    32: "community and sexual harassment",
    34: "biomedical and food issues",
    36: "gender and leadership",
    41: "America in 2050",
    42: "trust in science",
    43: "race",
    45: "misinformation",
    49: "privacy and surveillance",
    50: "family and relationships",
    54: "economic inequality",
    82: "global attitudes",
    92: "political views",
}


@dataclass(frozen=True)
class Item:
    """A question, where each answer's text stands among its options, and the texts of refusals."""

    question: Question
    place: dict[str, int]
    refusals: frozenset[str]


def is_opinionqa(folder: Path) -> bool:
    """Whether a folder is in this layout: a wave, the counted form, or a folder of waves."""
    return (folder / "info.csv").is_file() or bool(_waves(folder))


def read_opinionqa(folder: Path, attributes: Sequence[str] = ()) -> SurveyTable:
    """Read a wave, a folder of waves (`human_resp`), a selection of them or the counted form.

    A selection is info.csv with a column `survey` that names the waves, beside their folders, as
    in the release's Pew_American_Trends_Panel_disagreement_500. `attributes` may hold
    intersections ("party x race"), which are counted where there is a row per respondent.

    A key that stands for several wordings (each put to its own part of the sample) is left out
    and listed under provenance["left_out"]; a provenance.json in the folder adds to it.
    FileNotFoundError or ValueError name file, row and column.
    """
    waves = _waves(folder)
    left_out: dict[str, str] = {}
    if waves:
        parts = [_read_wave(wave, folder.name, attributes, left_out) for wave in waves]
    elif (folder / "responses.csv").is_file():
        parts = [_read_wave(folder, folder.name, attributes, left_out)]
    elif list(folder.glob("*_data.json")):
        items = read_info(folder / "info.csv", folder.name, left_out)
        parts = [(items, _count_files(folder, items))]
    elif not (folder / "info.csv").is_file():
        raise FileNotFoundError(f"{folder}: no info.csv, and no wave folder with info.csv and responses.csv in it")
    elif "survey" in read_table(folder / "info.csv", ()):
        parts = _read_selection(folder, attributes, left_out)
    else:
        raise FileNotFoundError(
            f"{folder}: beside info.csv there is neither responses.csv nor a *_data.json, and it has no column "
            "survey that names waves"
        )
    questions = tuple(item.question for items, _ in parts for item in items.values())
    cells = pd.concat([cells for _, cells in parts], ignore_index=True)
    own = folder / "provenance.json"
    provenance = {"title": f"{folder.name} (OpinionQA layout)", "left_out": left_out}
    provenance |= read_json(own, dict) if os.path.lexists(own) else {}
    return SurveyTable(folder.name, questions, cells, provenance)


def _waves(folder: Path) -> list[Path]:
    """Folders of waves directly in `folder` or in its human_resp, by wave number."""
    root = folder / "human_resp" if (folder / "human_resp").is_dir() else folder
    waves = [path.parent for path in root.glob("*/responses.csv")]
    waves = [wave for wave in waves if (wave / "info.csv").is_file()]
    return sorted(waves, key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)])


def _read_selection(folder: Path, attributes: Sequence[str], left_out: dict) -> list[tuple]:
    info = folder / "info.csv"
    items = read_info(info, folder.name, left_out)
    chosen = read_table(info, ("key", "survey")).drop_duplicates("key").set_index("key")["survey"]
    parts = []
    for survey in dict.fromkeys(chosen[key] for key in items):
        wave = folder.parent / survey.removeprefix("Pew_")
        if not (wave / "responses.csv").is_file():
            raise FileNotFoundError(
                f"{info}: survey {survey!r}: no {wave / 'responses.csv'}; the selection needs the "
                "folders of its waves beside it, or *_data.json files in it"
            )
        here = {key: item for key, item in items.items() if chosen[key] == survey}
        parts.append((here, _count_responses(wave, here, attributes)))
    return parts


def _read_wave(wave: Path, survey: str, attributes: Sequence[str], left_out: dict) -> tuple:
    items = read_info(wave / "info.csv", survey, left_out)
    return items, _count_responses(wave, items, attributes)


def read_info(path: Path, survey: str, left_out: dict[str, str]) -> dict[str, Item]:
    """The questions of an info.csv by key; ValueError names row and column."""
    frame = read_table(path, ("key", "question", "references", "option_ordinal"))
    items: dict[str, Item] = {}
    for key, rows in frame.groupby("key", sort=False):
        if len(rows) > 1:
            again = rows.index[rows["question"].duplicated()]
            if len(again):
                raise ValueError(f"{path}: row {again[0]}, column 'key': {key!r} is there twice")
            left_out[key] = f"stands for {len(rows)} wordings, each for a part of the sample"
            continue
        items[key] = _item(rows.iloc[0], survey, f"{path}: row {rows.index[0]}")
    if not items:
        raise ValueError(f"{path}: no question in it")
    return items


def _item(row: pd.Series, survey: str, where: str) -> Item:
    references = [str(r) for r in literal(row["references"], list, f"{where}, column 'references'")]
    column = f"{where}, column 'option_ordinal'"
    ordinal = number_list(row["option_ordinal"], column)
    if len(ordinal) > len(references):
        raise ValueError(f"{column}: {len(ordinal)} places for {len(references)} references")
    options, refusals = references[: len(ordinal)], references[len(ordinal) :]
    order = sorted(range(len(options)), key=ordinal.__getitem__)
    positions = [ordinal[i] for i in order]
    steps = np.diff(positions)
    scale = bool((steps > 0).all())
    uneven = scale and not np.allclose(steps, steps[:1])
    wave = re.search(r"_W(\d+)$", row["key"])
    known = WAVE_TOPICS.get(int(wave[1])) if wave else None
    question = Question(
        key=row["key"],
        text=row["question"].strip(),
        options=tuple(options[i].strip() for i in order),
        ordinal=scale,
        topic=row.get("topic") or known or "general",
        survey=survey,
        positions=tuple(positions) if uneven else (),
        cluster=row.get("cluster", "").strip(),
    )
    check_question(question, where)
    place = {option: i for i, option in enumerate(question.options)}
    return Item(question, place, REFUSED | {r.strip().casefold() for r in refusals})


def _count_responses(wave: Path, items: dict[str, Item], attributes: Sequence[str]) -> pd.DataFrame:
    path = wave / "responses.csv"
    listed = _attribute_groups(wave / "metadata.csv")
    people = read_table(path, [*items, *listed])
    weights = _weights(people, wave, path)
    answers = np.column_stack([_positions(people, item, path) for item in items.values()])
    groups = {}
    for column, names in listed.items():
        attribute = canonical_attribute(column)
        to = {name: canonical_group(attribute, name) for name in names}
        groups[attribute] = [to.get(value.strip()) for value in people[column]]
        if not any(groups[attribute]):
            raise ValueError(f"{path}: column {column!r}: nobody is in any of its groups ({', '.join(names)})")
    for name in map(canonical_attribute, attributes):
        if " x " in name and set(name.split(" x ")) <= set(groups):
            groups[name] = intersect(groups, name)
    sizes = [len(item.question.options) for item in items.values()]
    return count_answers(list(items), sizes, answers, groups, weights)


def _attribute_groups(path: Path) -> dict[str, list[str]]:
    frame = read_table(path, ("key", "options"))
    groups = {}
    for row, r in frame.iterrows():
        where = f"{path}: row {row}, column 'options'"
        names = literal(r["options"], list, where)
        if r["key"] in groups:
            raise ValueError(f"{path}: row {row}, column 'key': {r['key']!r} is there twice")
        if not names or not all(isinstance(name, str) and name.strip() for name in names):
            raise ValueError(f"{where}: an attribute without groups, or with an empty one")
        _one_column(r["key"], groups, f"{path}: row {row}, column 'key'")
        groups[r["key"]] = names
    return groups


def _one_column(name: str, others: Iterable[str], where: str) -> None:
    """Raise ValueError for two columns of one attribute, such as RACE and ETHNICITY: one would silently be lost."""
    for other in others:
        if canonical_attribute(name) == canonical_attribute(other):
            raise ValueError(
                f"{where}: {name!r} and {other!r} are both read as {canonical_attribute(name)!r}; keep one of them, "
                "or give one a name of its own"
            )


def _weights(people: pd.DataFrame, wave: Path, path: Path) -> np.ndarray:
    number = re.search(r"_W(\d+)$", wave.name)
    wanted = [f"WEIGHT_W{number[1]}"] if number else []
    for column in [*wanted, "weight"]:
        if column in people:
            return numbers(people, column, path).to_numpy()
    raise ValueError(f"{path}: no weight: a column {' or '.join([*wanted, 'weight'])} is needed")


def _positions(people: pd.DataFrame, item: Item, path: Path) -> np.ndarray:
    """Each respondent's option, -1 for none; ValueError for an answer that is not an option."""
    column = item.question.key
    answers = people[column].str.strip()
    place = answers.map(item.place)
    wrong = place.isna() & ~answers.str.casefold().isin(item.refusals)
    if wrong.any():
        row = people.index[wrong.to_numpy()][0]
        raise ValueError(
            f"{path}: row {row}, column {column!r}: {people.at[row, column]!r} is not one of "
            f"{list(item.question.options)}"
        )
    return place.fillna(-1).to_numpy().astype(int)


def _count_files(folder: Path, items: dict[str, Item]) -> pd.DataFrame:
    known = {name.upper() for pair in ATTRIBUTES.items() for name in (pair[0], *pair[1])}
    rows: list[tuple] = []
    seen: list[str] = []
    for path in sorted(folder.glob("*_data.json")):
        name = path.name.removesuffix("_data.json")
        if name == "NONE":  # the party groups once more
            continue
        parts = name.split("_") if set(name.split("_")) <= known else [name]
        _one_column(" x ".join(parts), seen, str(path))
        seen.append(" x ".join(parts))
        rows += _count_file(path, parts, items)
    cells = pd.DataFrame(rows, columns=["question", "attribute", "group", "option", "respondents"])
    silent = sorted(set(items) - set(cells["question"]))
    if silent:
        raise ValueError(f"{folder}: no file *_data.json has an answer to {silent[0]!r}")
    # everybody: the sum over the attribute (refusals of the attribute itself included) that
    # places the most people
    single = cells[~cells["attribute"].str.contains(" x ")]
    totals = single.groupby(["question", "attribute"])["respondents"].sum()
    best = pd.MultiIndex.from_tuples(totals.groupby("question").idxmax())
    chosen = single.set_index(["question", "attribute"]).loc[best].reset_index()
    everyone = chosen.groupby(["question", "option"], as_index=False)["respondents"].sum()
    everyone["attribute"], everyone["group"] = EVERYONE
    cells = pd.concat([everyone, cells[cells["group"] != ""]], ignore_index=True)
    cells["weight"] = cells["weight_squared"] = cells["respondents"].astype(float)
    return cells[list(CELL_COLUMNS)]


def _count_file(path: Path, attributes: list[str], items: dict[str, Item]) -> list[tuple]:
    content = read_json(path, dict)
    missing = [key for key in items if key not in content]
    if missing:
        raise ValueError(f"{path}: key {missing[0]!r} of info.csv is missing")
    rows = []
    for key, item in items.items():
        for groups, counts in _leaves(content[key], len(attributes), f"{path}: key {key!r}"):
            group = " & ".join(groups)
            found = _answers(counts, item, f"{path}: key {key!r}, group {group!r}")
            if any(name.casefold() in REFUSED for name in groups):
                group = ""
            rows += [(key, " x ".join(attributes), group, o, n) for o, n in found.items()]
    return rows


def _leaves(content: object, depth: int, where: str, groups: tuple = ()) -> list[tuple]:
    """(group names, {answer: count}) under `depth` levels of groups."""
    if not isinstance(content, dict):
        raise ValueError(f"{where}: an object is needed, not {str(content)[:40]!r}")
    if depth == 0:
        return [(groups, content)]
    found = []
    for name, inner in content.items():
        if not groups and name in ("MC_options", "question_text", "marginals"):
            continue
        found += _leaves(inner, depth - 1, where, (*groups, name))
    return found


def _answers(counts: dict, item: Item, where: str) -> dict[int, int]:
    """Option -> number of people; refusals left out."""
    found: dict[int, int] = {}
    for answer, n in counts.items():
        number = isinstance(n, (int, float)) and not isinstance(n, bool)
        if not number or not 0 <= n <= LARGEST or n % 1:
            raise ValueError(f"{where}, answer {answer!r}: {n!r} is not a number of people")
        if answer.strip() in item.place:
            place = item.place[answer.strip()]
            found[place] = found.get(place, 0) + int(n)
        elif answer.strip().casefold() not in item.refusals:
            raise ValueError(f"{where}: answer {answer!r} is not one of {list(item.question.options)}")
    return found
