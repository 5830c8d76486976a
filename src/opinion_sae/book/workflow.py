"""What the Snakefile and `opinion-sae book` need: a user's own files, whether a run is going on, the command."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from opinion_sae.artifacts import sweep
from opinion_sae.book.paths import ROOT, Run, claim, home
from opinion_sae.book.recorded import COST, read_cost, read_costs
from opinion_sae.model.sources import parse_sources

EXTRACTED = ("model", "dtype", "hook_layer", "survey", "attributes", "min_respondents", "max_questions")
EXTRACTED += ("texts", "text_tokens", "seed", "shards")  # the parameters that an extracted shard depends on
TABLES = ("*.csv", "*.csv.gz", "*.json")  # what a survey's folder holds
LOCK = ".lock"  # in `_build/<run>`; held, by the system, as long as the run's process lives


def user_files(values: Mapping[str, Any], root: Path = ROOT) -> list[Path]:
    """The user's own files among a chapter's parameters: what it has to be run again for when one changes.

    A file, or those in a folder; of a survey also those in the folders of its waves, wherever `survey.opinionqa` looks
    for them. `~` is the user's home, other paths start at the repository, any `kind:` before them is left out.
    """
    found: set[Path] = set()
    for key in ("model", "sae", "texts", "survey"):
        value = values.get(key, [])
        if key == "texts":
            value = list(parse_sources(value))
        for text in [value] if isinstance(value, str) else value:
            path = root / Path(text.rpartition(":")[2]).expanduser()
            found |= survey_files(path) if key == "survey" else _files(path)
    return sorted(found)


def survey_files(path: Path) -> set[Path]:
    """Of a file or folder: the tables in it, in its waves and in human_resp; for a selection in the waves beside it."""
    if not path.is_dir():
        return _files(path)
    waves = [file.parent for pattern in ("*", "human_resp/*") for file in path.glob(f"{pattern}/responses.csv")]
    if (path / "info.csv").is_file() and not (path / "responses.csv").is_file() and not list(path.glob("*_data.json")):
        waves += [file.parent for file in path.parent.glob("*/responses.csv")]
    folders = [path, *waves]
    return {table for folder in folders for pattern in TABLES for table in folder.glob(pattern) if table.is_file()}


def _files(path: Path) -> set[Path]:
    return {path} if path.is_file() else {file for file in path.glob("*") if file.is_file()}


def hold(run: Run) -> IO[str]:
    """Hold the run until this process ends, however it ends. Raises ValueError that names a process that has it."""
    claim(run)
    file = (run.build / LOCK).open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        process = file.read().strip() or "of unknown number"
        file.close()
        raise ValueError(
            f"the run {run.name} is being made by process {process}{_command(process)}; wait for it or end it"
        ) from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def go_on(run: Run) -> None:
    """Make way for a run: raises ValueError as `hold` does, and removes what killed runs left.

    That is side files that were never moved into place, and snakemake's own lock of the repository if nobody is
    running any book: snakemake does not say whose it is, and would ask for `--unlock` by hand.
    """
    hold(run).close()
    for folder in (run.results, run.build, *(path for path in run.build.rglob("*/"))):
        sweep(folder)
    left = list((home() / ".snakemake" / "locks").glob("*"))
    if left and not any(_held(lock) for lock in home().glob(f"_build/*/{LOCK}")):
        print("removed the lock of a run that was killed")
        for path in left:
            path.unlink(missing_ok=True)


def sizes(run: Run, *chapters: str) -> dict[str, Callable[..., int]]:
    """What a cluster's job for chapters, one after another, asks for: three times the time and half as much again of
    the memory that they took when this run was made before (at least 10 minutes, 2 GB), and twice that on the second
    attempt. Without any named, for all that were measured.

    Measured is what the run's logs say, else its `run.json`, which for a published run is committed. Nothing for
    chapters that were not: the cluster profile's `default-resources` hold.
    """
    known = read_costs(run.results / "run.json", COST)
    known |= {path.stem: read_cost(path, COST) for path in run.logs.glob("[0-9]*.json")}
    costs = [known[name] for name in chapters or known if name in known]
    if not costs:
        return {}
    minutes = max(10, sum(cost["seconds"] for cost in costs) // 20 + 1)
    mb = max(2000, max(cost["peak_memory_mb"] for cost in costs) * 1.5)
    return {
        "runtime": lambda wildcards, attempt: int(minutes * attempt),
        "mem_mb": lambda wildcards, attempt: int(mb * attempt),
    }


def command(profile: str, targets: Sequence[str], flags: Sequence[str], workflow: str = "Snakefile") -> list[str]:
    """The call of snakemake for a profile; no shell reads it, and quotes keep the name from being read as YAML."""
    call = [sys.executable, "-m", "snakemake", "--cores", "all", "--rerun-incomplete", "--quiet", "host", "reason"]
    call += ["--nolock"]  # `hold` does it, and lets go when the process is killed
    call += ["--snakefile", str(ROOT / workflow), "--directory", str(home())]
    return [*call, *flags, "--config", f"profile={json.dumps(profile, ensure_ascii=False)}", "--", *targets]


def _held(lock: Path) -> bool:
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _command(process: str) -> str:
    """Its command line in brackets, where the system tells."""
    try:
        line = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
    return f" ({line[:120]})"
