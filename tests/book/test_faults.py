"""The page on bad luck says what the file says, and nothing that was not tried."""

import importlib.util
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from opinion_sae.book.faults import TRIED, faults_page
from opinion_sae.book.paths import ROOT


def test_the_page_is_the_file(tmp_path):
    path = tmp_path / "faults.json"
    assert "It has not been run for this version." in faults_page(path)
    kills = {"name": "kills", "tried": 50, "good": 49, "seconds": 130.2, "said": ""}
    full = {"name": "full_cache", "tried": 2, "good": 2, "seconds": 8.5, "said": "error: No space left: '.../cache'"}
    path.write_text(json.dumps({"machine": "2 CPU cores", "seed": 0, "minutes": 31.4, "outcomes": [kills, full]}))
    page = faults_page(path)
    assert "Of 52 trials 51 came out as they should, in 31 minutes on 2 CPU cores (seed 0" in page
    rows = [line for line in page.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == len(TRIED) and rows[0].endswith("| 50 | 49 | 130.2 |") and rows[2].endswith("| 2 | 2 | 8.5 |")
    assert all(row.endswith("| not tried |  |  |") for row in (rows[1], *rows[3:]))
    assert page.count("error: No space left: '.../cache'") == 1


@pytest.fixture
def tool(monkeypatch):
    """`tools/faults.py`, and a stand-in for its copy of the repository whose commands end as `said` says."""
    spec = importlib.util.spec_from_file_location("faults", ROOT / "tools" / "faults.py")
    faults = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "faults", faults)
    spec.loader.exec_module(faults)
    return faults


@pytest.mark.parametrize(
    ("said", "row"),
    [
        ("30 damaged inputs, 0 failures: {}", (30, 30, "")),
        ("tidy CSV, a.csv, cut: hangs\n30 damaged inputs, 1 failures: {}", (30, 29, "tidy CSV, a.csv, cut: hangs")),
        ("Traceback: no corpus", (1, 0, "Traceback: no corpus")),
    ],
)
def test_doors_are_counted(tool, said, row):
    copy = SimpleNamespace(run=lambda *call: (0, said, 12.34))
    found = tool.doors(copy)
    assert (found.tried, found.good, found.said) == row and found.seconds == 12.3 and found.name in TRIED


def test_only_what_was_killed_counts_as_a_kill(tool, monkeypatch):
    """Every other book is done before its time to be killed."""
    started, killed = [], []

    class Book:
        pid, returncode = 1, 0

        def communicate(self, timeout=None):
            if timeout is not None and len(started) % 2:
                raise subprocess.TimeoutExpired("book", timeout)
            return ("", "")

    book = lambda: (0, "", 1.0)  # noqa: E731
    start = lambda *call: started.append(call) or Book()  # noqa: E731
    copy = SimpleNamespace(book=book, start=start, tables=lambda: {"a": "1"}, clean=lambda: None)
    monkeypatch.setattr(tool.os, "killpg", lambda *of: killed.append(of))
    found = tool.kills(copy, 3, 0)
    assert (found.tried, found.good, found.killed, len(killed), len(started)) == (3, 3, 3, 3, 5)
