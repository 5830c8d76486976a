"""One tidy CSV as a survey: a case by hand, each fault named by row and column, and the way back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opinion_sae.survey import Question, Survey, load_survey
from opinion_sae.survey.export import write_tidy

PLAIN = """question,option,attribute,group,count
Is it so?,Yes,SEX,Woman,3
Is it so?,No,SEX,Woman,1
Is it so?,Yes,SEX,Man,2
"Which colour, if any?",Red,SEX,Woman,1.5
"Which colour, if any?",Blue,SEX,Woman,2.5
"Which colour, if any?",Green,SEX,Man,1
"Which colour, if any?",Green,sex x party,Man & Dem,1
"""
FULL = """question,option,attribute,group,count,people,n_effective,key,topic,ordinal,cluster
Is it so?,Yes,all,everyone,4.5,,3.2,a,truth,false,same
Is it so?,No,all,everyone,1.5,,3.2,a,truth,false,same
Is it so?,Yes,sex,Woman,4.5,5,2.5,a,truth,false,same
Is it so?,No,sex,Woman,0.5,5,2.5,a,truth,false,same
"""


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_five_columns_by_hand(tmp_path):
    survey = load_survey(write(tmp_path / "town.csv", PLAIN), min_respondents=1)
    assert survey.name == "town" and survey.groups == ("Female", "Male")
    assert [q.key for q in survey.questions] == ["town-1", "town-2"]
    assert survey.questions[1].options == ("Red", "Blue", "Green") and survey.questions[1].ordinal
    assert survey.counts.tolist() == [[[3, 1, 0], [1.5, 2.5, 0]], [[2, 0, 0], [0, 0, 1]]]
    assert survey.respondents.tolist() == [[4, 4], [2, 1]]
    assert survey.effective.tolist() == [[4, 4], [2, 1]]  # a count of 1 is one person
    assert survey.everyone.tolist() == [[5, 1, 0], [1.5, 2.5, 1]]  # the groups of sex, which hold the most
    inner = load_survey(str(tmp_path / "town.csv"), 1, ["party x sex"])
    assert inner.groups == ("Democrat & Male",)


def test_all_columns_by_hand(tmp_path):
    survey = load_survey(write(tmp_path / "town.csv", FULL), min_respondents=1)
    assert survey.questions == (Question("a", "Is it so?", ("Yes", "No"), False, "truth", "town", cluster="same"),)
    assert survey.respondents.tolist() == [[5]] and survey.effective[0, 0] == pytest.approx(2.5)
    assert survey.everyone.tolist() == [[4.5, 1.5]] and survey.everyone_effective[0] == pytest.approx(3.2)


@pytest.mark.parametrize(
    ("text", "old", "new", "message"),
    [
        (PLAIN, "option,attribute", "answer,attribute", "column 'option' is missing; the header is question, answer"),
        (PLAIN, "Woman,1\n", "Woman\n", "row 3: 4 fields where the header has 5"),
        (PLAIN, "Woman,1\n", "Woman,many\n", "row 3, column 'count': 'many' is not a number from 0"),
        (PLAIN, "Woman,1\n", "Woman,-1\n", "row 3, column 'count': '-1' is not a number from 0"),
        (PLAIN, "No,SEX", "Yes,SEX", "row 3, column 'option': 'Yes' is there twice for this question and group"),
        (PLAIN, "No,SEX", " ,SEX", "row 3, column 'option': '' is empty"),
        (PLAIN, "No,SEX,Woman", "No,SEX,", "row 3, column 'group': '' is empty"),
        (PLAIN, "Is it so?,No,SEX,Woman,1\n", "", "row 2: question 'town-1' has 1 options; 2 to 26"),
        (PLAIN, "sex x party,Man & Dem", "sex x party,Man", "attribute 'sex x party', group 'Man': one group of each"),
        (
            FULL,
            "0.5,5,2.5,a,truth",
            "0.5,5,2.5,a,truths",
            "row 5, column 'topic': 'truths' differs from the question's",
        ),
        (FULL, "Is it so?,No,sex", "Is it?,No,sex", "row 5, column 'question': 'Is it\\?' differs from the question's"),
        (FULL, ",false,", ",no,", "row 2, column 'ordinal': 'no' is not true or false"),
        (FULL, "0.5,5,2.5", "0.5,6,2.5", "row 5, column 'people': '6' differs within the group's answers"),
        (FULL, "0.5,5,2.5", "0.5,,2.5", "row 5, column 'people': '' differs within the group's answers"),
        (FULL, "0.5,5,2.5", "0.5,5.5,2.5", "row 5, column 'people': '5.5' is not a whole number"),
        (FULL, "5,2.5", "5,9", "row 4, column 'n_effective': '9' is larger than the number of people"),
        (FULL, "5,2.5", "0,0", "row 4, column 'count': '4.5' does not go with the people"),
        (FULL, "4.5,,3.2,a", "4.5,,3.2,", "has no key"),
    ],
)
def test_each_fault_has_one_error(tmp_path, text, old, new, message):
    assert old in text
    with pytest.raises(ValueError, match=message):
        load_survey(write(tmp_path / "town.csv", text.replace(old, new)), min_respondents=1)


def test_intersections_alone_say_nothing_of_everyone(tmp_path):
    text = PLAIN.replace("SEX,Woman", "sex x age,Woman & 65+").replace("SEX,Man", "sex x age,Man & 65+")
    with pytest.raises(ValueError, match="question 'town-1' is there for intersections only"):
        load_survey(write(tmp_path / "town.csv", text))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="town.csv: no such file"):
        load_survey(str(tmp_path / "town.csv"))


def random_survey(groups, questions, width, seed):
    rng = np.random.default_rng(seed)
    people = rng.integers(1, 400, (groups, questions)) * (rng.random((groups, questions)) < 0.8)
    counts = rng.random((groups, questions, width)) * people[..., None]
    counts[rng.random(counts.shape) < 0.2] = 0
    people[counts.sum(-1) == 0] = 0
    counts[people == 0] = 0
    people[0, 0], counts[0, 0] = 30, 1.0  # one cell at least
    everyone = counts.sum(0) + 1
    return Survey(
        name="s",
        questions=tuple(
            Question(f"k{i}", f"Question {i}?", tuple("abcd"[:width]), bool(i % 2), "t", "s", cluster="c" * (i % 2))
            for i in range(questions)
        ),
        groups=tuple(f"group {g}" for g in range(groups)),
        attributes=("kind",) * groups,
        counts=counts,
        respondents=people,
        effective=np.where(people > 0, 1 + (people - 1) * rng.random(people.shape), 0.0),
        everyone=everyone,
        everyone_effective=1 + everyone.sum(-1) * rng.random(questions),
    )


@settings(max_examples=30)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(2, 4), st.integers(0, 2**32 - 1))
def test_written_and_read_it_is_the_same(tmp_path_factory, groups, questions, width, seed):
    survey = random_survey(groups, questions, width, seed)
    path = tmp_path_factory.mktemp("tidy") / "s.csv"
    write_tidy(survey, path)
    back = load_survey(str(path), min_respondents=1)
    assert back.questions == survey.questions
    there = [g for g, name in enumerate(survey.groups) if name in back.groups]
    assert (survey.respondents.sum(1) > 0).sum() == len(there)
    order = [back.groups.index(survey.groups[g]) for g in there]
    np.testing.assert_array_equal(back.respondents[order], survey.respondents[there])
    np.testing.assert_allclose(back.counts[order], survey.counts[there], rtol=1e-5)
    np.testing.assert_allclose(back.effective[order], survey.effective[there], rtol=3e-5)
    np.testing.assert_allclose(back.everyone, survey.everyone, rtol=1e-5)
    np.testing.assert_allclose(back.everyone_effective, survey.everyone_effective, rtol=3e-5)
