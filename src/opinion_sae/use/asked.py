"""Questions of one's own, from a CSV file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from opinion_sae.survey import Question
from opinion_sae.survey.checks import check_question, read_table

NEEDED = ("question", "options")
OPTIONAL = ("key", "ordinal", "toplines")
LONGEST = 4000  # characters of a question; a prompt is read whole
TRUTH = {"true": True, "false": False, "": False}


@dataclass(frozen=True)
class Asked:
    """A question, and everybody's answers to it where they are known: shares that add up to 1, else ()."""

    question: Question
    toplines: tuple[float, ...] = ()


def read_questions(path: str | Path) -> list[Asked]:
    """Read a CSV file (UTF-8, with or without a byte order mark) with one question a row.

    Columns: `question`, its text; `options`, separated by |, in order. If wanted: `key`, a short name (else q1, q2, ...
    by place); `ordinal`, true or false: whether the options run along a scale; `toplines`, everybody's shares in the
    options' order, separated by |, as percent or fractions. Further columns are ignored, unless one is nearly called
    like these. FileNotFoundError, or ValueError naming row (as a spreadsheet counts, the header is row 1) and column.
    """
    path = Path(path)
    table = read_table(path, NEEDED)
    for column in table:
        meant = get_close_matches(column.strip().lower(), OPTIONAL, n=1, cutoff=0.8)
        if meant and column not in OPTIONAL:
            raise ValueError(f"{path}: column {column!r} is not known; {meant[0]!r} would be")
        if column in OPTIONAL and list(table.columns).count(column) > 1:
            raise ValueError(f"{path}: column {column!r} is there twice")
    asked, rows = [], {}
    for place, (row, fields) in enumerate(table.iterrows(), start=1):
        one = _asked({name: str(value).strip() for name, value in fields.items()}, f"{path}: row {row}", place)
        key = one.question.key
        if key in rows:
            raise ValueError(f"{path}: row {row}, column 'key': {key!r} is also the key of row {rows[key]}")
        rows[key] = row
        asked.append(one)
    return asked


def _asked(fields: dict[str, str], where: str, place: int) -> Asked:
    text, ordinal = fields["question"], fields.get("ordinal", "").lower()
    if not text:
        raise ValueError(f"{where}, column 'question': there is no text")
    if len(text) > LONGEST:
        raise ValueError(f"{where}, column 'question': {len(text)} characters; at most {LONGEST} are read")
    if ordinal not in TRUTH:
        raise ValueError(f"{where}, column 'ordinal': {fields['ordinal']!r} is neither true nor false")
    options = tuple(option.strip() for option in fields["options"].split("|"))
    question = Question(fields.get("key") or f"q{place}", text, options, TRUTH[ordinal], "", "asked")
    check_question(question, f"{where}, column 'options'")
    return Asked(question, toplines(fields.get("toplines", ""), options, f"{where}, column 'toplines'"))


def toplines(text: str, options: tuple[str, ...], where: str) -> tuple[float, ...]:
    """Shares that add up to 1, from '62|38', '62%|38%' or '0.62|0.38'; () from nothing.

    Rounding is allowed for: each share may be off by half a percent. ValueError for anything else.
    """
    if not text:
        return ()
    shares = []
    for part in text.split("|"):
        try:
            shares.append(float(part.strip().removesuffix("%")))
        except ValueError as error:
            raise ValueError(f"{where}: {part.strip()!r} is not a number") from error
    if len(shares) != len(options):
        raise ValueError(f"{where}: {len(shares)} shares for {len(options)} options")
    if not all(math.isfinite(share) and share >= 0 for share in shares):
        raise ValueError(f"{where}: {text!r}: a share is a number from 0 up")
    total, rounding = sum(shares), 0.005 * len(options) + 1e-9
    if min(abs(total - 1), abs(total / 100 - 1)) > rounding:
        raise ValueError(f"{where}: the shares add up to {total:g}; those of all who answered add up to 100 or to 1")
    return tuple(share / total for share in shares)
