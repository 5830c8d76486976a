"""One run for every combination of models, layers, surveys and seeds, and one table of them all."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from opinion_sae.artifacts import read_csv, read_text, replacing, write_csv
from opinion_sae.book.paths import PUBLISHED, Run, open_run, relative, run_at
from opinion_sae.book.preflight import check_room, check_run, fetch
from opinion_sae.book.profile import Profile, check_value, find_profile, load_profile, read_values
from opinion_sae.book.terminal import watch
from opinion_sae.book.workflow import command, hold

SWEPT = ("model", "hook_layer", "survey", "seed")  # in this order in a cell's name and in the table
LAST = ("07_alignment", "18_group_gaps")  # the chapters that write the tables
TABLES = ("alignment", "gaps")


@dataclass(frozen=True)
class Cell:
    """One combination: its own profile, and with it its own run."""

    path: Path  # of the profile, in the sweep's folder in `_build`
    profile: Profile
    values: dict[str, Any]  # of SWEPT

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def done(self) -> Path:
        """Is there when the cell's tables are; the workflow makes it."""
        return self.path.with_suffix(".done")

    @property
    def log(self) -> Path:
        return self.path.with_suffix(".log")

    @property
    def tables(self) -> list[Path]:
        return [self.profile.run.results / f"{table}.csv" for table in TABLES]


@dataclass(frozen=True)
class Sweep:
    """What a sweep's file asks for."""

    base: Run  # of the profile that it names: what that took says what a cell's job asks of a cluster
    run: Run
    cells: list[Cell]


def read_sweep(path: Path) -> Sweep:
    """Read a sweep and write a profile for each of its cells, whose `output` is the sweep's with the cell's values.

    The file names a base `profile` (a name, or a path from the file on), an `output` and, for any of SWEPT, a value or
    a list of values; `{hook_layer}` in an `sae` stands for the cell's. Raises ValueError that names the file and what
    is wrong with it or with a cell.
    """
    given = read_values(path, known=("profile", "output", "sae", *SWEPT), needed=("profile", "output"))
    for key in ("profile", "output", "sae"):
        if not isinstance(given.get(key, ""), str):
            raise ValueError(f"{path}: {key} must be text, not {given[key]!r}")
    try:
        named = (
            str(path.parent / given["profile"]) if given["profile"].endswith((".yaml", ".yml")) else given["profile"]
        )
        base, source, run = load_profile(named), read_values(find_profile(named)), run_at(given["output"])
        if run.name in PUBLISHED:
            raise ValueError(f"output {run.name} is where profiles/{run.name}.yaml publishes; name another")
        open_run(given["output"])
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    choices = [_choices(path, key, given[key]) if key in given else [getattr(base, key)] for key in SWEPT]
    cells = []
    for values in (dict(zip(SWEPT, chosen, strict=True)) for chosen in itertools.product(*choices)):
        name = "-".join([run.name, *(_word(values[key]) for key in SWEPT if key in given)])
        sae = str(given.get("sae", base.sae)).replace("{hook_layer}", str(values["hook_layer"]))
        output = f"{given['output'].removesuffix(run.name)}{name}"
        cells.append(_cell(path, run.build / f"{name}.yaml", source | values | {"sae": sae, "output": output}))
    return Sweep(base.run, run, cells)


def _choices(path: Path, key: str, given: Any) -> list[Any]:
    """The values of one key, checked; of `survey` a list within the list is one value, and joins."""
    choices = given if isinstance(given, list) else [given]
    if not choices:
        raise ValueError(f"{path}: {key} has no values")
    kind = {field.name: field.type for field in fields(Profile)}[key]
    words: dict[str, Any] = {}
    for value in choices:
        try:
            check_value(key, value, kind)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if _word(value) in words:
            raise ValueError(f"{path}: {key}: {words[_word(value)]!r} and {value!r} would have the same name")
        words[_word(value)] = value
    return choices


def _word(value: Any) -> str:
    """A value as a part of a file's name, and of a rule's."""
    text = "+".join(map(str, value)) if isinstance(value, list) else str(value)
    return re.sub(r"\W+", "_", text).strip("_")[-60:]  # of a path the end


def _cell(sweep: Path, path: Path, values: dict[str, Any]) -> Cell:
    """The cell, its profile written if it is not there as it is; what depends on it is run again if it was not."""
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    try:
        if not path.is_file() or read_text(path) != text:
            with replacing(path) as side:
                side.write_text(text, encoding="utf-8")
        return Cell(path, load_profile(str(path)), {key: values[key] for key in SWEPT})
    except (OSError, ValueError) as error:
        raise ValueError(f"{sweep}: the cell {path.stem}: {error}") from error


def sweep(path: Path, flags: Sequence[str]) -> Path:
    """Run the cells that are not up to date, side by side, and write `sweep.csv` of all that have come to their end.

    Each is one job of the workflow `sweep.smk`, locally or, by `flags`, on a cluster. Raises ValueError that names the
    cells that failed, after all others are done.
    """
    found = read_sweep(path.resolve())
    check_room()
    with hold(found.run):
        for cell in found.cells:
            try:
                check_run(cell.profile)
            except (OSError, ValueError) as error:
                raise ValueError(f"{path}: the cell {cell.name}: {error}") from error
            fetch(cell.profile)
            if not all(table.is_file() for table in cell.tables):
                cell.done.unlink(missing_ok=True)
        call = command(str(path.resolve()), [], ["--keep-going", *flags], "sweep.smk")
        with suppress(ValueError):  # which cells failed is found below
            watch(call, found.run.build / "snakemake.log", everything=True)
        return join(found)


def join(found: Sweep) -> Path:
    """Write the rows of all groups, of each cell's tables, with the cell's values before them."""
    done = [cell for cell in found.cells if cell.done.is_file()]
    rows = []
    for cell in done:
        for table, file in zip(TABLES, cell.tables, strict=True):
            some = read_csv(file, ["method", "group"]).query("group == 'all'").drop(columns="group")
            keys = {key: " + ".join(value) if isinstance(value, list) else value for key, value in cell.values.items()}
            rows.append(pd.DataFrame(keys | {"table": table}, index=some.index).join(some))
    target = found.run.results / "sweep.csv"
    if rows:
        write_csv(target, pd.concat(rows))
    missing = [f"{cell.name}: {_last_error(cell.log)}" for cell in found.cells if cell not in done]
    if missing:
        held = f"the table {target} holds the others" if rows else "there is no table"
        raise ValueError("\n  ".join([f"{len(missing)} of {len(found.cells)} cells have no tables, {held}:", *missing]))
    return target


def _last_error(log: Path) -> str:
    """The last line of a cell's log that tells of an error, else the last one, and where the log is."""
    lines = [line for line in read_text(log).splitlines() if line.strip()] if log.is_file() else []
    told = [line for line in lines if line.startswith("error: ")] or lines or ["it was not started"]
    return f"{told[-1].removeprefix('error: ')} ({relative(log)})"
