"""Joining, small cells, selection: on tables small enough to count by hand."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opinion_sae.survey import Question, load_survey
from opinion_sae.survey.assemble import assemble
from opinion_sae.survey.groups import canonical_attribute, canonical_group
from opinion_sae.survey.table import SurveyTable, count_answers, intersect


def question(key, options=("Yes", "No"), survey="s"):
    return Question(key, f"Is {key} so?", options, True, "test", survey)


def table(name, answers, groups, weights=None, options=None):
    """answers: {key: option per respondent}"""
    options = options or {key: ("Yes", "No") for key in answers}
    weights = np.ones(len(next(iter(answers.values())))) if weights is None else np.array(weights)
    cells = count_answers(
        list(answers),
        [len(options[k]) for k in answers],
        np.column_stack(list(answers.values())),
        groups,
        weights,
    )
    return SurveyTable(name, tuple(question(k, options[k], name) for k in answers), cells, {})


def test_counts_shares_and_effective_size_by_hand():
    people = table(
        "s",
        {"a": [0, 0, 1, -1], "b": [2, 1, 0, 0]},
        {"sex": ["Man", "Man", "Woman", "Woman"]},
        weights=[1.0, 3.0, 2.0, 1.0],
        options={"a": ("Yes", "No"), "b": ("x", "y", "z")},
    )
    survey = assemble([people], min_respondents=1)
    assert survey.groups == ("Female", "Male") and survey.attributes == ("sex", "sex")
    assert survey.counts.tolist() == [[[0, 2, 0], [3, 0, 0]], [[4, 0, 0], [0, 3, 1]]]
    assert survey.respondents.tolist() == [[1, 2], [2, 2]]
    # Kish: (1 + 3)² / (1 + 9)
    assert survey.effective[1].tolist() == [1.6, 1.6]
    assert survey.everyone.tolist() == [[4, 2, 0], [3, 3, 1]]
    assert survey.everyone_effective[0] == pytest.approx(36 / 14)
    assert survey.shares[1].tolist() == [[1, 0, 0], [0, 0.75, 0.25]]


def test_small_cells_are_dropped_and_listed():
    people = table("s", {"a": [0, 1, 1], "b": [0, 1, -1]}, {"sex": ["Male", "Female", "Female"]})
    survey = assemble([people], min_respondents=2)
    assert survey.groups == ("Female",)
    assert [(c.group, c.question, c.respondents) for c in survey.dropped] == [
        ("Female", "b", 1),
        ("Male", "a", 1),
        ("Male", "b", 1),
    ]
    assert np.isnan(survey.shares[0, 1]).all() and survey.effective[0, 1] == 0
    assert survey.everyone.sum() == 5


def test_an_attribute_asked_for_must_leave_a_group():
    people = table("s", {"a": [0, 1]}, {"sex": ["Male", "Female"], "race": ["White", "White"]})
    assert assemble([people], 2).groups == ("White",)
    with pytest.raises(ValueError, match="'sex'.*Female, Male; the largest has 1"):
        assemble([people], 2, attributes=["sex", "race"])
    with pytest.raises(ValueError, match="'colour' is not in the survey; there are: sex, race"):
        assemble([people], 1, attributes=["colour"])


def test_join_merges_groups_by_name():
    one = table("one", {"a": [0, 1]}, {"sex": ["Man", "Woman"]})
    two = table("two", {"b": [0, 0, 1]}, {"gender": ["M", "F", "F"], "party": ["Dem", "GOP", None]})
    survey = assemble([one, two], 1)
    assert survey.name == "one+two"
    assert survey.groups == ("Democrat", "Republican", "Female", "Male")
    assert survey.respondents.tolist() == [[0, 1], [0, 1], [1, 2], [1, 1]]
    assert not survey.dropped  # party was not asked in the first: missing, not too small


def test_a_name_in_two_attributes_is_told_apart():
    people = table("s", {"a": [0, 1]}, {"cat": ["Yes", "No"], "dog": ["No", "No"]})
    assert set(assemble([people], 1).groups) == {"Yes", "No (cat)", "No (dog)"}


def test_doubled_keys_and_wrong_options_are_refused():
    one = table("one", {"a": [0, 1]}, {"sex": ["Male", "Female"]})
    with pytest.raises(ValueError, match="two: question 'a' is already in one"):
        assemble([one, table("two", {"a": [0, 1]}, {"sex": ["Male", "Female"]})], 1)
    silent = table("m", {"a": [-1]}, {"sex": ["Male"]})
    with pytest.raises(ValueError, match="nobody answered question 'a'"):
        assemble([silent], 1)


def test_load_joins_and_thins():
    both = load_survey(["gss", "nonvoters-2020"])
    assert len(both.questions) == 370 and both.counts.shape[2] == 7
    liberal = both.groups.index("Liberal")
    assert (both.respondents[liberal, 324:] == 0).all()
    assert np.isnan(both.shares[liberal, 324:]).all()
    few = load_survey(["gss", "nonvoters-2020"], max_questions=5)
    keys = [q.key for q in both.questions]
    assert [keys.index(q.key) for q in few.questions] == [0, 92, 184, 277, 369]


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (dict(source="gss-2099"), "'gss-2099'.*gss, nonvoters-2020"),
        (dict(source=[]), "no survey named"),
        (dict(source="gss", min_respondents=0), "min_respondents is 0"),
        (dict(source="gss", max_questions=-1), "max_questions is -1"),
        (dict(source="nonvoters-2020", attributes=["ideology"]), "'ideology' is not in"),
        (dict(source="gss", min_respondents=4000), "no group has 4000"),
    ],
)
def test_wrong_calls_are_named(call, match):
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        load_survey(**call)


def test_select_keeps_everything_in_step():
    survey = load_survey(["gss", "nonvoters-2020"], min_respondents=250)
    part = survey.select(questions=[30, 2], groups=[3, 0])
    assert [q.key for q in part.questions] == [survey.questions[30].key, survey.questions[2].key]
    assert part.groups == (survey.groups[3], survey.groups[0])
    np.testing.assert_array_equal(part.counts, survey.counts[[3, 0]][:, [30, 2], : part.counts.shape[2]])
    assert part.counts.shape[2] == max(len(q.options) for q in part.questions)
    assert {c.question for c in part.dropped} <= {q.key for q in part.questions}
    with pytest.raises(ValueError, match="no question 370; there are 370"):
        survey.select(questions=[370])
    with pytest.raises(ValueError, match="mask"):
        survey.select(groups=[True, False])


def test_names_of_intersections_do_not_depend_on_the_order_asked():
    assert canonical_attribute("sex x POLPARTY") == "party x sex"
    assert canonical_attribute("race x sex x party") == "party x race x sex"
    assert canonical_group("party", "democratic") == "Democrat"
    assert canonical_group("race", "Martian") == "Martian"
    groups = {"sex": ["Female", None], "party": ["Democrat", "Democrat"]}
    assert intersect(groups, "sex x party") == ["Democrat & Female", None]


people = st.lists(
    st.tuples(
        st.integers(-1, 2),
        st.sampled_from(["Male", "Female", None]),
        st.floats(0.0, 5.0).map(lambda w: round(w, 3)),
    ),
    min_size=1,
    max_size=40,
)


@given(people)
def test_counting_is_what_a_loop_counts(rows):
    answer, sex, weight = (list(column) for column in zip(*rows, strict=True))
    cells = count_answers(["q"], [3], np.array(answer)[:, None], {"sex": sex}, np.array(weight, dtype=float))
    for row in cells.itertuples():
        mine = [w for a, s, w in rows if a == row.option and w > 0 and (row.group == "everyone" or s == row.group)]
        assert row.respondents == len(mine)
        assert row.weight == pytest.approx(sum(mine))
        assert row.weight_squared == pytest.approx(sum(w * w for w in mine))


TWICE = "attributes 'ETHNICITY' and 'RACE' are both read as 'race'; keep one of them, or give one a name of its own"


def test_two_attributes_of_one_table_that_are_one_are_refused():
    races = {"RACE": ["White", "Black"], "ETHNICITY": ["White", "Black"]}
    with pytest.raises(ValueError, match=f"^one: {TWICE}"):
        assemble([table("one", {"a": [0, 1]}, races)], 1)
    first, second = (
        table(name, {key: [0, 1]}, {of: races[of]})
        for name, key, of in (("one", "a", "RACE"), ("two", "b", "ETHNICITY"))
    )
    assert set(assemble([first, second], 1).attributes) == {"race"}  # of different tables they are joined


def write_tidy(folder):
    rows = [f"Is it so?,{option},{of},White,2" for of in ("RACE", "ETHNICITY") for option in ("Yes", "No")]
    (folder / "town.csv").write_text("\n".join(["question,option,attribute,group,count", *rows, ""]))
    return str(folder / "town.csv")


def write_counted(folder):
    town = folder / "town"
    town.mkdir()
    (town / "questions.csv").write_text("key,text,options,ordinal,topic\na,Is it so?,Yes|No,true,truth\n")
    pairs = ("all,everyone", "RACE,White", "ETHNICITY,White")
    rows = [f"a,{pair},{option},2,2,2" for pair in pairs for option in (0, 1)]
    head = "question,attribute,group,option,respondents,weight,weight_squared"
    (town / "counts.csv").write_text("\n".join([head, *rows, ""]))
    return str(town)


def write_subpop(folder):
    row = {
        "qkey": "A_W1",
        "question": "Is it so?",
        "options": ["Yes", "No", "Refused"],
        "ordinal": [1, 2],
        "refusal_rate": 0.0,
    }
    row |= {"group": "White", "responses": [0.5, 0.5]}
    lines = [json.dumps(row | {"attribute": of}) for of in ("RACE", "ETHNICITY")]
    (folder / "town.jsonl").write_text("\n".join([*lines, ""]))
    return f"subpop:{folder / 'town.jsonl'}"


@pytest.mark.parametrize("write", [write_tidy, write_counted, write_subpop])
def test_every_reader_refuses_one_attribute_under_two_names(write, tmp_path):
    with pytest.raises(ValueError, match=f"town: {TWICE}"):
        load_survey(write(tmp_path), min_respondents=1)
