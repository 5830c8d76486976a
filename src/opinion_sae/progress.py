"""Progress bars that also show when the code runs inside a notebook."""

import atexit
import os
from collections.abc import Iterable
from functools import cache
from typing import Any, TextIO

from tqdm import tqdm

VARIABLE = "OPINION_SAE_PROGRESS"
IN_A_LOG = "{desc}: {percentage:.0f}% ({n_fmt}/{total_fmt}) after {elapsed}, {remaining} left"


def progress(iterable: Iterable[Any] | None, desc: str, total: int | None = None) -> tqdm:
    """A tqdm bar over `iterable`, gone when it is done.

    $OPINION_SAE_PROGRESS names a log file to write it to instead (a notebook's own stderr would end
    up in the book): a line in words every ten seconds at most.
    """
    target = os.environ.get(VARIABLE)
    if not target:
        return tqdm(iterable, desc=desc, total=total, leave=False, mininterval=0.2)
    return tqdm(iterable, desc=desc, total=total, file=_stream(target), mininterval=10, bar_format=IN_A_LOG)


@cache
def _stream(target: str) -> TextIO:
    stream = open(target, "a", encoding="utf-8", buffering=1)
    atexit.register(stream.close)
    return stream
