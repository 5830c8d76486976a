"""SubPOP and GlobalOpinionQA: shares without sample sizes, on rows that can be checked by hand."""

import csv
import io
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opinion_sae.survey import load_survey
from opinion_sae.survey.shares import NOMINAL

OPTIONS = ["Good", "Bad", "In between", "Refused"]


def subpop_row(attribute="SEX", group="Male", responses=(0.5, 0.25, 0.25), **more):
    return {
        "qkey": "Q1_W61",
        "attribute": attribute,
        "group": group,
        "responses": list(responses),
        "refusal_rate": 0.01,
        "ordinal": [1.0, 2.0, 1.5],
        "question": "How is it?",
        "options": OPTIONS,
        **more,
    }


ROWS = [
    subpop_row(),
    subpop_row(group="Female", responses=(0.1, 0.6, 0.3)),
    subpop_row("RACE", "white non-hispanic", (1.0, 0.0, 0.0)),
    subpop_row(["SEX", "POLPARTY"], ["Male", "Democrat"], (0.0, 0.0, 1.0)),
]


def write_lines(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def write_csv(path, rows):
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(out.getvalue(), encoding="utf-8")
    return path


@pytest.mark.parametrize(("write", "name"), [(write_lines, "a.jsonl"), (write_csv, "a.csv")])
def test_subpop_by_hand(tmp_path, write, name):
    survey = load_survey(f"subpop:{write(tmp_path / name, ROWS)}")
    assert survey.groups == ("White", "Female", "Male")
    (question,) = survey.questions
    assert question.options == ("Good", "In between", "Bad") and question.ordinal
    np.testing.assert_allclose(survey.shares[2, 0], [0.5, 0.25, 0.25])
    np.testing.assert_allclose(survey.shares[1, 0], [0.1, 0.3, 0.6])
    np.testing.assert_allclose(survey.everyone_shares[0], [0.3, 0.275, 0.425])  # the two sexes
    assert (survey.respondents == NOMINAL).all()
    assert "assumed" in survey.provenance["a"]["respondents"]
    both = load_survey(f"subpop:{tmp_path / name}", attributes=["party x sex"])
    assert both.groups == ("Democrat & Male",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(responses=[0.5, 0.5]), "row 2, column 'responses': 2 shares for 3 options"),
        (dict(responses=[0.5, 0.5, 0.5]), "row 2, column 'responses': the shares add up to 1.5"),
        (dict(responses=[1.5, -0.5, 0.0]), "row 2, column 'responses': -0.5 is negative"),
        (dict(responses="most"), "row 2, column 'responses': 'most' is not a Python list"),
        (dict(ordinal=[1.0, 2.0]), "row 2, column 'ordinal': 2 places for 4 options"),
        (dict(group="Female"), "row 3, column 'group': 'Female' is there twice"),
        (dict(question="Who?"), "row 3, column 'qkey': 'Q1_W61' is worded two ways"),
        (dict(group=""), "row 2, column 'group': '' does not go with the attribute"),
        (dict(options=["Good", "Good", "Bad", "Refused"]), "row 2: the same option twice"),
    ],
)
def test_damaged_subpop_is_named(tmp_path, change, message):
    path = write_csv(tmp_path / "a.csv", [{**ROWS[0], **change}, *ROWS[1:]])
    with pytest.raises(ValueError, match=f"a.csv: {message}"):
        load_survey(f"subpop:{path}")


def test_subpop_lines_are_checked(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [{k: v for k, v in ROWS[0].items() if k != "qkey"}])
    with pytest.raises(ValueError, match="a.jsonl: line 1: 'qkey' is missing"):
        load_survey(f"subpop:{path}")
    path.write_text(json.dumps(ROWS[0]) + "\n{")
    with pytest.raises(ValueError, match="a.jsonl: not valid JSON: line 2"):
        load_survey(f"subpop:{path}")


