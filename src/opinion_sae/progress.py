"""Progress bars that also show when the code runs inside a notebook."""

import atexit
import os
from collections.abc import Iterable
from functools import cache
from typing import Any, TextIO

from tqdm import tqdm

VARIABLE = "OPINION_SAE_PROGRESS"


def progress(iterable: Iterable[Any] | None, desc: str, total: int | None = None) -> tqdm:
    """A tqdm bar over `iterable`, gone when it is done.

    $OPINION_SAE_PROGRESS names the terminal or log file to draw it on (a notebook's own stderr
    would end up in the book); without it the bar goes to stderr. A file gets a line every ten
    seconds at most.
    """
    target = os.environ.get(VARIABLE)
    stream = _stream(target) if target else None
    quiet = stream is not None and not stream.isatty()
    return tqdm(iterable, desc=desc, total=total, file=stream, leave=quiet, mininterval=10 if quiet else 0.2)


@cache
def _stream(target: str) -> TextIO:
    stream = open(target, "a", encoding="utf-8", buffering=1)
    atexit.register(stream.close)
    return stream
