"""OpinionQA's layout: respondents and counts, on files small enough to count by hand."""

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opinion_sae.survey import load_survey

INFO = """,key,question,references,option_ordinal
0,TRUST_W26,How far do you trust it?,"['A lot', 'Not at all', 'In between', 'Refused']","[1.0, 2.0, 1.5]"
1,KIND_W26,"Which one, if any?","['Red', ""Blue, or so"", 'Not sure', 'Refused']","[1, 1]"
2,STEP_W26,Good or bad?,"['Good', 'Rather good', 'Bad', 'Neither', 'Refused']","[1.0, 2.0, 3.0, 2.5]"
"""
METADATA = """,key,options
0,SEX,"['Male', 'Female']"
1,POLPARTY,"['Republican', 'Democrat', 'Independent', 'Other']"
2,EDUCATION,"['Some college', ""Associate's degree""]"
"""
RESPONSES = """QKEY,TRUST_W26,KIND_W26,STEP_W26,SEX,POLPARTY,EDUCATION,WEIGHT_W26
1,A lot,Red,Good,Male,Republican,Associate's degree,1.0
2,In between,"Blue, or so",Neither,Male,Democrat,Some college,3.0
3,Refused,Not sure,,Female,Republican,Some college,2.0
4,Not at all,Red,Bad,Female,Refused,Some college,0.5
5,A lot,Red,Rather good,Female,Republican,Some college,1.5
"""


def write_wave(root, wave=26, info=INFO, metadata=METADATA, responses=RESPONSES):
    folder = Path(root) / f"American_Trends_Panel_W{wave}"
    folder.mkdir(parents=True)
    for name, text in (("info", info), ("metadata", metadata), ("responses", responses)):
        (folder / f"{name}.csv").write_text(text.replace("W26", f"W{wave}"), encoding="utf-8")
    return folder


def test_one_wave_by_hand(tmp_path):
    survey = load_survey(str(write_wave(tmp_path)), min_respondents=1)
    assert survey.groups == (
        *("Democrat", "Republican", "Female", "Male"),
        *("Some college", "Associate's degree"),
    )
    trust, kind, step = survey.questions
    assert trust.options == ("A lot", "In between", "Not at all") and trust.ordinal
    assert trust.positions == () and trust.topic == "guns"
    assert kind.options == ("Red", "Blue, or so") and not kind.ordinal
    assert step.options == ("Good", "Rather good", "Neither", "Bad")
    assert step.positions == (1.0, 2.0, 2.5, 3.0)
    female, republican = survey.groups.index("Female"), survey.groups.index("Republican")
    assert survey.counts[female].tolist() == [[1.5, 0, 0.5, 0], [2, 0, 0, 0], [0, 1.5, 0, 0.5]]
    assert survey.respondents[female].tolist() == [2, 2, 2]
    assert survey.effective[female, 0] == pytest.approx(4 / 2.5)
    assert survey.counts[republican, 0].tolist() == [2.5, 0, 0, 0]
    assert survey.everyone[0].tolist() == [2.5, 3, 0.5, 0]  # all five but one refusal


def test_intersections_of_respondents(tmp_path):
    folder = write_wave(tmp_path)
    survey = load_survey(f"opinionqa:{folder}", 1, attributes=["SEX x POLPARTY", "education"])
    assert survey.groups == (
        *("Some college", "Associate's degree"),
        *("Democrat & Male", "Republican & Female", "Republican & Male"),
    )
    assert survey.counts[3, 0].tolist() == [1.5, 0, 0, 0]


@pytest.mark.parametrize("inside", ["human_resp", "."])
def test_several_waves_are_joined(tmp_path, inside):
    for wave in (92, 26):
        write_wave(tmp_path / inside, wave)
    survey = load_survey(f"opinionqa:{tmp_path}", min_respondents=1)
    assert [q.key[-3:] for q in survey.questions] == ["W26"] * 3 + ["W92"] * 3
    assert [q.topic for q in survey.questions[2:4]] == ["guns", "political views"]
    np.testing.assert_array_equal(survey.counts[:, :3], survey.counts[:, 3:])


