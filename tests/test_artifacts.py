"""Files are written whole or not at all."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opinion_sae.artifacts import MARKER, cache_dir, read_json, replacing, write_csv, write_json
from opinion_sae.book.predict import answer
from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.progress import VARIABLE, progress
from opinion_sae.survey import export
from opinion_sae.survey.export import write_opinionqa, write_tidy


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_replaces_a_file_and_leaves_nothing_beside_it(tmp_path):
    target = tmp_path / "new" / "figure.svg"
    for text in ("first", "second"):
        with replacing(target) as side:
            assert side.parent == target.parent and side.suffix == ".svg"
            side.write_text(text)
        assert target.read_text() == text
    assert names(target.parent) == ["figure.svg"]


def test_replaces_a_folder_with_all_that_was_in_it(tmp_path):
    target = tmp_path / "sae"
    for name in ("old", "new"):
        with replacing(target, own=("o*",)) as side:
            side.mkdir()
            (side / name).touch()
    assert names(tmp_path) == ["sae"] and names(target) == ["new"]
    elsewhere = tmp_path / "link"
    elsewhere.symlink_to(target)  # the link is replaced, not what it leads to
    with replacing(elsewhere) as side:
        side.mkdir()
        (side / "new").write_text("newer")
    assert names(tmp_path) == ["link", "sae"] and not elsewhere.is_symlink() and not (target / "new").read_text()


@pytest.fixture
def thesis(tmp_path):
    """A folder of somebody's own, which must come out as it went in."""
    folder = tmp_path / "mine.csv"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    yield folder
    assert names(tmp_path) == ["mine.csv"] and names(folder) == ["thesis.txt"]
    assert (folder / "thesis.txt").read_text() == "years of work"


def test_no_file_is_written_over_a_folder(thesis, tiny):
    delta = GroupDelta(("Female", "Male"), tiny.sae())
    for write in (
        lambda: write_tidy("gss", thesis),
        lambda: delta.save(thesis),
        lambda: write_json(thesis, {}),
        lambda: answer(Path("questions.csv"), out=thesis),
    ):
        with pytest.raises(IsADirectoryError, match=f"Is a directory: '{thesis}'"):
            write()


def test_no_folder_is_written_over_somebodys_own(thesis, tiny, monkeypatch):
    monkeypatch.setattr(export, "whole_survey", None)  # refused before any work
    said = f"{thesis}: holds 'thesis.txt', which would be lost; name a folder that is empty or not there"
    for write in (
        lambda: tiny.sae().save(thesis),
        lambda: write_opinionqa("gss", thesis),
    ):
        with pytest.raises(ValueError, match=said):
            write()


def test_a_folder_that_is_empty_or_a_runs_is_replaced(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "run" / "work" / "sae").mkdir(parents=True)
    (tmp_path / "run" / MARKER).touch()
    (tmp_path / "run" / "work" / "sae" / "older.txt").touch()
    for folder in (tmp_path / "empty", tmp_path / "run" / "work" / "sae"):
        with replacing(folder) as side:
            side.mkdir()
            (side / "new").touch()
        assert names(folder) == ["new"]


@pytest.mark.parametrize("folder", [False, True])
def test_an_error_leaves_the_old_one_alone(tmp_path, folder):
    target = tmp_path / "thing"
    with replacing(target) as side:
        side.mkdir() if folder else side.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(target) as side:
        side.mkdir() if folder else side.write_text("half")
        raise ZeroDivisionError
    assert names(tmp_path) == ["thing"]
    assert target.is_dir() if folder else target.read_text() == "old"


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="empty.csv"), replacing(tmp_path / "empty.csv"):
        pass


@given(st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False) | st.text()))
def test_json_round_trip(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "content.json"
    write_json(path, content)
    assert read_json(path) == content


def test_json_takes_numpy_and_refuses_nan_before_it_writes(tmp_path):
    path = tmp_path / "numbers.json"
    write_json(path, {"kl": np.float32(0.5), "n": np.int64(3), "shares": np.ones(2)})
    assert json.loads(path.read_text()) == {"kl": 0.5, "n": 3, "shares": [1.0, 1.0]}
    with pytest.raises(ValueError, match="numbers.json"):
        write_json(path, {"kl": float("nan")})
    assert read_json(path)["kl"] == 0.5


def test_broken_json_is_named(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match="broken.json: not valid JSON"):
        read_json(tmp_path / "broken.json")


def test_csv_has_six_digits_and_no_index(tmp_path):
    path = tmp_path / "table.csv"
    write_csv(path, pd.DataFrame({"group": ["Hispanic", "all"], "kl": [1 / 3, 2], "n": [7, 8]}))
    assert path.read_bytes() == b"group,kl,n\nHispanic,0.333333,7\nall,2,8\n"


def test_progress_goes_to_the_named_file(tmp_path, monkeypatch, capsys):
    log = tmp_path / "notebook.log"
    monkeypatch.setenv(VARIABLE, str(log))
    assert list(progress(range(3), "fold")) == [0, 1, 2]
    assert "fold: 100%" in log.read_text()
    assert capsys.readouterr().err == ""


def test_the_cache_goes_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("OPINION_SAE_CACHE", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine" and cache_dir().is_dir()
    monkeypatch.delenv("OPINION_SAE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "opinion-sae"
