"""The chapter on one question: which one it is, its rows of `answers.csv`, and the sentences on it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from opinion_sae.score.gap_pairs import Pair
from opinion_sae.score.gaps import actual_gaps
from opinion_sae.score.metrics import option_positions
from opinion_sae.score.names import prose
from opinion_sae.survey import Question, Survey

OPTIONS = 4  # with fewer there is little of a distribution to see
Z = 1.96  # of a normal variable, 95 %
READING = "delta-reading-64"
METHODS = {
    task: (first, "delta", READING, "words") for task, first in (("alone", "unsteered"), ("toplines", "toplines"))
}


def read_answers(path: Path) -> pd.DataFrame:
    """`answers.csv`; an option or a group called None stays a text."""
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def columns_of(rows: pd.DataFrame, task: str) -> dict[str, str]:
    """By method, the column of `answers.csv` that has its answers of a task; of those columns that are there."""
    end = "-from-toplines" if task == "toplines" else ""
    columns = {name: name if name == "toplines" else f"{name}{end}" for name in METHODS[task]}
    return {name: column for name, column in columns.items() if column in rows}


class Chosen(NamedTuple):
    """A question, those that people of two groups are as divided on, and the rule it was chosen by, as sentences."""

    question: Question
    among: tuple[Question, ...]
    rule: str


def choose(survey: Survey, pair: Pair) -> Chosen:
    """The question in the middle of the quarter on which people of two groups stand furthest apart.

    Of the ordinal questions with OPTIONS or more options, if there are such, that both groups answered. No answer of
    any method goes into the choice. ValueError if the groups have no ordinal question in common.
    """
    gaps = actual_gaps(survey)[0]
    apart = gaps[survey.groups.index(pair[0])] - gaps[survey.groups.index(pair[1])]
    options = np.array([len(question.options) for question in survey.questions])
    there = ~np.isnan(apart)
    if not there.any():
        raise ValueError(f"the survey {survey.name} has no ordinal question that {pair[0]} and {pair[1]} answered")
    least = min(OPTIONS, int(options[there].max()))
    able = np.flatnonzero(there & (options >= least))
    order = able[np.argsort(-np.abs(apart[able]), kind="stable")]
    quarter = max(1, len(order) // 4)
    among = tuple(survey.questions[int(place)] for place in order[:quarter])
    rule = (
        f"{len(order)} questions with {least} or more ordered options were answered by both of the groups {pair[0]} "
        f"and {pair[1]}. Of the {quarter} on which these two groups stand furthest apart, this is the one in the "
        f"middle: number {quarter // 2 + 1}. Only people's answers went into the choice."
    )
    return Chosen(among[quarter // 2], among, rule)


def asked_page(question: Question, rule: str) -> str:
    """The question as it was asked, its options, and why it is this one."""
    options = "\n".join(f"- {option}" for option in question.options)
    return f"> {question.text}\n\n{options}\n\n{rule} In the tables it is `{question.key}`."


def rows_of(answers: pd.DataFrame, question: Question, pair: Pair) -> pd.DataFrame:
    """The rows of `answers.csv` of a question and two groups, with people's 95 % interval in `low` and `high`.

    The interval is Wilson's (1927) for n_effective people, which stays within 0 and 1:

        (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)
    """
    rows = answers[(answers["question"] == question.key) & answers["group"].isin(pair)].reset_index(drop=True)
    p, n = rows["people"], rows["n_effective"]
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * np.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    return rows.assign(low=centre - half, high=centre + half)


def apart_in(rows: pd.DataFrame, column: str, question: Question, pair: Pair) -> float:
    """place(first group) - place(second) as a column of shares has it, from -1 to 1."""
    place = option_positions((question,), len(question.options))[0]
    shares = [rows.loc[rows["group"] == group, column].to_numpy() for group in pair]
    return round(float(((shares[0] - shares[1]) * place).sum()), 4) + 0.0


def off_by(rows: pd.DataFrame, column: str) -> float:
    """Total variation between people's shares and a column's, mean over the two groups."""
    return float((rows["people"] - rows[column]).abs().groupby(rows["group"]).sum().mean() / 2)


def shown_sentence(rows: pd.DataFrame, question: Question, pair: Pair, task: str) -> str:
    """What the figure of a task shows: how far apart the groups are, as people and as each method has it, and how far
    its shares are from people's."""
    actual, columns = apart_in(rows, "people", question, pair), columns_of(rows, task)
    said = [f"{_signed(apart_in(rows, column, question, pair))} for {prose(name)}" for name, column in columns.items()]
    text = (
        f"On the scale from {question.options[0]!r} (0) to {question.options[-1]!r} (1), {pair[0]} minus {pair[1]} is "
        f"{_signed(actual)} for people, and {', '.join(said[:-1])} and {said[-1]}."
    )
    if READING not in columns:
        return text
    first, reading = METHODS[task][0], columns[READING]
    before, after = off_by(rows, columns[first]), off_by(rows, reading)
    return f"{text} {verdict(actual, apart_in(rows, reading, question, pair))} {moved(before, after, first)}"


