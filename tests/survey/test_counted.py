"""This project's own form, questions.csv and counts.csv: every fault is named by file and row."""

import gzip
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opinion_sae.survey import load_survey, survey_hash

QUESTIONS = """key,text,options,ordinal,topic
a,Is it so?,Yes|No,true,truth
b,"Which colour, if any?",Red|Green|Blue,false,
"""
COUNTS = """question,attribute,group,option,respondents,weight,weight_squared
a,all,everyone,0,3,4.5,7.25
a,all,everyone,1,1,1.0,1.0
b,all,everyone,2,4,4.0,4.0
a,sex,Woman,0,2,3.5,6.25
a,sex,Woman,1,1,1.0,1.0
b,sex,Woman,2,2,2.0,2.0
a,sex,Man,0,1,1.0,1.0
b,sex,Man,2,2,2.0,2.0
a,sex x party,Woman & Dem,0,2,3.5,6.25
"""


def write(folder, questions=QUESTIONS, counts=COUNTS):
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    (folder / "questions.csv").write_text(questions, encoding="utf-8")
    (folder / "counts.csv").write_text(counts, encoding="utf-8")
    return str(folder)


def test_a_folder_by_hand(tmp_path):
    survey = load_survey(write(tmp_path / "town"), min_respondents=1)
    assert survey.name == "town" and survey.provenance == {"town": {}}
    assert survey.groups == ("Female", "Male")
    assert [q.topic for q in survey.questions] == ["truth", "general"]
    assert survey.counts.tolist() == [[[3.5, 1, 0], [0, 0, 2]], [[1, 0, 0], [0, 0, 2]]]
    assert survey.respondents.tolist() == [[3, 2], [1, 2]]
    assert survey.effective[0, 0] == pytest.approx(4.5**2 / 7.25)
    assert survey.everyone.tolist() == [[4.5, 1, 0], [0, 0, 4]]
    inner = load_survey(str(tmp_path / "town"), 1, attributes=["sex x party"])
    assert inner.groups == ("Democrat & Female",)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("questions", "\nb,", "\na,", "row 3, column 'key': 'a' is there twice"),
        ("questions", "Yes|No", "Yes", "row 2: question 'a' has 1 options; 2 to 26"),
        ("questions", "Yes|No", "Yes|", "row 2: an option is empty"),
        ("questions", "Yes|No", "Yes|Yes", "row 2: the same option twice"),
        ("questions", "Yes|No", "|".join(map(str, range(27))), "27 options; 2 to 26"),
        ("questions", "true", "yes", "row 2, column 'ordinal': 'yes' is not true or false"),
        ("questions", "key,text", "id,text", "column 'key' is missing; the header is id, text"),
        ("questions", "\na,", "\n ,", "row 2: the question has no key"),
        ("counts", "b,all,", "c,all,", "row 4, column 'question': 'c' is not a key"),
        ("counts", "everyone,1,", "everyone,2,", "row 3, column 'option': 2 is past the last"),
        ("counts", "everyone,1,", "everyone,No,", "row 3, column 'option': 'No' is not a whole"),
        ("counts", "everyone,1,1,", "everyone,1,1.5,", "'respondents': '1.5' is not a whole"),
        ("counts", ",3.5,6.25", ",-3.5,6.25", "row 5, column 'weight': '-3.5' is not a number"),
        ("counts", ",3.5,6.25", ",3.5,", "row 5, column 'weight_squared': '' is not a number"),
        ("counts", ",3.5,6.25", ",3.5,6.0", "row 5, column 'weight_squared': 6.0 is too small"),
        ("counts", "0,2,3.5", "0,0,3.5", "row 5, column 'weight': 3.5 does not go with"),
        ("counts", "a,sex,Woman,1", "a,sex,Woman,0", "row 6, column 'option': 0 is there twice"),
        ("counts", "a,sex,Man", "a,sex,", "row 8, column 'group': '' is empty"),
        ("counts", "a,sex,Man", "a, ,Man", "row 8, column 'attribute': ' ' is empty"),
        ("counts", "b,all,everyone", "b,all,all", "no row all,everyone for question 'b'"),
        ("counts", "b,all", 'b",all', "row 4"),
    ],
)
def test_damage_is_named(tmp_path, file, old, new, message):
    folder = write(tmp_path / "town")
    path = tmp_path / "town" / f"{file}.csv"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=f"{file}.csv.*{message}"):
        load_survey(folder, min_respondents=1)


