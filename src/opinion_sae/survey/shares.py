"""Readers of published answer shares: SubPOP and GlobalOpinionQA, from a file or the hub.

Both hold shares of answers but not how many people gave them, so every cell is given the same
NOMINAL number of respondents. Means and fits are not touched by that; whatever rests on sample
size (noise floor, effective size, min_respondents) is nominal, and provenance says so.

SubPOP (Suh et al. 2025, hub id jjssuh/subpop, gated, CC BY-NC-SA 4.0), subpop_train.jsonl and
subpop_eval.jsonl, or the same as CSV: a row per question and group with qkey, attribute, group,
question, options (a list, the refusal last), responses (shares without the refusal), ordinal
(places on the scale, as in OpinionQA). For two attributes, attribute and group are lists.

GlobalOpinionQA (Durmus et al. 2023, hub id Anthropic/llm_global_opinions, CC BY-NC-SA 4.0),
data/global_opinions.csv: a row per question with question, options (a list), selections
("defaultdict(<class 'list'>, {country: [share of each option]})") and source (GAS or WVS). It has
no scale, so its questions are not ordinal; countries count equally in "everyone".
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from opinion_sae.survey.checks import (
    check_question,
    literal,
    number_list,
    read_json_lines,
    read_table,
)
from opinion_sae.survey.core import Question
from opinion_sae.survey.groups import EVERYONE, canonical_attribute
from opinion_sae.survey.table import CELL_COLUMNS, SurveyTable

NOMINAL = 1000
SUBPOP_COLUMNS = ("qkey", "attribute", "group", "question", "options", "responses", "ordinal")
GLOBAL_COLUMNS = ("question", "selections", "options", "source")
HUB_FILES = {
    "subpop": ("jjssuh/subpop", "subpop_train.jsonl"),
    "globalopinionqa": ("Anthropic/llm_global_opinions", "data/global_opinions.csv"),
}
GLOBAL_SOURCES = {"GAS": "Pew Global Attitudes Survey", "WVS": "World Values Survey"}
# no answer, in the words of the two surveys behind GlobalOpinionQA
NO_ANSWER = re.compile(r"(dk|don.?t know|do not know|refused|no answer|no response|not asked|missing)\b", re.IGNORECASE)


def shares_file(kind: str, source: str) -> Path:
    """The file of a `subpop` or `globalopinionqa` source: a path, or a hub id to download from.

    A hub id is owner/name, optionally with /file inside it (jjssuh/subpop/subpop_eval.jsonl).
    FileNotFoundError says what was tried if the hub cannot be reached or refuses.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    repo, _, inside = source.partition("/")
    name, _, inside = inside.partition("/")
    if not re.fullmatch(r"[\w.-]+", repo) or not re.fullmatch(r"[\w.-]+", name):
        raise FileNotFoundError(
            f"{source}: no such file; name a .jsonl or .csv file or a hub id such as {HUB_FILES[kind][0]}"
        )
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    file = inside or HUB_FILES[kind][1]
    try:
        return Path(hf_hub_download(f"{repo}/{name}", file, repo_type="dataset"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"{source}: no such file here, and {file} of hub data set {repo}/{name} could not be "
            f"had ({type(error).__name__}). Download it where there is a network (SubPOP needs an "
            "account with access granted) and name its path"
        ) from error


def read_subpop(path: Path) -> SurveyTable:
    """Read a SubPOP file (.jsonl or .csv); ValueError names row and column."""
    reader = read_json_lines if path.suffix == ".jsonl" else read_table
    frame = reader(path, SUBPOP_COLUMNS)
    questions: dict[str, Question] = {}
    cells: dict[tuple, list[float]] = {}
    for row, r in frame.iterrows():
        where = f"{path}: row {row}"
        question = _subpop_question(r, path.stem, where)
        known = questions.setdefault(question.key, question)
        if known != question:
            raise ValueError(f"{where}, column 'qkey': {question.key!r} is worded two ways")
        shares = _ordered(r, where)
        attribute, group = _subpop_group(r, where)
        if (question.key, attribute, group) in cells:
            raise ValueError(f"{where}, column 'group': {group!r} is there twice for this question")
        cells[question.key, attribute, group] = shares
    return _shares_table(path, tuple(questions.values()), cells, {})


def _subpop_question(row: pd.Series, survey: str, where: str) -> Question:
    for column in ("qkey", "question"):
        if not isinstance(row[column], str):
            raise ValueError(f"{where}, column {column!r}: {row[column]!r} is not a text")
    options = literal(row["options"], list, f"{where}, column 'options'")
    places = number_list(row["ordinal"], f"{where}, column 'ordinal'")
    if len(options) != len(places) + 1:
        raise ValueError(
            f"{where}, column 'ordinal': {len(places)} places for {len(options)} options; one "
            "fewer is needed, as the last option is the refusal"
        )
    steps = np.diff(sorted(places))
    scale = bool((steps > 0).all())
    uneven = scale and not np.allclose(steps, steps[:1])
    order = np.argsort(places, kind="stable")
    question = Question(
        key=row["qkey"],
        text=row["question"].strip(),
        options=tuple(str(options[i]).strip() for i in order),
        ordinal=scale,
        topic="general",
        survey=survey,
        positions=tuple(sorted(places)) if uneven else (),
    )
    check_question(question, where)
    return question


def _ordered(row: pd.Series, where: str) -> list[float]:
    column = f"{where}, column 'responses'"
    shares = _shares(row["responses"], column)
    places = number_list(row["ordinal"], where)
    if len(shares) != len(places):
        raise ValueError(f"{column}: {len(shares)} shares for {len(places)} options")
    if abs(sum(shares) - 1) > 0.01:
        raise ValueError(f"{column}: the shares add up to {sum(shares):g}, not 1")
    return [shares[i] for i in np.argsort(places, kind="stable")]


def _shares(text: object, where: str) -> list[float]:
    shares = number_list(text, where)
    if min(shares, default=0.0) < 0:
        raise ValueError(f"{where}: {min(shares)} is negative")
    return shares


def _subpop_group(row: pd.Series, where: str) -> tuple[str, str]:
    """(attribute, group), also of an intersection, which is written as two lists."""
    attributes, groups = ([text] for text in (row["attribute"], row["group"]))
    if str(row["attribute"]).startswith("[") or isinstance(row["attribute"], list):
        attributes = literal(row["attribute"], list, f"{where}, column 'attribute'")
        groups = literal(row["group"], list, f"{where}, column 'group'")
    if len(attributes) != len(groups) or not all(
        isinstance(name, str) and name.strip() for name in (*attributes, *groups)
    ):
        raise ValueError(f"{where}, column 'group': {row['group']!r} does not go with the attribute")
    return " x ".join(attributes), " & ".join(groups)


def read_global_opinionqa(path: Path) -> SurveyTable:
    """Read GlobalOpinionQA's file; ValueError names row and column.

    Options that are no answer ("DK/Refused") are left out and the rest scaled up. The published
    file has rows and lists that cannot be used; a row without text or without two options, and a
    country whose list is empty or of another length, are left out, with the reason in
    provenance["left_out"].
    """
    frame = read_table(path, GLOBAL_COLUMNS)
    questions, cells, left_out = [], {}, {}
    for row, r in frame.iterrows():
        where = f"{path}: row {row}"
        options = [str(o).strip() for o in literal(r["options"], list, f"{where}, column 'options'")]
        kept = [i for i, o in enumerate(options) if o and not NO_ANSWER.match(o)]
        names = tuple(options[i] for i in kept)
        if not r["question"].strip() or len(set(names)) < 2 or len(set(names)) < len(names):
            left_out[f"row {row}"] = "no text, or not two different options"
            continue
        topic = GLOBAL_SOURCES.get(r["source"], "general")
        question = Question(f"goqa-{row}", r["question"].strip(), names, False, topic, path.stem)
        check_question(question, where)
        found = {}
        for country, shares in _selections(r["selections"], f"{where}, column 'selections'").items():
            if len(shares) != len(options) or sum(shares[i] for i in kept) <= 0:
                left_out[f"row {row}, {country}"] = f"{len(shares)} shares, {len(options)} options"
                continue
            found[question.key, "country", country] = [shares[i] for i in kept]
        if not found:
            left_out[f"row {row}"] = "no country with answers"
            continue
        questions.append(question)
        cells |= found
    if not questions:
        raise ValueError(f"{path}: no row with a question, two options and a country's answers")
    return _shares_table(path, tuple(questions), cells, left_out)


def _selections(text: str, where: str) -> dict[str, list[float]]:
    """The countries' shares out of "defaultdict(<class 'list'>, {...})"."""
    inner = re.fullmatch(r"(?:defaultdict\(<class 'list'>, )?(\{.*\})\)?", text.strip(), re.DOTALL)
    if not inner:
        raise ValueError(f"{where}: {text[:60]!r} is not a dictionary of countries")
    countries = literal(inner[1], dict, where)
    if not all(isinstance(name, str) and name.strip() for name in countries):
        raise ValueError(f"{where}: a country without a name")
    return {name.strip(): _shares(shares, f"{where}, {name}") for name, shares in countries.items()}


def _shares_table(
    path: Path, questions: tuple[Question, ...], cells: dict[tuple, list[float]], left_out: dict
) -> SurveyTable:
    """Shares as counts of NOMINAL people a cell; "everyone" is the mean of the sexes if there."""
    rows = []
    by_question: dict[str, dict[str, list[np.ndarray]]] = {}
    for (key, attribute, group), shares in cells.items():
        counts = NOMINAL * np.asarray(shares) / sum(shares)
        rows += _cell_rows(key, attribute, group, counts)
        if " x " not in attribute:
            by_question.setdefault(key, {}).setdefault(attribute, []).append(counts)
    for question in questions:
        attributes = by_question.get(question.key)
        if not attributes:
            raise ValueError(f"{path}: question {question.key!r} is there for intersections only")
        # two halves of a population say most about the whole
        sexes = [a for a in attributes if canonical_attribute(a) == "sex"]
        chosen = attributes[sexes[0]] if sexes else sum(attributes.values(), start=[])
        rows += _cell_rows(question.key, *EVERYONE, np.mean(chosen, axis=0))
    provenance = {
        "title": path.stem,
        "respondents": f"not in the file: {NOMINAL} a cell are assumed",
        "everyone": "the mean of the two sexes where there are any, else of all groups",
        "left_out": left_out,
    }
    return SurveyTable(path.stem, questions, pd.DataFrame(rows, columns=CELL_COLUMNS), provenance)


def _cell_rows(key: str, attribute: str, group: str, counts: np.ndarray) -> list[tuple]:
    # whole people that add up to NOMINAL: the fractions live in the weights
    people = np.diff(np.round(np.cumsum(counts)), prepend=0).astype(int)
    return [(key, attribute, group, option, int(people[option]), float(n), float(n)) for option, n in enumerate(counts)]