def test_a_selection_reads_its_waves(tmp_path):
    write_wave(tmp_path, 26), write_wave(tmp_path, 92)
    chosen = tmp_path / "Pew_American_Trends_Panel_disagreement_500"
    chosen.mkdir()
    rows = [row + ",Pew_American_Trends_Panel_W26" for row in INFO.splitlines()[1:3]]
    rows += [INFO.splitlines()[1].replace("W26", "W92") + ",Pew_American_Trends_Panel_W92"]
    text = "\n".join([INFO.splitlines()[0] + ",survey", *rows]) + "\n"
    (chosen / "info.csv").write_text(text)
    survey = load_survey(str(chosen), min_respondents=1)
    assert [q.key for q in survey.questions] == ["TRUST_W26", "KIND_W26", "TRUST_W92"]
    assert survey.everyone[2].tolist() == [2.5, 3, 0.5]
    (chosen / "info.csv").write_text(text.replace("Panel_W92", "Panel_W93"))
    with pytest.raises(FileNotFoundError, match="American_Trends_Panel_W93.*selection needs"):
        load_survey(str(chosen), min_respondents=1)


@pytest.mark.parametrize(("one", "two", "name"), [("RACE", "ETHNICITY", "race"), ("SEX", "GENDER", "sex")])
def test_two_columns_of_one_attribute_are_refused(tmp_path, one, two, name):
    metadata = METADATA.replace("SEX", one) + f"""3,{two},"['Male', 'Female']"\n"""
    responses = "\n".join(f"{row},{row.split(',')[4]}" for row in RESPONSES.replace("QKEY", "Q").splitlines()) + "\n"
    responses = responses.replace("SEX", one).replace(f"WEIGHT_W26,{one}", f"WEIGHT_W26,{two}")
    folder = write_wave(tmp_path, metadata=metadata, responses=responses)
    with pytest.raises(
        ValueError, match=f"metadata.csv: row .*{two!r} and {one!r} are both read as {name!r}; keep one"
    ):
        load_survey(str(folder), min_respondents=1)
    counts = {key: counted(Male={"A lot": 3}) for key in (one, two)}
    info = "\n".join(INFO.splitlines()[:2]) + "\n"
    with pytest.raises(ValueError, match=f"_data.json: .* are both read as {name!r}"):
        load_survey(str(write_counts(tmp_path / "counts", counts, info)), min_respondents=1)


def test_own_survey_in_the_same_layout(tmp_path):
    folder = write_wave(tmp_path, responses=RESPONSES.replace("WEIGHT_W26", "weight"))
    own = folder.rename(tmp_path / "town-2024")
    info = (own / "info.csv").read_text().splitlines()
    info = [info[0] + ",topic", *(row + ",town life" for row in info[1:])]
    (own / "info.csv").write_text("\n".join(info))
    (own / "provenance.json").write_text('{"title": "Our town", "licence": "CC0"}')
    survey = load_survey(str(own), min_respondents=1)
    assert survey.name == "town-2024" and {q.topic for q in survey.questions} == {"town life"}
    assert survey.provenance["town-2024"]["title"] == "Our town"


def write_counts(folder, content, info=INFO):
    folder.mkdir(exist_ok=True)
    (folder / "info.csv").write_text(info)
    for name, value in content.items():
        (folder / f"{name}_data.json").write_text(json.dumps(value))
    return folder


def counted(key="TRUST_W26", **groups):
    return {key: {"MC_options": [], "question_text": "", **groups}}


ONE = "\n".join(INFO.splitlines()[:2]) + "\n"  # the first question only


