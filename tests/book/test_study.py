"""Studies: resumed where they stopped, tables after each item, and where these go."""

import re
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from opinion_sae import studies
from opinion_sae.artifacts import Item, read_json
from opinion_sae.book import study
from opinion_sae.book.paths import ROOT, Run, studies_of
from opinion_sae.book.profile import load_profile
from opinion_sae.studies import Given

MINUTES = {  # as the page on reruns says them
    "an hour and a half": 90,
    "fifty minutes": 50,
    "an hour and three quarters": 105,
    "a minute": 1,
    "an hour and a quarter": 75,
    "three and a half minutes": 3.5,
    "six minutes": 6,
    "two minutes": 2,
}


def test_the_page_gives_the_time_that_each_study_took():
    form = r"^(?:make study NAME=|opinion-sae study --data PATH )(\w+)(?: -- default)? +# (.+)$"
    lines = dict(re.findall(form, (ROOT / "book" / "reproduce.md").read_text(), re.MULTILINE))
    assert set(lines) == set(studies.STUDIES)
    del lines["bios"]  # of which there is no table
    for name, said in lines.items():
        minutes = next(minutes for words, minutes in MINUTES.items() if said.startswith(words))
        took = read_json(ROOT / "results" / "studies" / name / "study.json")["seconds"]["total"] / 60
        assert 0.8 < took / minutes < 1.25, name


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """A study of three items, one of which fails when told to, on a profile whose results lie in `tmp_path`."""
    made, broken = [], set()

    def items(given):
        def make(name):
            if name in broken:
                raise OSError(f"{name} broke")
            made.append(name)
            return {"value": np.array([len(made)])}

        return {name: Item([1], lambda name=name: make(name)) for name in ("a-0", "a-1", "b-0")}

    def tables(given, parts):
        return {
            "values": pd.DataFrame([{"item": name, "value": int(part["value"][0])} for name, part in parts.items()])
        }

    module = SimpleNamespace(TITLE="counts", TIME="no time", items=items, tables=tables)
    monkeypatch.setitem(sys.modules, "opinion_sae.studies.counted", module)
    monkeypatch.setattr(studies, "STUDIES", ("counted",))
    monkeypatch.setattr(study, "STUDIES", ("counted",))
    monkeypatch.setattr(study, "throughput", lambda: {"side": 2048})
    given = Given(None, None, [], None, {}, tmp_path, tmp_path / "items")  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(study, "what_is_given", lambda profile, run, name: given)
    monkeypatch.setattr(study, "hashes_of", lambda given: {"model": "m"})
    monkeypatch.setenv("OPINION_SAE_HOME", str(tmp_path))
    return SimpleNamespace(made=made, broken=broken, profile=load_profile("smoke"))


def test_tables_of_another_run_stay_until_as_many_items_are_made(counted, monkeypatch, capsys):
    target = study.study("counted", counted.profile)
    whole = (target / "values.csv").read_text()
    monkeypatch.setattr(study, "hashes_of", lambda given: {"model": "another"})
    study.study("counted", counted.profile, ["a-0"])
    assert (target / "values.csv").read_text() == whole and read_json(target / "study.json")["hashes"] == {"model": "m"}
    assert "has 3 items of an earlier run, and stays until as many are made" in capsys.readouterr().out
    study.study("counted", counted.profile)
    assert read_json(target / "study.json")["hashes"] == {"model": "another"}


def test_a_study_goes_on_where_it_was_stopped_and_writes_after_each_item(counted, capsys):
    counted.broken.add("a-1")
    with pytest.raises(OSError, match="a-1 broke"):
        study.study("counted", counted.profile)
    target = counted.profile.run.results / "studies" / "counted"
    assert pd.read_csv(target / "values.csv").to_dict("list") == {"item": ["a-0"], "value": [1]}
    assert read_json(target / "study.json")["missing"] == ["a-1", "b-0"]
    counted.broken.clear()
    assert study.study("counted", counted.profile) == target
    assert counted.made == ["a-0", "a-1", "b-0"]
    about = read_json(target / "study.json")
    assert about["missing"] == [] and set(about["seconds"]) == {"a-0", "a-1", "b-0", "total"}
    assert about["command"] == "opinion-sae study counted -- smoke" and about["hashes"] == {"model": "m"}
    said = capsys.readouterr().out
    assert "study counted: a-1, item 1 of 2\n" in said and "b-0, item 2 of 2, about 0 minutes left" in said
    study.study("counted", counted.profile)
    assert counted.made == ["a-0", "a-1", "b-0"]


