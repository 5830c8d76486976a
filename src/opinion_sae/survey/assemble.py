"""Tables of one or more sources -> one Survey: groups merged by name, small cells left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from opinion_sae.survey.core import DroppedCell, Survey
from opinion_sae.survey.groups import EVERYONE, canonical, canonical_attribute, in_order
from opinion_sae.survey.table import SurveyTable


def assemble(
    tables: Sequence[SurveyTable],
    min_respondents: int,
    attributes: Sequence[str] | None = None,
    max_questions: int = 0,
) -> Survey:
    """Join tables into a Survey.

    Groups of the same attribute and (canonical) name become one group. A cell with fewer than
    `min_respondents` people is left out and listed in `dropped`; so is a group that has no cell
    left. ValueError if a key occurs twice, if two attributes of one table are one, if an attribute
    that was asked for is in no table, or if all its groups are too small.
    """
    _check_questions(tables)
    for table in tables:
        _check_attributes(table)
    cells = _named_cells(tables)
    cells = cells[cells["attribute"].isin([EVERYONE[0], *_wanted(cells, attributes)])]
    questions = [q for table in tables for q in table.questions]
    if 0 < max_questions < len(questions):
        even = np.linspace(0, len(questions) - 1, max_questions).round().astype(int)
        questions = [questions[i] for i in even]
    keys = [q.key for q in questions]
    pairs = in_order(zip(cells["attribute"], cells["group"], strict=True))
    pairs = [EVERYONE, *(p for p in pairs if p != EVERYONE)]
    counts, people, squares = _arrays(cells, pairs, keys, max(len(q.options) for q in questions))
    effective = _kish(counts, squares)
    _check_everyone(tables, keys, people[0])
    asked = _asked(cells, pairs, keys, questions)
    small = asked & (people < min_respondents)
    small[0] = False
    dropped = tuple(DroppedCell(pairs[g][1], keys[q], int(people[g, q])) for g, q in np.argwhere(small))
    counts[small], people[small], effective[small] = 0, 0, 0
    kept = np.flatnonzero((people > 0).any(1))[1:]
    _check_groups(pairs, kept, attributes, min_respondents, dropped)
    return Survey(
        name="+".join(dict.fromkeys(table.name for table in tables)),
        questions=tuple(questions),
        groups=tuple(pairs[g][1] for g in kept),
        attributes=tuple(pairs[g][0] for g in kept),
        counts=counts[kept],
        respondents=people[kept],
        effective=effective[kept],
        everyone=counts[0],
        everyone_effective=effective[0],
        dropped=dropped,
        provenance={table.name: table.provenance for table in tables},
    )


def _check_questions(tables: Sequence[SurveyTable]) -> None:
    owner: dict[str, str] = {}
    for table in tables:
        for question in table.questions:
            if question.key in owner:
                raise ValueError(
                    f"{table.name}: question {question.key!r} is already in {owner[question.key]}; "
                    "question keys must differ"
                )
            owner[question.key] = table.name


def _check_attributes(table: SurveyTable) -> None:
    """Raise ValueError for two attributes of one table that are one, such as RACE and ETHNICITY: their people, who are
    the same people, would be added up."""
    owner: dict[str, str] = {}
    for name in dict.fromkeys(table.cells["attribute"]):
        other = owner.setdefault(canonical_attribute(name), name)
        if other != name:
            first, second = sorted((other, name))
            raise ValueError(
                f"{table.name}: attributes {first!r} and {second!r} are both read as {canonical_attribute(name)!r}; "
                "keep one of them, or give one a name of its own"
            )


def _named_cells(tables: Sequence[SurveyTable]) -> pd.DataFrame:
    """All cells under canonical names; a name that two attributes share gets "(attribute)"."""
    cells = pd.concat([table.cells for table in tables], ignore_index=True)
    names = cells[["attribute", "group"]].drop_duplicates()
    to = {(attribute, group): canonical(attribute, group) for attribute, group in names.values}
    owners: dict[str, set[str]] = {}
    for owner, group in to.values():
        owners.setdefault(group, set()).add(owner)
    for source, (owner, group) in to.items():
        if len(owners[group]) > 1:
            to[source] = (owner, f"{group} ({owner})")
    renamed = pd.DataFrame(
        [(*source, *target) for source, target in to.items()],
        columns=["attribute", "group", "to_attribute", "to_group"],
    )
    cells = cells.merge(renamed, on=["attribute", "group"], how="left")
    cells[["attribute", "group"]] = cells[["to_attribute", "to_group"]]
    return cells.drop(columns=["to_attribute", "to_group"])


def _wanted(cells: pd.DataFrame, attributes: Sequence[str] | None) -> list[str]:
    there = [a for a in dict.fromkeys(cells["attribute"]) if a != EVERYONE[0]]
    if not attributes:
        return [a for a in there if " x " not in a]
    wanted = [canonical_attribute(a) for a in attributes]
    for asked, name in zip(attributes, wanted, strict=True):
        if name not in there:
            raise ValueError(f"attribute {asked!r} is not in the survey; there are: {', '.join(there)}")
    return wanted


def _arrays(
    cells: pd.DataFrame, pairs: list[tuple[str, str]], keys: list[str], width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weighted counts (pair, key, option), people (pair, key) and Σw² (pair, key)."""
    cells = cells[cells["question"].isin(keys)]
    row = pd.MultiIndex.from_tuples(pairs).get_indexer(pd.MultiIndex.from_frame(cells[["attribute", "group"]]))
    column = pd.Index(keys).get_indexer(cells["question"])
    counts = np.zeros((len(pairs), len(keys), width))
    people = np.zeros((len(pairs), len(keys)), dtype=np.int64)
    squares = np.zeros((len(pairs), len(keys)))
    np.add.at(counts, (row, column, cells["option"].to_numpy()), cells["weight"].to_numpy())
    np.add.at(people, (row, column), cells["respondents"].to_numpy())
    np.add.at(squares, (row, column), cells["weight_squared"].to_numpy())
    return counts, people, squares


def _kish(counts: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """(Σw)² / Σw², 0 for an empty cell."""
    total = counts.sum(-1)
    return np.divide(total**2, squares, out=np.zeros_like(total), where=squares > 0)


def _asked(cells: pd.DataFrame, pairs: list, keys: list[str], questions: list) -> np.ndarray:
    """Whether a group's source put the question at all: only such cells can be too small."""
    source = {q.key: q.survey for q in questions}
    here = cells[cells["question"].isin(keys)]
    known = set(zip(here["attribute"], here["group"], here["question"].map(source), strict=True))
    return np.array([[(*pair, source[key]) in known for key in keys] for pair in pairs])


def _check_everyone(tables: Sequence[SurveyTable], keys: list[str], people: np.ndarray) -> None:
    source = {q.key: table.name for table in tables for q in table.questions}
    for key, n in zip(keys, people, strict=True):
        if n == 0:
            raise ValueError(f"{source[key]}: nobody answered question {key!r}")


def _check_groups(pairs: list, kept: np.ndarray, attributes: Sequence[str] | None, least: int, dropped: tuple) -> None:
    there = {pairs[g][0] for g in kept}
    for asked in attributes or ():
        if canonical_attribute(asked) not in there:
            names = [group for attribute, group in pairs if attribute == canonical_attribute(asked)]
            most = max((c.respondents for c in dropped if c.group in names), default=0)
            raise ValueError(
                f"attribute {asked!r}: no group has {least} respondents on any question "
                f"({', '.join(names)}; the largest has {most}); lower min_respondents"
            )
    if not there:
        raise ValueError(f"no group has {least} respondents on any question; lower min_respondents")