def test_counts_by_hand(tmp_path):
    sexes = counted(Male={"A lot": 3.0, "Refused": 2.0}, Female={"In between": 4.0, "A lot": 1.0})
    parties = counted(Republican={"A lot": 2.0}, Refused={"A lot": 1.0}, nan={})
    both = counted(
        Republican={"Male": {"A lot": 2.0}, "Refused": {"A lot": 9.0}},
        marginals={"Male": {"A lot": 7.0}},
    )
    content = {"SEX": sexes, "POLPARTY": parties, "POLPARTY_SEX": both, "NONE": parties}
    folder = write_counts(tmp_path / "counts", content, ONE)
    survey = load_survey(f"opinionqa:{folder}", min_respondents=1)
    assert survey.groups == ("Republican", "Female", "Male")
    assert survey.counts[:, 0].tolist() == [[2, 0, 0], [1, 4, 0], [3, 0, 0]]
    assert survey.everyone.tolist() == [[4, 4, 0]] and survey.everyone_effective.tolist() == [8]
    inner = load_survey(f"opinionqa:{folder}", 1, attributes=["party x sex"])
    assert inner.groups == ("Republican & Male",) and inner.counts[0, 0].tolist() == [2, 0, 0]


def test_a_key_with_several_wordings_is_left_out_and_named(tmp_path):
    again = INFO + INFO.splitlines()[1].replace("it", "them") + "\n"
    survey = load_survey(str(write_wave(tmp_path, info=again)), min_respondents=1)
    assert [q.key for q in survey.questions] == ["KIND_W26", "STEP_W26"]
    left_out = survey.provenance[survey.name]["left_out"]
    assert left_out == {"TRUST_W26": "stands for 2 wordings, each for a part of the sample"}


DAMAGE = [
    ("info", "option_ordinal", "option", "info.csv: column 'option_ordinal' is missing"),
    ("info", "KIND_W26", "TRUST_W26", None),  # two wordings of one key: allowed
    ("info", INFO.splitlines()[2], INFO.splitlines()[1], "row 3, column 'key': 'TRUST_W26'.*twice"),
    ("info", "[1.0, 2.0, 1.5]", "[1.0]", "row 2: question 'TRUST_W26' has 1 options; 2 to 26"),
    ("info", "[1.0, 2.0, 1.5]", "[1.0, None]", "row 2, column 'option_ordinal': None is not"),
    (
        "info",
        "[1.0, 2.0, 1.5]",
        "1/0",
        "row 2, column 'option_ordinal': '1/0' is not a Python list",
    ),
    ("info", "'Not at all'", "'A lot'", "row 2: the same option twice"),
    ("info", "How far do you trust it?", "", "row 2: question 'TRUST_W26' has no text"),
    ("metadata", "SEX", "GENDER", "responses.csv: column 'GENDER' is missing"),
    ("metadata", "'Male', 'Female'", "'M', 'F'", "column 'SEX': nobody is in any of its groups"),
    ("metadata", "POLPARTY", "SEX", "metadata.csv: row 3, column 'key': 'SEX' is there twice"),
    ("metadata", "['Male', 'Female']", "Male", "row 2, column 'options': 'Male' is not a Python"),
    ("responses", "Not at all", "Never", "row 5, column 'TRUST_W26': 'Never' is not one of.*A lot"),
    ("responses", "WEIGHT_W26", "W", "a column WEIGHT_W26 or weight is needed"),
    ("responses", ",3.0", ",-3.0", "row 3, column 'WEIGHT_W26': '-3.0' is not a number from 0"),
    ("responses", ",3.0", ",", "row 3, column 'WEIGHT_W26': '' is not a number"),
    ("responses", ",3.0", ",nan", "row 3, column 'WEIGHT_W26': 'nan' is not a number"),
    ("responses", "3,Refused", "3,more,Refused", "row 4: 9 fields where the header has 8"),
    ("responses", "STEP_W26", "TRUST_W26", "column 'TRUST_W26' is there twice"),
    ("responses", RESPONSES.partition("\n")[2], "", "no row under the header"),
    ("responses", RESPONSES, "", "responses.csv: the file is empty"),
]