def test_counts_may_be_packed(tmp_path):
    plain = load_survey(write(tmp_path / "town"), min_respondents=1)
    path = tmp_path / "town" / "counts.csv"
    packed = path.with_name("counts.csv.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert survey_hash(load_survey(str(tmp_path / "town"), min_respondents=1)) == survey_hash(plain)
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(ValueError, match="counts.csv.gz: not a whole gzip file"):
        load_survey(str(tmp_path / "town"))
    packed.write_text(COUNTS)
    with pytest.raises(ValueError, match="counts.csv.gz: not a whole gzip file"):
        load_survey(str(tmp_path / "town"))


def test_a_small_file_that_unpacks_to_very_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("opinion_sae.artifacts.LARGEST_TEXT", 1 << 20)
    path = Path(write(tmp_path / "town")) / "counts.csv"
    path.with_name("counts.csv.gz").write_bytes(gzip.compress(path.read_bytes() + b"\n" * (1 << 20)))
    path.unlink()
    with pytest.raises(ValueError, match="counts.csv.gz: unpacks to more than 1 MB"):
        load_survey(str(tmp_path / "town"))


def test_a_cluster_is_read_and_not_hashed(tmp_path):
    lines = QUESTIONS.strip().splitlines()
    named = "\n".join(f"{line},{end}" for line, end in zip(lines, ("cluster", "same", ""), strict=True))
    survey = load_survey(write(tmp_path / "town", questions=named), min_respondents=1)
    assert [q.cluster for q in survey.questions] == ["same", ""]
    assert survey_hash(survey) == survey_hash(load_survey(write(tmp_path / "town"), min_respondents=1))


def test_an_intersection_needs_a_group_of_each_attribute(tmp_path):
    folder = write(tmp_path / "town", counts=COUNTS.replace("Woman & Dem", "Woman"))
    with pytest.raises(ValueError, match="'sex x party', group 'Woman': one group of each"):
        load_survey(folder)


def test_absent_counts_and_bad_provenance(tmp_path):
    folder = write(tmp_path / "town")
    (tmp_path / "town" / "provenance.json").write_text('{"title": ')
    with pytest.raises(ValueError, match="provenance.json: not valid JSON: line 1"):
        load_survey(folder)
    (tmp_path / "town" / "counts.csv").unlink()
    with pytest.raises(FileNotFoundError, match="counts.csv: no such file"):
        load_survey(folder)


@settings(max_examples=150)
@given(
    file=st.sampled_from(["questions", "counts"]),
    start=st.integers(0, 500),
    length=st.integers(0, 40),
    into=st.one_of(st.binary(max_size=12), st.text(alphabet="',\"|\n 019.-e", max_size=8)),
)
def test_any_damage_is_read_or_refused_by_file(file, start, length, into):
    with tempfile.TemporaryDirectory() as root:
        folder = write(Path(root) / "town")
        path = Path(folder) / f"{file}.csv"
        raw, into = path.read_bytes(), into if isinstance(into, bytes) else into.encode()
        path.write_bytes(raw[:start] + into + raw[start + length :])
        try:
            survey = load_survey(folder, min_respondents=1)
        except ValueError as error:
            assert "town" in str(error) or "no group has" in str(error)
        else:
            assert np.isfinite(survey.counts).all() and (survey.counts >= 0).all()
            # Kish: never more than the people, never less than one
            cells = survey.respondents > 0
            assert (survey.effective[cells] <= survey.respondents[cells] * (1 + 1e-6)).all()