def test_items_may_be_chosen_by_the_beginnings_of_their_names(counted):
    study.study("counted", counted.profile, ["a"])
    assert counted.made == ["a-0", "a-1"]
    with pytest.raises(ValueError, match="no item begins with c; there are a-0, a-1, b-0"):
        study.study("counted", counted.profile, ["c"])


def test_what_another_process_made_meanwhile_is_in_the_tables_too(counted, monkeypatch):
    alone, others = study.made, [["b"]]

    def meanwhile(path, item):
        if others:
            study.study("counted", counted.profile, others.pop())
        return alone(path, item)

    monkeypatch.setattr(study, "made", meanwhile)
    target = study.study("counted", counted.profile)
    assert pd.read_csv(target / "values.csv")["item"].tolist() == ["a-0", "a-1", "b-0"]
    assert read_json(target / "study.json")["missing"] == [] and counted.made == ["b-0", "a-0", "a-1"]


def test_a_study_that_there_is_not_is_refused_with_those_that_there_are(counted):
    with pytest.raises(ValueError, match="there is no study 'other'; there are counted"):
        study.study("other", counted.profile)
    assert study.listed().split() == ["counted", "counts", "(no", "time)"]


def test_data_is_asked_for_where_it_is_needed_and_nowhere_else(counted, monkeypatch, tmp_path):
    monkeypatch.setattr(study, "DATA", {"counted": "some numbers"})
    with pytest.raises(ValueError, match="^study counted needs --data PATH: some numbers$"):
        study.study("counted", counted.profile)
    target = study.study("counted", counted.profile, ["a-0"], tmp_path / "mine")
    assert read_json(target / "study.json")["command"] == "opinion-sae study --data PATH counted -- smoke"
    monkeypatch.setattr(study, "DATA", {})
    with pytest.raises(ValueError, match="^study counted takes no --data$"):
        study.study("counted", counted.profile, data=tmp_path)


def test_only_the_default_run_writes_to_the_committed_tables(tmp_path, monkeypatch):
    monkeypatch.delenv("OPINION_SAE_HOME", raising=False)
    default = load_profile("default").run
    assert studies_of(default.results) == ROOT / "results" / "studies"
    for other in (Run("smoke", ROOT / "results" / "smoke"), Run("default", tmp_path / "default")):
        assert studies_of(other.results) == other.results / "studies"


def test_a_profile_without_a_book_is_told_to_make_one(tmp_path, monkeypatch):
    monkeypatch.setenv("OPINION_SAE_HOME", str(tmp_path))
    profile = load_profile("smoke")
    with pytest.raises(FileNotFoundError, match="no activations there; make book PROFILE=smoke leaves them"):
        study.what_is_given(profile, profile.run, "size")


def test_every_study_says_what_it_is_and_how_long_it_takes():
    for name in studies.STUDIES:
        module = studies.load_study(name)
        assert module.TITLE and module.TIME and "\n" not in module.TITLE + module.TIME


def test_texts_held_out_are_those_of_the_book(tmp_path):
    (tmp_path / "texts.json").write_text('{"held_out": ["It is so."], "training": []}')
    given = Given(None, None, [], None, {}, tmp_path, tmp_path)  # pyright: ignore[reportArgumentType]
    assert given.held_out == ["It is so."]
    (tmp_path / "texts.json").write_text('{"training": []}')
    with pytest.raises(ValueError, match="held_out"):
        _ = Given(None, None, [], None, {}, tmp_path, tmp_path).held_out  # pyright: ignore[reportArgumentType]
