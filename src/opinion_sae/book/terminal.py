"""What a run says in the terminal: a line per chapter and stage with the time left, and ten lines where one fails.

`opinion-sae book` starts snakemake, which starts a process for each chapter. Of all that they write it lets through the
lines of `tell`; the rest, snakemake's own, goes to `_build/<run>/logs/snakemake.log`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

from opinion_sae.artifacts import read_json, write_json
from opinion_sae.book.paths import ROOT, Run, home, relative
from opinion_sae.book.recorded import read_cost, read_costs

PLAN = "OPINION_SAE_PLAN"  # names the file that says what a run of the book is going to make
MARK = "\x1e"  # before each line for the terminal, below a run of the book
STAGE = re.compile(r"(?P<stage>.*): (?P<percent>\d+)% .*, (?P<left>[\d:]+) left")  # as `progress` writes to a log
AGAIN = 60.0  # seconds until a stage is mentioned again


def tell(text: str) -> None:
    """Write to the terminal, also from a chapter of a book."""
    mark = MARK if PLAN in os.environ else ""
    sys.stderr.write("".join(f"{mark}{line}\n" for line in text.splitlines()))  # at once: others write there too
    sys.stderr.flush()


def plan(run: Run, chapters: Iterable[str]) -> None:
    """Keep what is going to be run and how long each chapter took before: here, else in the published run."""
    usual = ROOT / "results" / "default" / "run.json"
    known = {name: cost["seconds"] for name, cost in read_costs(usual).items()}
    known |= {path.stem: read_cost(path)["seconds"] for path in run.logs.glob("[0-9]*.json")}
    path = run.logs / ".plan.json"
    write_json(path, {"start": time.time(), "seconds": {name: max(known.get(name, 0), 1) for name in chapters}})
    os.environ[PLAN] = str(path)


def standing(run: Run) -> str:
    """Such as `4 of 18 chapters, about 12 minutes left`; empty where no book is being made.

    The time that is left is the time so far, times what is left over what is done of the chapters' seconds; from the
    first twentieth on, since it is a guess before.
    """
    if PLAN not in os.environ:
        return ""
    made = read_json(os.environ[PLAN])
    start, seconds = made["start"], made["seconds"]
    logs = {name: run.logs / f"{name}.json" for name in seconds}
    done = [name for name, log in logs.items() if log.exists() and log.stat().st_mtime >= start]
    past = sum(seconds[name] for name in done)
    text = f"{len(done)} of {len(seconds)} chapters"
    left = sum(seconds.values()) - past
    if past < left / 19 or not left:
        return text
    return f"{text}, about {spoken((time.time() - start) * left / past)} left"


def spoken(seconds: float) -> str:
    """A duration in the unit that a reader would use."""
    if seconds < 100:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"


@contextmanager
def stages(name: str, log: Path) -> Iterator[None]:
    """Say how far a chapter is, of which `log` tells while the block runs: each stage that takes over ten seconds,
    and again every minute."""
    done = Event()
    thread = Thread(target=_follow, args=(name, log, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _follow(name: str, log: Path, done: Event) -> None:
    stage, when = "", 0.0
    while not done.wait(2):
        found = latest(log)
        now = time.monotonic()
        if found and (found["stage"] != stage or now - when >= AGAIN):
            stage, when = found["stage"], now
            tell(f"{time.strftime('%H:%M:%S')}  {name}: {stage} {found['percent']}%, {found['left']} left of it")


def latest(log: Path) -> re.Match[str] | None:
    """The last line of a log, if it is one of a stage that has begun and is not over."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 1000))
        lines = re.split(r"[\r\n]+", file.read().decode(errors="replace").rstrip())
    found = STAGE.fullmatch(lines[-1].strip())
    return found if found and 0 < int(found["percent"]) < 100 else None


def watch(call: Sequence[str], log: Path, everything: bool) -> None:
    """Run snakemake: lines of `tell`, or everything, to the terminal, everything else to `log`.

    Raises ValueError if it fails, with the end of the log unless a chapter has said what is wrong.
    """
    said, stopped, end = False, Event(), []
    if ours := signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # snakemake is sent it too, and ends what it has started; an exception here could lose what it says of that
        signal.signal(signal.SIGINT, lambda *_: stopped.set())
    with (
        log.open("wb", buffering=0) as file,
        subprocess.Popen(call, cwd=home(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=-1) as process,
    ):
        assert process.stdout is not None
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        for raw in process.stdout:
            line = raw.decode(errors="replace")
            with suppress(OSError):  # a full disk must not keep what follows from the terminal
                file.write(raw.removeprefix(MARK.encode()))
            if everything or line.startswith(MARK):
                print(line.removeprefix(MARK), end="", file=sys.stderr, flush=True)
                said = said or line.startswith(f"{MARK}error: ")
            elif line.strip():
                end = [*end[-9:], line.rstrip()]
    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if stopped.is_set():
        raise KeyboardInterrupt
    if process.returncode:
        why = "what failed is said above" if said else "\n  ".join(["the last lines of snakemake:", *end])
        raise ValueError(f"the book is not made: {why}\n  snakemake's log: {relative(log)}")
