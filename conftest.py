"""Check shapes while the tests run, and let nbval compare numbers within a tolerance.

It lies here, not in tests/, so that it also holds for the chapters in _build/.
"""

import os
import re

# before anything loads torch; see opinion_sae/__init__.py
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402
from nbval.plugin import IPyNbCell  # noqa: E402

install_import_hook("opinion_sae", "beartype.beartype")  # before any test imports the package

from opinion_sae.book.execute import KERNEL_ENVIRONMENT, anywhere  # noqa: E402

os.environ.update(KERNEL_ENVIRONMENT)  # nbval's kernels, like those that made the chapters

NUMBER = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")
RELATIVE = 1e-3
SKIPPED = ("image/svg+xml", "stderr")  # figures have tests of their own; stderr goes to the log


class CloseText(str):
    """Text that equals another if the words do and the numbers do nearly.

    A number with a point or an exponent may differ by a thousandth of itself or by one unit of
    its last printed digit; a whole number may not. Runs of spaces count as one.
    """

    def __eq__(self, other):
        ours, theirs = (NUMBER.split(re.sub(r"\s+", " ", str(text))) for text in (self, other))
        return len(ours) == len(theirs) and all(map(_close, ours, theirs))

    def __ne__(self, other):
        return not self == other

    __hash__ = None  # pyright: ignore[reportAssignmentType]


def _close(one, two):
    if one == two:
        return True
    if not (NUMBER.fullmatch(one) and NUMBER.fullmatch(two)) or (one + two).strip("+-").isdigit():
        return False
    tolerance = max(RELATIVE * max(abs(float(one)), abs(float(two))), _unit(one), _unit(two))
    return abs(float(one) - float(two)) <= 1.001 * tolerance


def _unit(number):
    """The value of one in the last printed digit: 0.01 for 3.14, 1e-7 for 3.14e-5."""
    digits, _, exponent = number.lower().partition("e")
    decimals = len(digits.partition(".")[2])
    return 0.0 if "." not in digits else 10.0 ** (int(exponent or 0) - decimals)


def pytest_collection_modifyitems(items):
    for notebook in {item.parent for item in items if isinstance(item, IPyNbCell)}:
        notebook.skip_compare += SKIPPED


@pytest.fixture
def close_text():
    return CloseText


setattr(IPyNbCell, "sanitize", lambda self, text: CloseText(anywhere(text)) if isinstance(text, str) else text)  # noqa: B010
