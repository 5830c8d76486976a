"""Near-duplicate questions stay in one fold; items of a battery do not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opinion_sae.survey import Question, Survey, load_survey, question_clusters, question_folds

SPENDING = "Are we spending too much, too little or about the right amount on {}?"


SHIPPED = load_survey(["gss", "nonvoters-2020"])


def survey_of(texts, named=None):
    n = len(texts)
    named = named or [""] * n
    return Survey(
        name="s",
        questions=tuple(
            Question(f"q{i}", text, ("Yes", "No"), True, "general", "s", cluster=name)
            for i, (text, name) in enumerate(zip(texts, named, strict=True))
        ),
        groups=("all people",),
        attributes=("any",),
        counts=np.ones((1, n, 2)),
        respondents=np.full((1, n), 2),
        effective=np.full((1, n), 2.0),
        everyone=np.ones((n, 2)),
        everyone_effective=np.full(n, 2.0),
    )


def clusters(texts, **more):
    return question_clusters(survey_of(texts, **more)).tolist()


def test_a_battery_stays_apart_but_its_second_wordings_do_not():
    subjects = [
        "welfare",
        "highways",
        "the space exploration program",
        "mass transportation",
        "parks",
    ]
    assert clusters([SPENDING.format(s) for s in subjects]) == [0, 1, 2, 3, 4]
    both = [*subjects, "space exploration"]
    assert clusters([SPENDING.format(s) for s in both]) == [0, 1, 2, 3, 4, 2]


def test_other_words_for_the_same_are_joined_by_their_cluster_only():
    subjects = ("welfare", "parks", "highways", "schools", "assistance to the poor")
    texts = [SPENDING.format(s) for s in subjects]
    assert clusters(texts) == [0, 1, 2, 3, 4]
    assert clusters(texts, named=["poor", "", "", "", "poor"]) == [0, 1, 2, 3, 0]


def test_same_text_is_one_cluster_however_often():
    texts = [
        "Is trade good for jobs?",
        "Who won?",
        "Is trade good for jobs?",
        "IS trade good for jobs",
    ]
    assert clusters(texts) == [0, 1, 0, 0]


def test_two_questions_that_differ_by_a_word_go_together():
    texts = [
        "How well does the Republican party stand for people like you?",
        "How well does the Democratic party stand for people like you?",
        "Is the climate warming because of what people do?",
    ]
    assert clusters(texts) == [0, 0, 1]


def test_likeness_is_passed_on():
    texts = [
        "Should guns be kept unloaded?",
        "Should guns be kept unloaded at night?",
        "Should guns be kept locked at night?",
    ]
    assert clusters(texts) == [0, 0, 0]


def test_shipped_batteries_stay_apart():
    survey = SHIPPED
    cluster = question_clusters(survey)
    keys = [q.key for q in survey.questions]
    assert cluster[keys.index("Q14")] == cluster[keys.index("Q15")]
    spending = [c for c, q in zip(cluster, survey.questions, strict=True) if q.topic == "government spending"]
    assert len(set(spending)) == 20  # 37 items, of which 17 ask about the subject of another


@settings(max_examples=25)
@given(st.integers(2, 9), st.integers(0, 2**32 - 1))
def test_folds_are_even_whole_and_repeatable(folds, seed):
    survey = SHIPPED
    fold = question_folds(survey, folds, seed)
    assert set(fold) == set(range(folds))
    cluster = question_clusters(survey)
    assert all(len(set(fold[cluster == c])) == 1 for c in set(cluster))
    sizes = np.bincount(fold)
    assert sizes.max() - sizes.min() <= np.bincount(cluster).max()
    for topic in {q.topic for q in survey.questions}:
        inside = np.bincount(fold[[q.topic == topic for q in survey.questions]], minlength=folds)
        assert inside.max() - inside.min() <= np.bincount(cluster).max()
    np.testing.assert_array_equal(fold, question_folds(survey, folds, seed))


def test_seeds_differ_and_too_many_folds_are_refused():
    survey = survey_of(["Is it one?", "Was that two?", "Will three come?", "Is it one?"])
    assert len({tuple(question_folds(survey, 2, s)) for s in range(10)}) > 1
    assert sorted(np.bincount(question_folds(survey, 3, 0))) == [1, 1, 2]
    with pytest.raises(ValueError, match="folds is 4; 3 clusters"):
        question_folds(survey, 4, 0)
    with pytest.raises(ValueError, match="folds is 1"):
        question_folds(survey, 1, 0)
