"""Files: written whole or not at all, and where downloads are kept."""

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

SIDE = re.compile(r"\.(?P<process>\d+)@(?P<machine>[0-9a-f]{6})\.(new|old)(\.|$)")  # what `replacing` writes beside


def cache_dir() -> Path:
    """The user's folder for downloads and converted models: $OPINION_SAE_CACHE, else the XDG cache."""
    chosen = os.environ.get("OPINION_SAE_CACHE")
    if not chosen:
        chosen = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "opinion-sae"
    folder = Path(chosen).expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """The error of a full disk in the block names `path`: the system's own, and that of safetensors, does not."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "os error 28" in str(error)
        if not full or getattr(error, "filename", None):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a path beside `path` to write a file or a folder to; move it to `path` on success.

    The side path keeps the suffix. If the block raises, `path` stays as it was and the side
    path is removed. Raises FileNotFoundError if the block wrote nothing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    side = path.with_name(f".{path.stem}.{_here()}.new{path.suffix}")
    _remove(side)
    try:
        with naming(path):
            yield side
        if not side.exists():
            raise FileNotFoundError(f"{path}: nothing was written to {side.name}")
        _move(side, path)
    finally:
        _remove(side)


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A folder in `folder` for the time of the block, which later `sweep` removes if the process is killed in it."""
    side = folder / f".scratch.{_here()}.new"
    _remove(side)
    side.mkdir(parents=True)
    try:
        with naming(folder):
            yield side
    finally:
        _remove(side)


def sweep(folder: Path) -> None:
    """Remove what processes of this machine that are no more left in `folder`: side paths of `replacing`, `scratch`."""
    for path in folder.glob(".*") if folder.is_dir() else ():
        found = SIDE.search(path.name)
        if found and found["machine"] == _machine() and not _alive(int(found["process"])):
            _remove(path)


def _here() -> str:
    return f"{os.getpid()}@{_machine()}"


@cache
def _machine() -> str:
    """Short enough for any file name; a folder may be shared with machines that have the same process numbers."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented JSON; numpy and torch numbers are taken as Python's.

    Raises ValueError for NaN and infinity, which JSON does not have.
    """
    try:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: cannot be written as JSON: {error}") from error
    with replacing(path) as side:
        side.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read a JSON file. Raises FileNotFoundError, or ValueError if it is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error


def write_csv(path: str | Path, frame: pd.DataFrame) -> None:
    """Write `frame` without its index, numbers to six significant digits."""
    with replacing(path) as side:
        frame.to_csv(side, index=False, float_format="%.6g", lineterminator="\n", encoding="utf-8")


def read_part(path: Path, key: str) -> dict[str, np.ndarray] | None:
    """The tensors of a part that was written for `key`; None if there is none. ValueError for a broken file."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file ({error}); delete it and run again") from error


def keep_part(path: Path, key: str, tensors: Mapping[str, np.ndarray]) -> None:
    """Write tensors for `read_part` to find under this key."""
    with replacing(path) as side:
        whole = {name: np.ascontiguousarray(table) for name, table in tensors.items()}
        save_file(whole, side, metadata={"key": key})


def remembered(
    path: Path, about: Sequence[object], make: Callable[[], Mapping[str, np.ndarray]]
) -> Mapping[str, np.ndarray]:
    """The tensors in `path` if they were made under the same `about`; else make them and write them there, and beside
    them in a .json the seconds that it took."""
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()
    tensors = read_part(path, key)
    if tensors is None:
        start = time.perf_counter()
        tensors = make()
        keep_part(path, key, tensors)
        write_json(path.with_suffix(".json"), {"seconds": round(time.perf_counter() - start, 1)})
    return tensors


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy and torch: arrays and numbers
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} {value!r}")


def _move(side: Path, path: Path) -> None:
    """os.replace, which does not replace a folder that has something in it."""
    if not path.is_dir():
        os.replace(side, path)
        return
    old = path.with_name(f".{path.name}.{_here()}.old")
    os.replace(path, old)
    try:
        os.replace(side, path)
    except OSError:
        os.replace(old, path)
        raise
    shutil.rmtree(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