@pytest.mark.parametrize(("file", "old", "new", "message"), DAMAGE)
def test_damage_is_named(tmp_path, file, old, new, message):
    folder = write_wave(tmp_path)
    path = folder / f"{file}.csv"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    if message is None:
        load_survey(str(folder), min_respondents=1)
        return
    with pytest.raises(ValueError, match=message) as raised:
        load_survey(str(folder), min_respondents=1)
    assert str(folder) in str(raised.value)


def test_bad_encoding_and_absent_files_are_named(tmp_path):
    folder = write_wave(tmp_path)
    (folder / "responses.csv").write_bytes(RESPONSES.encode().replace(b"Red", b"R\xe9d", 1))
    with pytest.raises(ValueError, match="responses.csv: line 2: byte 0xe9 is not UTF-8"):
        load_survey(str(folder))
    (folder / "metadata.csv").unlink()
    with pytest.raises(FileNotFoundError, match="metadata.csv: no such file"):
        load_survey(str(folder))
    with pytest.raises(FileNotFoundError, match="no info.csv"):
        load_survey(f"opinionqa:{tmp_path / 'American_Trends_Panel_W26' / '..' / '..'}")
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere; get OpinionQA as book/reproduce.md says"):
        load_survey(f"opinionqa:{tmp_path / 'nowhere'}")
    with pytest.raises(FileNotFoundError, match="opinionqa:<folder>"):
        load_survey(f"{tmp_path / 'nowhere'}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"SEX": {}}, "SEX_data.json: key 'TRUST_W26' of info.csv is missing"),
        ({"SEX": counted(Male={"Never": 1})}, "group 'Male': answer 'Never' is not one of"),
        ({"SEX": counted(Male={"A lot": -1})}, "answer 'A lot': -1 is not a number of people"),
        ({"SEX": counted(Male={"A lot": 0.5})}, "answer 'A lot': 0.5 is not a number of people"),
        ({"SEX": counted(Male=3)}, "key 'TRUST_W26': an object is needed, not '3'"),
        ({"SEX": counted(Male={"Refused": 3})}, "no file .* has an answer to 'TRUST_W26'"),
        ({"SEX": [1]}, "SEX_data.json: a JSON object is needed, not a list"),
    ],
)
def test_damaged_counts_are_named(tmp_path, content, message):
    folder = write_counts(tmp_path / "counts", content, ONE)
    with pytest.raises(ValueError, match=message):
        load_survey(str(folder), min_respondents=1)


@settings(max_examples=150)
@given(
    file=st.sampled_from(["info", "metadata", "responses"]),
    start=st.integers(0, 600),
    length=st.integers(0, 40),
    into=st.one_of(st.binary(max_size=12), st.text(alphabet="',\"[]{}\n 0.-e\\", max_size=8)),
)
def test_any_damage_is_read_or_refused_by_file(file, start, length, into):
    with tempfile.TemporaryDirectory() as root:
        folder = write_wave(root)
        path = folder / f"{file}.csv"
        raw, into = path.read_bytes(), into if isinstance(into, bytes) else into.encode()
        path.write_bytes(raw[:start] + into + raw[start + length :])
        try:
            survey = load_survey(str(folder), min_respondents=1)
        except ValueError as error:
            assert folder.name in str(error) or "no group has 1 respondents" in str(error)
        else:
            assert np.isfinite(survey.counts).all() and (survey.counts >= 0).all()
            assert (survey.respondents.max(1) > 0).all()


def test_the_real_selection_by_hand():
    folder = os.environ.get("OPINION_SAE_OPINIONQA")
    if not folder:
        pytest.skip("OPINION_SAE_OPINIONQA does not name a folder of OpinionQA counts")
    survey = load_survey(f"opinionqa:{folder}", min_respondents=1)
    for attribute, name in (("SEX", "Female"), ("POLPARTY", "Republican"), ("RACE", "Asian")):
        raw = json.loads((Path(folder) / f"{attribute}_data.json").read_text())
        g = survey.groups.index(name)
        for q, question in enumerate(survey.questions):
            counts = [raw[question.key][name].get(option, 0) for option in question.options]
            assert survey.counts[g, q, : len(counts)].tolist() == counts
