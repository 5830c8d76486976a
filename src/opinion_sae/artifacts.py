"""Files: written whole or not at all, read with one clear error that names the file, and where downloads are kept."""

import csv
import errno
import glob
import gzip
import hashlib
import io
import json
import os
import platform
import re
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

SIDE = re.compile(r"\.(?P<process>\d+)@(?P<machine>[0-9a-f]{6})\.(new|old)(\.|$)")  # what `replacing` writes beside
MARKER = ".made-by-opinion-sae"  # in every folder that a run may empty; says where the run's tables are
LARGEST_TEXT = 1 << 29  # bytes that a packed file may unpack to


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
def replacing(path: str | Path, own: Sequence[str] | None = None) -> Iterator[Path]:
    """Yield a path beside `path` to write a file or a folder to; move it to `path` on success.

    The side path keeps the suffix. If the block raises, `path` stays as it was and the side path is removed. Raises
    FileNotFoundError if the block wrote nothing, and what `check_file` and `check_folder` raise; the latter before the
    block if `own` says what names a folder may hold to be replaced, else for those that are not written anew.
    """
    path = Path(path)
    if own is not None:
        check_folder(path, own)
    path.parent.mkdir(parents=True, exist_ok=True)
    side = path.with_name(f".{path.stem}.{_here()}.new{path.suffix}")
    _remove(side)
    try:
        with naming(path):
            yield side
        if not side.exists():
            raise FileNotFoundError(f"{path}: nothing was written to {side.name}")
        if not side.is_dir():
            check_file(path)
        elif own is None:
            check_folder(path, [glob.escape(one.name) for one in side.iterdir()])
        _move(side, path)
    finally:
        _remove(side)


def check_file(path: Path) -> None:
    """IsADirectoryError for a folder, which no file may be written over."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))


def check_folder(path: Path, own: Sequence[str]) -> None:
    """ValueError for a folder with something in it of other names than `own` (patterns), unless a run made it."""
    held = [one.name for one in path.iterdir()] if path.is_dir() else []
    others = [one for one in held if not any(fnmatch(one, name) for name in own)]
    if others and not any((place / MARKER).is_file() for place in (path, *path.absolute().parents)):
        raise ValueError(
            f"{path}: holds {min(others)!r}, which would be lost; name a folder that is empty or not there"
        )


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


def write_json(path: str | Path, content: Any, indent: int = 2) -> None:
    """Write `content` as JSON, a line for each entry; numpy and torch numbers are taken as Python's.

    Raises ValueError for NaN and infinity, which JSON does not have.
    """
    try:
        text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: cannot be written as JSON: {error}") from error
    with replacing(path) as side:
        side.write_text(text + "\n", encoding="utf-8")


def check_plain(path: str | Path) -> Path:
    """The path, of a file that can be read without waiting: FileNotFoundError if it is absent, ValueError for a folder,
    a named pipe or a device."""
    path = Path(path)
    if not path.is_file():
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file")
        raise ValueError(f"{path}: not a plain file")
    return path


def read_text(path: str | Path) -> str:
    """The file's text (UTF-8, with or without a byte order mark); a name in .gz is unpacked.

    FileNotFoundError if it is absent; ValueError with the line where it is not UTF-8 or holds a NUL byte, and for a
    packed one that would fill the memory.
    """
    path = check_plain(path)
    raw = path.read_bytes()
    if path.suffix == ".gz":
        try:
            with gzip.open(io.BytesIO(raw)) as packed:
                raw = packed.read(LARGEST_TEXT + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: not a whole gzip file: {error}") from error
        if len(raw) > LARGEST_TEXT:
            raise ValueError(f"{path}: unpacks to more than {LARGEST_TEXT >> 20} MB, which no survey's file should")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}: line {line}: byte {raw[error.start]:#04x} is not UTF-8; save the file as UTF-8"
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ValueError(f"{path}: line {line}: a NUL byte; save the file as UTF-8")
    return text


def read_json(path: str | Path, kind: type = object) -> Any:
    """Read a JSON file. Raises FileNotFoundError, or ValueError if it is not JSON or not of this kind."""
    value = parse_json(read_text(path), str(path))
    if not isinstance(value, kind):
        raise ValueError(
            f"{path}: a JSON {'object' if kind is dict else 'list'} is needed, not a {type(value).__name__}"
        )
    return value


def parse_json(text: str, where: str, line: int = 1) -> Any:
    """The value of a JSON text whose first line is this one of the file.

    ValueError for what is not JSON, NaN and infinity among it, for a key that is there twice in one object (one value
    would silently be lost), for text that UTF-8 cannot hold, and for lists within lists without end.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
        return found

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number of JSON")

    try:
        value = json.loads(text, object_pairs_hook=once, parse_constant=refuse)
        if "\\ud" in text.lower():  # half of a surrogate pair, which no file can be written with
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except json.JSONDecodeError as error:
        place = f"line {line + error.lineno - 1}, column {error.colno}"
        raise ValueError(f"{where}: not valid JSON: {place}: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not valid JSON: line {line} and after: {error}") from error