def global_row(selections, question="Is it so?", options="['Yes', 'No', 'DK/Refused']"):
    text = f"defaultdict(<class 'list'>, {selections})" if isinstance(selections, dict) else selections
    return {"question": question, "selections": text, "options": options, "source": "GAS"}


def test_global_opinionqa_by_hand(tmp_path):
    rows = [
        global_row({"France": [0.6, 0.2, 0.2], "Côte d'Ivoire": [0.25, 0.25, 0.5], "Odd": [1.0]}),
        global_row({"France": [1.0, 0.0, 0.0]}, question=""),
        global_row({"France": [1.0]}, options="['Yes']"),
        global_row({"France": [0.0, 0.0, 1.0]}),
        global_row({"Japan": [0.0, 1.0, 0.0]}, question="Is it not?"),
    ]
    survey = load_survey(f"globalopinionqa:{write_csv(tmp_path / 'g.csv', rows)}")
    assert [q.key for q in survey.questions] == ["goqa-2", "goqa-6"]
    assert survey.questions[0].options == ("Yes", "No") and not survey.questions[0].ordinal
    assert survey.questions[0].topic == "Pew Global Attitudes Survey"
    assert survey.groups == ("France", "Côte d'Ivoire", "Japan")
    np.testing.assert_allclose(survey.shares[:2, 0], [[0.75, 0.25], [0.5, 0.5]])
    assert np.isnan(survey.shares[2, 0]).all()
    np.testing.assert_allclose(survey.everyone_shares[0], [0.625, 0.375])
    left_out = survey.provenance["g"]["left_out"]
    assert set(left_out) == {"row 2, Odd", "row 3", "row 4", "row 5, France", "row 5"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (global_row("France"), "row 2, column 'selections': 'France' is not a dictionary"),
        (global_row({"France": [0.5, -0.5, 1.0]}), "column 'selections', France: -0.5 is negative"),
        (global_row({"France": ["a", 0, 0]}), "column 'selections', France: 'a' is not a number"),
        (global_row({" ": [1.0, 0, 0]}), "column 'selections': a country without a name"),
        (global_row({}, options="Yes, No"), "row 2, column 'options': 'Yes, No' is not a Python"),
        (global_row({}), "no row with a question, two options and a country's answers"),
    ],
)
def test_damaged_global_opinionqa_is_named(tmp_path, row, message):
    path = write_csv(tmp_path / "g.csv", [row])
    with pytest.raises(ValueError, match=f"g.csv.*{message}"):
        load_survey(f"globalopinionqa:{path}")


def test_a_hub_that_cannot_be_reached_is_said_plainly(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="subpop_eval.jsonl of hub data set owner/none-such"):
        load_survey("subpop:owner/none-such/subpop_eval.jsonl")
    with pytest.raises(FileNotFoundError, match="name a .jsonl or .csv file or a hub id"):
        load_survey("globalopinionqa:no-slash.csv")


@settings(max_examples=100)
@given(
    kind=st.sampled_from(["subpop", "globalopinionqa"]),
    start=st.integers(0, 500),
    length=st.integers(0, 30),
    into=st.one_of(st.binary(max_size=8), st.text(alphabet="',\"[](){}\n 0.-e\\", max_size=8)),
)
def test_any_damage_is_read_or_refused_by_file(kind, start, length, into):
    rows = ROWS if kind == "subpop" else [global_row({"France": [0.6, 0.2, 0.2]})] * 2
    with tempfile.TemporaryDirectory() as root:
        path = write_csv(Path(root) / "damaged.csv", rows)
        raw, into = path.read_bytes(), into if isinstance(into, bytes) else into.encode()
        path.write_bytes(raw[:start] + into + raw[start + length :])
        try:
            survey = load_survey(f"{kind}:{path}")
        except ValueError as error:
            assert "damaged" in str(error) or "no group has" in str(error)
        else:
            shares = survey.shares[survey.respondents > 0].sum(-1)
            np.testing.assert_allclose(shares, 1)
