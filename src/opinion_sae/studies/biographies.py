"""Biographies with profession and gender, from a user's file: Bias in Bios (De-Arteaga et al. 2019)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from opinion_sae.artifacts import check_plain
from opinion_sae.survey.checks import read_json_lines, read_parquet, read_table

COLUMNS = ("hard_text", "profession", "gender")
MOST = {
    "profession": 27,
    "gender": 1,
}  # the Hub's copy numbers professions from 0 by the alphabet, and 0 male, 1 female
PROFESSOR, NURSE, MALE = 21, 13, 0
LEAST = 20  # biographies of each profession and gender
READERS = {".parquet": read_parquet, ".csv": read_table, ".jsonl": read_json_lines}


def load_biographies(path: Path) -> pd.DataFrame:
    """The biographies of professors and nurses, each text once: `text`, `professor` and `male`.

    `path` is a file, or a folder all of whose files are taken (train, dev and test are divided anew): .parquet, .csv or
    .jsonl with the columns of the Hub's LabHC/bias_in_bios: `hard_text` without the sentence that names the profession,
    `profession` from 0 to 27, `gender` 0 (he) or 1 (she). Pickles, as which the data set came, can run code and are
    never read. FileNotFoundError, or ValueError with file, row and column.
    """
    path = path.expanduser()
    found = pd.concat([_read(file) for file in _files(path)], ignore_index=True).drop_duplicates("text")
    for professor in (True, False):
        for male in (True, False):
            count = int(((found["professor"] == professor) & (found["male"] == male)).sum())
            if count < LEAST:
                who = f"{'male' if male else 'female'} {'professors' if professor else 'nurses'}"
                raise ValueError(f"{path}: biographies of {count} {who}; at least {LEAST} of each kind are needed")
    return found.reset_index(drop=True)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        if path.suffix not in READERS and path.exists():
            pickled = " (a pickle can run code, and is not read)" if path.suffix in (".pkl", ".pickle") else ""
            raise ValueError(f"{path}: not {', '.join(READERS)}{pickled}; take the Hub's LabHC/bias_in_bios")
        return [check_plain(path)]
    files = sorted(file for file in path.rglob("*") if file.suffix in READERS and file.is_file())
    if not files:
        raise FileNotFoundError(f"{path}: no file in {', '.join(READERS)}; take the Hub's LabHC/bias_in_bios")
    return files


def _read(path: Path) -> pd.DataFrame:
    frame = READERS[path.suffix](path, COLUMNS)
    for column, most in MOST.items():
        _check(
            path,
            frame,
            column,
            ~frame[column].astype(str).isin([str(code) for code in range(most + 1)]),
            f"0 to {most}",
        )
    text = frame["hard_text"].map(lambda cell: isinstance(cell, str) and bool(cell.strip()))
    _check(path, frame, "hard_text", ~text.astype(bool), "a text")
    codes = {column: frame[column].astype(str).astype(int) for column in MOST}
    found = pd.DataFrame(
        {
            "text": frame["hard_text"],
            "professor": codes["profession"] == PROFESSOR,
            "male": codes["gender"] == MALE,
        }
    )
    return found[codes["profession"].isin([PROFESSOR, NURSE])]


def _check(path: Path, frame: pd.DataFrame, column: str, bad: pd.Series, needed: str) -> None:
    if bad.any():
        row = frame.index[int(np.argmax(bad.to_numpy()))]
        raise ValueError(f"{path}: row {row}, column {column!r}: {str(frame.at[row, column])[:40]!r} is not {needed}")


def some_of_each(found: pd.DataFrame, most: int, seed: int) -> pd.DataFrame:
    """As many biographies of each profession and gender, at most so many, drawn; in the order of the file."""
    groups = [part.index.to_numpy() for _, part in found.groupby(["professor", "male"])]
    count, rng = min(most, *map(len, groups)), np.random.default_rng(seed)
    return found.loc[np.sort(np.concatenate([rng.permutation(rows)[:count] for rows in groups]))]