def check_fields(found: object, expected: Mapping[str, Any], where: str, more: bool = False) -> None:
    """ValueError unless `found` is an object with these fields, each of its kind; with `more`, others may be there.

    A whole number passes for a float; true and false pass for no number.
    """
    if not isinstance(found, dict) or (set(expected) - set(found) if more else set(found) != set(expected)):
        names = sorted(found) if isinstance(found, dict) else _shown(found)
        raise ValueError(f"{where}: fields {names}; expected {sorted(expected)}")
    for name, kind in expected.items():
        kinds = get_args(kind) or (kind,)
        if type(found[name]) not in (*kinds, *([int] if float in kinds else [])):
            shown = getattr(kind, "__name__", kind)
            raise ValueError(f"{where}: {name} is {_shown(found[name])}, which is not of the kind {shown}")


def read_csv(
    path: str | Path, columns: Sequence[str], numbers: Sequence[str] = (), names: Sequence[str] = (), **options: Any
) -> pd.DataFrame:
    """A table that `write_csv` wrote.

    ValueError with row (the header is row 1) or column unless it has these columns, once each, finite numbers or
    nothing in those of them that hold `numbers`, and in those that are `names` something, never the same twice.
    """
    text = read_text(path)
    try:
        header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        table = pd.read_csv(io.StringIO(text), index_col=False, **options)
    except (ValueError, csv.Error) as error:  # pandas' own are ValueErrors
        raise ValueError(f"{path}: not a CSV table: {' '.join(str(error).split())}") from error
    missing = [column for column in columns if column not in header]
    if missing:
        raise ValueError(f"{path}: columns {missing} are missing; found {header}")
    if len(set(header)) < len(header):
        raise ValueError(f"{path}: a column is there twice: {', '.join(header)}")
    for number, row in enumerate(rows, start=2):
        if len(row) not in (0, len(header)):
            raise ValueError(f"{path}: row {number}: {len(row)} fields where the header has {len(header)}")
    for column in numbers:
        values = pd.to_numeric(table[column], errors="coerce").astype(float)
        bad = (values.isna() & table[column].notna()) | np.isinf(values)
        if bad.any() or table[column].dtype == bool:
            row = int(bad.to_numpy().argmax())
            raise ValueError(f"{path}: row {row + 2}, column {column!r}: {table[column].iloc[row]!r} is no number")
    if names:
        for bad, what in (
            (table[[*names]].isna().any(axis=1), "is empty"),
            (table.duplicated([*names]), "is there twice"),
        ):
            if bad.any():
                raise ValueError(f"{path}: row {int(bad.to_numpy().argmax()) + 2}: {', '.join(names)} {what}")
    return table


def write_csv(path: str | Path, frame: pd.DataFrame) -> None:
    """Write `frame` without its index, numbers to six significant digits."""
    with replacing(path) as side:
        frame.to_csv(side, index=False, float_format="%.6g", lineterminator="\n", encoding="utf-8")


def read_tensors(
    path: str | Path, what: str = "a safetensors file", names: Sequence[str] | None = None, framework: str = "pt"
) -> tuple[dict[str, str], dict[str, Any]]:
    """Header and tensors of a safetensors file, all or those of the `names` that it has.

    FileNotFoundError, or ValueError that says what the file is not.
    """
    try:
        with safe_open(check_plain(path), framework=framework) as file:
            wanted = [name for name in file.keys() if names is None or name in names]
            return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in wanted}
    except (SafetensorError, AttributeError, TypeError, RuntimeError) as error:  # the latter: numbers torch has not
        raise ValueError(f"{path}: not {what}: {error}") from error


def check_numbers(path: str | Path, tensors: Mapping[str, Any]) -> None:
    """ValueError unless every tensor holds real and finite numbers, in floating point."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{path}: {name} holds {tensor.dtype}, not real numbers in floating point")
        if not tensor.isfinite().all():
            raise ValueError(f"{path}: {name} holds values that are not finite")


def read_part(path: Path, key: str) -> dict[str, np.ndarray] | None:
    """The tensors of a part that was written for `key`; None if there is none. ValueError for a broken file."""
    if not path.exists():
        return None
    try:
        about, tensors = read_tensors(path, framework="np")
    except ValueError as error:
        raise ValueError(f"{error}; delete it and run again") from error
    return tensors if about.get("key") == key else None


def keep_part(path: Path, key: str, tensors: Mapping[str, np.ndarray]) -> None:
    """Write tensors for `read_part` to find under this key."""
    with replacing(path) as side:
        whole = {name: np.ascontiguousarray(table) for name, table in tensors.items()}
        save_file(whole, side, metadata={"key": key})


class Item(NamedTuple):
    """Tensors that take long to make: all that they depend on, and how they are made."""

    about: Sequence[object]
    make: Callable[[], dict[str, np.ndarray]]


def recalled(path: Path, about: Sequence[object]) -> dict[str, np.ndarray] | None:
    """The tensors in `path` if they were made under the same `about`, else None."""
    return read_part(path, _key(about))


def made(path: Path, item: Item) -> dict[str, np.ndarray]:
    """The item's tensors, made, and written for `recalled`; beside them in a .json the seconds that it took."""
    start = time.perf_counter()
    tensors = item.make()
    keep_part(path, _key(item.about), tensors)
    write_json(path.with_suffix(".json"), {"seconds": round(time.perf_counter() - start, 1)})
    return tensors


def _key(about: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def _shown(value: object) -> str:
    """A value as an error shows it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


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
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
