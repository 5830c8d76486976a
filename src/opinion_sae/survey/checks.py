"""Reading files from outside: one clear error that names file, row and column."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd


def read_text(path: Path) -> str:
    """The file's text (UTF-8, with or without a byte order mark).

    FileNotFoundError if it is absent; ValueError with the row where it is not UTF-8.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = raw[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}: line {row}: byte {raw[error.start]:#04x} is not UTF-8; save the file as UTF-8"
        ) from error


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A CSV file as text, one column per header name, "" where a field is empty.

    The index is the row as a spreadsheet counts it (the header is row 1). ValueError if the file
    is empty, a column of `columns` is missing or doubled, or a row has another length.
    """
    text = read_text(path)
    if "\0" in text:
        raise ValueError(f"{path}: line {text[: text.index(chr(0))].count(chr(10)) + 1}: a NUL byte")
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
            raise ValueError(
                f"{path}: row {number}: {len(row)} fields where the header has {len(header)}"
            )
        kept.append(row)
        numbers.append(number)
    if not kept:
        raise ValueError(f"{path}: no row under the header")
    return pd.DataFrame(kept, columns=header, index=numbers, dtype=object)


def numbers(
    frame: pd.DataFrame, column: str, path: Path, least: float = 0.0, whole: bool = False
) -> pd.Series:
    """A text column as finite numbers, none under `least`; ValueError names row and column."""
    values = pd.to_numeric(frame[column], errors="coerce").astype(float)
    bad = ~(values >= least) | (values == float("inf"))
    if whole:
        bad |= values % 1 != 0
    if bad.any():
        row = frame.index[bad.to_numpy()][0]
        kind = "whole number" if whole else "number"
        raise ValueError(
            f"{path}: row {row}, column {column!r}: {frame.at[row, column]!r} is not a {kind} "
            f"of at least {least:g}"
        )
    return values.astype(int) if whole else values


def read_json(path: Path) -> dict:
    """A JSON object; ValueError if the file holds something else."""
    try:
        value = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: line {error.lineno}: not JSON: {error.msg}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: a JSON object is needed, not a {type(value).__name__}")
    return value
