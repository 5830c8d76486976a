"""Reading files from outside: one clear error that names file, row and column."""

from __future__ import annotations

import ast
import csv
import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from opinion_sae.artifacts import check_plain, parse_json, read_text
from opinion_sae.survey.core import Question
from opinion_sae.survey.groups import canonical

MAX_OPTIONS = 26  # options are lettered A to Z
LARGEST = 1e12  # no count or weight is larger; beyond it sums of squares lose digits


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A CSV file as text, one column per header name, "" where a field is empty.

    The index is the row as a spreadsheet counts it (the header is row 1). ValueError if the file
    is empty, a column of `columns` is missing or doubled, or a row has another length.
    """
    text = read_text(path)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise ValueError(f"{path}: not a CSV file: {error}") from error
    if not rows:
        raise ValueError(f"{path}: the file is empty; columns {', '.join(columns)} are needed")
    header = rows[0]
    for column in columns:
        if header.count(column) != 1:
            found = "is there twice" if column in header else "is missing"
            raise ValueError(f"{path}: column {column!r} {found}; the header is {', '.join(header)}")
    kept, numbers = [], []
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        if len(row) != len(header):
            raise ValueError(f"{path}: row {number}: {len(row)} fields where the header has {len(header)}")
        kept.append(row)
        numbers.append(number)
    if not kept:
        raise ValueError(f"{path}: no row under the header")
    return pd.DataFrame(kept, columns=header, index=numbers, dtype=object)


def numbers(frame: pd.DataFrame, column: str, path: Path, least: float = 0.0, whole: bool = False) -> pd.Series:
    """A text column as numbers from `least` to LARGEST; ValueError names row and column."""
    values = pd.to_numeric(frame[column], errors="coerce").astype(float)
    bad = ~values.between(least, LARGEST)
    if whole:
        bad |= values % 1 != 0
    if bad.any():
        row = frame.index[bad.to_numpy()][0]
        kind = "whole number" if whole else "number"
        raise ValueError(
            f"{path}: row {row}, column {column!r}: {frame.at[row, column]!r} is not a {kind} "
            f"from {least:g} to {LARGEST:g}"
        )
    return values.astype(int) if whole else values


def refuse(frame: pd.DataFrame, bad: pd.Series, column: str, why: str, path: Path) -> None:
    """ValueError, with the first row that is `bad`, its value in a column, and why."""
    if bad.any():
        row = frame.index[bad.to_numpy()][0]
        value = frame.at[row, column] if column in frame else "the number"
        shown = repr(value) if isinstance(value, str) and column in frame else str(value)  # not np.int64(2)
        raise ValueError(f"{path}: row {row}, column {column!r}: {shown} {why}")


def read_json_lines(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A file of one JSON object a line, as a frame whose index is the line number (from 1)."""
    rows, lines = [], []
    for line, text in enumerate(read_text(path).split("\n"), start=1):  # not at U+2028, which JSON may hold as it is
        if not text.strip():
            continue
        row = parse_json(text, str(path), line)
        if not isinstance(row, dict):
            raise ValueError(f"{path}: line {line}: a JSON object is needed")
        for column in columns:
            if row.get(column) is None:
                raise ValueError(f"{path}: line {line}: {column!r} is missing")
        rows.append({column: row[column] for column in columns})
        lines.append(line)
    if not rows:
        raise ValueError(f"{path}: the file is empty")
    return pd.DataFrame(rows, index=lines, dtype=object)


def read_parquet(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """These columns of a Parquet file, as a frame whose index is the row (from 1).

    FileNotFoundError; ValueError if a column is missing or doubled, or the file is not whole.
    """
    from pyarrow import ArrowException, parquet  # slow to import, and used here only

    path = check_plain(path)
    try:
        with parquet.ParquetFile(path) as file:
            header = file.schema_arrow.names
            for column in columns:
                if header.count(column) != 1:
                    found = "is there twice" if column in header else "is missing"
                    raise ValueError(f"{path}: column {column!r} {found}; there are {', '.join(header)}")
            table = file.read(columns=list(columns))
            found = {column: table[column].to_pylist() for column in columns}
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a whole Parquet file: {' '.join(str(error).split())}") from error
    if not table.num_rows:
        raise ValueError(f"{path}: the file is empty")
    return pd.DataFrame(found, index=range(1, table.num_rows + 1), dtype=object)


def literal(text: object, kind: type, where: str) -> list | dict:
    """A Python list or dict written as text (never evaluated as code), or one already read."""
    value = text
    if isinstance(text, str):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise ValueError(f"{where}: {text[:60]!r} is not a Python {kind.__name__}") from error
    if not isinstance(value, kind):
        raise ValueError(f"{where}: {str(text)[:60]!r} is not a Python {kind.__name__}")
    return value


def number_list(text: object, where: str) -> list[float]:
    """A list of finite numbers written as text, or one already read."""
    values = literal(text, list, where)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{where}: {value!r} is not a number")
        if not abs(value) <= LARGEST:
            raise ValueError(f"{where}: {value!r} is not a finite number up to {LARGEST:g}")
    return [float(value) for value in values]


def check_groups(frame: pd.DataFrame, path: Path) -> None:
    """ValueError, with the row, for a group that does not go with its attribute."""
    for row, (attribute, group) in frame[["attribute", "group"]].drop_duplicates().iterrows():
        try:
            canonical(attribute, group)
        except ValueError as error:
            raise ValueError(f"{path}: row {row}, column 'group': {error}") from error


def check_question(question: Question, where: str) -> None:
    """ValueError unless it has a key, a text and 2 to 26 different options, none of them empty."""
    if not question.key.strip():
        raise ValueError(f"{where}: the question has no key")
    if not question.text.strip():
        raise ValueError(f"{where}: question {question.key!r} has no text")
    n = len(question.options)
    if not 2 <= n <= MAX_OPTIONS:
        raise ValueError(f"{where}: question {question.key!r} has {n} options; 2 to {MAX_OPTIONS} are possible")
    if not all(option.strip() for option in question.options):
        raise ValueError(f"{where}: an option is empty: {question.options}")
    if len(set(question.options)) < n:
        raise ValueError(f"{where}: the same option twice: {question.options}")
