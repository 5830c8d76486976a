"""Arrays of numbers out of an .npz file: each is sized up before it is read, and nothing is unpickled."""

import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile, ZipFile, ZipInfo

import numpy as np
from numpy.lib import format as npy

from opinion_sae.artifacts import check_plain

HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
SMALLEST = 1 << 20  # bytes; what is larger and takes a hundredth of that in the file was made to fill the memory
UNREADABLE = (BadZipFile, EOFError, NotImplementedError, OSError, RecursionError, TypeError, ValueError, zlib.error)


def npz_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of these names, those that are there; other members are not read.

    FileNotFoundError, or ValueError for a file that is no archive and for a member that is there twice, encrypted, no
    array of floating-point numbers, or of another size than it says.
    """
    try:
        with ZipFile(check_plain(path)) as archive:
            members = [one for one in archive.infolist() if one.filename.removesuffix(".npy") in names]
            if len({one.filename for one in members}) < len(members):
                raise ValueError("a member is there twice")
            for one in members:
                _size_up(archive, one)
            return {one.filename.removesuffix(".npy"): _read(archive, one) for one in members}
    except UNREADABLE as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"SAE {path}: not an .npz file of plain numbers (nothing is unpickled): {error}") from error


def _size_up(archive: ZipFile, member: ZipInfo) -> None:
    """ValueError for a member that should not be read."""
    name = member.filename
    if member.flag_bits & 1:
        raise ValueError(f"{name} is encrypted")
    if member.file_size > max(SMALLEST, 100 * member.compress_size):
        raise ValueError(f"{name} would grow from {member.compress_size} to {member.file_size} bytes")
    with archive.open(member) as file:
        version = npy.read_magic(file)
        if version not in HEADERS:
            raise ValueError(f"{name} has the version {version} of the .npy format")
        shape, _, dtype = HEADERS[version](file)
        said, there = math.prod(shape) * dtype.itemsize, member.file_size - file.tell()
    if dtype.kind != "f":
        raise ValueError(f"{name} holds {dtype}, not numbers in floating point")
    if said != there:
        raise ValueError(f"{name} has {there} bytes of numbers, but shape {shape} of {dtype} takes {said}")


def _read(archive: ZipFile, member: ZipInfo) -> np.ndarray:
    with archive.open(member) as file:
        return npy.read_array(file, allow_pickle=False)