def verdict(actual: float, predicted: float) -> str:
    """What the reading offset got right or wrong of the difference between two groups, in one sentence."""
    whose = f"{_capital(prose(READING))} has"
    if abs(actual) < 0.005:
        return f"{whose} {_signed(predicted)} where people of the two groups stand at the same place."
    if abs(predicted) < 0.005:
        return f"{whose} no difference to speak of where people have one."
    if predicted * actual < 0:
        return f"{whose} the wrong direction."
    return f"{whose} the right direction and {predicted / actual:.0%} of the distance."


def moved(before: float, after: float, first: str) -> str:
    """How far the reading offset's shares are from people's, beside those it started from."""
    return (
        f"Its shares are {100 * after:.0f} percentage points from people's, those of {prose(first)} {100 * before:.0f} "
        "(total variation, mean of both groups)."
    )


def among_sentence(answers: pd.DataFrame, chosen: Chosen, pair: Pair, task: str) -> str:
    """Whether the question is typical: on how many of those it was chosen among each method has the direction right,
    and the median part of people's distance that it finds (below 0: the wrong way)."""
    columns, said = columns_of(answers, task), []
    tables = [(question, rows_of(answers, question, pair)) for question in chosen.among]
    actual = np.array([apart_in(rows, "people", question, pair) for question, rows in tables])
    for name in METHODS[task][1:]:
        if name in columns:
            part = np.array([apart_in(rows, columns[name], question, pair) for question, rows in tables]) / actual
            said.append(f"{(part > 0).sum()} for {prose(name)} (median {np.median(part):.0%} of the distance)")
    return (
        f"Of the {len(tables)} questions that it was chosen among, the direction is right on {', '.join(said[:-1])} "
        f"and {said[-1]}."
    )


def scale_table(gaps: pd.DataFrame, alignment: pd.DataFrame, floor: pd.DataFrame) -> pd.DataFrame:
    """One row per dot of the KL axis, furthest first: task, method, kl, kl_low, kl_high, over all groups.

    *Alone* and *from toplines* are those of `gaps.csv`, equal shares of `alignment.csv`, the floor of `floor.csv`.
    """
    whole, columns = gaps[gaps["group"] == "all"], ["task", "method", "kl", "kl_low", "kl_high"]
    parts = [
        whole.loc[(whole["task"] == task) & whole["method"].isin(names), columns] for task, names in METHODS.items()
    ]
    uniform = alignment[(alignment["group"] == "all") & (alignment["method"] == "uniform")]
    parts.append(uniform.assign(task="alone")[columns])
    parts.append(floor[floor["group"] == "all"].assign(task="floor", method="floor")[columns])
    return pd.concat(parts).sort_values("kl", ascending=False, kind="stable").reset_index(drop=True)


def scale_sentence(table: pd.DataFrame, gaps: pd.DataFrame) -> str:
    """How much larger the model's own error is than what tells the groups apart, and how far each task gets."""
    reading = gaps[(gaps["task"] == "toplines") & (gaps["group"] == "all") & (gaps["method"] == READING)]
    closed = reading["group_kl_closed"].iloc[0]
    kl = table.set_index(["task", "method"])["kl"]
    unsteered, known, floor = kl["alone", "unsteered"], kl["toplines", "toplines"], kl["floor", "floor"]
    alone = (unsteered - kl["alone", READING]) / (unsteered - floor)
    if np.isnan(closed):
        given = "too few questions to say how much"
    else:
        given = f"{closed:.0%}" if closed > 0 else "nothing"
    return (
        f"The unsteered model is off by {unsteered:.2f} nats, {unsteered / known:.0f} times as far as everybody's "
        f"answers are from a group's ({known:.3f}); sampling noise is {floor:.3f}. "
        f"{_capital(prose(READING))} closes {alone:.0%} of the way down to the noise where it has to answer alone, "
        f"and from toplines {given} of what is left between everybody and the group."
    )


def _signed(value: float) -> str:
    """'+0.21'; never '-0.00'."""
    return f"{round(value, 2) + 0.0:+.2f}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
