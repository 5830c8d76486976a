"""Splits part questions as they say, and no test question enters any fit."""

import dataclasses
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
import torch

from opinion_sae.delta.fit import fit_dense, fit_frozen
from opinion_sae.delta.held_out import (
    Split,
    by_question,
    by_survey,
    by_topic,
    fold_of,
    fold_sizes,
    group_rounds,
    held_out,
    leave_groups_out,
)
from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.delta.settings import FitSettings
from opinion_sae.methods.baselines import choose, position_prior
from opinion_sae.methods.personas import few_shot
from opinion_sae.methods.readout import calibrated, probe, unembedding
from opinion_sae.model.answers import AnswerPath
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.survey import load_survey, question_clusters, question_folds

WORDS = "taxes schools rivers police bread music trains winter horses banks islands towers"
TOPICS = "abcabcabcabc"


@pytest.fixture(scope="module")
def survey(tiny):
    """Twelve questions of two surveys and three topics, five groups of two attributes; the last repeats the first."""
    rng = np.random.default_rng(0)
    questions = [
        dataclasses.replace(
            tiny.question(f"q{i}", ("Yes", "No", "Never")[: 2 + i % 2], f"{word} {word}ly?", topic),
            survey="one" if i < 7 else "two",
        )
        for i, (word, topic) in enumerate(zip(WORDS.split(), TOPICS, strict=True))
    ]
    questions[11] = dataclasses.replace(questions[11], text=questions[0].text)
    shares = np.zeros((5, 12, 3))
    for i, question in enumerate(questions):
        n = len(question.options)
        shares[:, i, :n] = rng.dirichlet(np.ones(n), 5)
    attributes = ["sex", "sex", "party", "party", "party"]
    return tiny.survey(shares, questions, ("f", "m", "d", "i", "r"), attributes)


@pytest.fixture(scope="module")
def answers(lm, survey):
    return AnswerPath(lm, survey.questions, 1, orders=2)


@pytest.fixture(scope="module")
def sae():
    W_dec = torch.nn.functional.normalize(torch.randn(48, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    return SparseAutoencoder(W_dec.T.clone(), torch.zeros(48), W_dec, torch.zeros(32), k=8)


FOLDS = np.array([0, 0, 1, 1, 2, 2, 3, 3, 0, 1, 2, 0])


def all_splits(survey):
    return {
        "question": by_question(FOLDS),
        "topic": by_topic(survey, 3, 0),
        "survey": by_survey(survey, 3, 1),
    }


@pytest.mark.parametrize("kind", ["question", "topic", "survey"])
def test_no_question_and_no_repeat_of_it_is_in_two_parts(survey, kind):
    splits, cluster = all_splits(survey)[kind], question_clusters(survey)
    assert cluster[11] == cluster[0]  # or this shows nothing
    for split in splits:
        parts = [set(cluster[part].tolist()) for part in (split.train, split.validation, split.test)]
        assert all(parts) and sum(map(len, parts)) == len(set.union(*parts))
    assert sorted(np.concatenate([split.test for split in splits]).tolist()) == list(range(12))


def test_topics_and_surveys_are_left_out_whole(survey):
    topics = np.array([question.topic for question in survey.questions])
    for split in by_topic(survey, 3, 0):
        assert len(set(topics[split.test])) == 1
        assert not set(topics[split.test]) & set(topics[np.r_[split.train, split.validation]])
    one, two = by_survey(survey, 3, 1)
    assert (one.name, two.name) == ("to one", "to two")
    assert one.test.tolist() == list(range(7)) and two.test.tolist() == list(range(7, 12))
    assert 11 not in np.r_[one.train, one.validation]  # it repeats question 0


def test_the_shipped_surveys_can_be_split_every_way():
    people = load_survey(["gss", "nonvoters-2020"])
    cluster = question_clusters(people)
    for splits in (by_question(question_folds(people, 5, 0)), by_topic(people, 5, 0), by_survey(people, 5, 0)):
        assert sorted(np.concatenate([split.test for split in splits]).tolist()) == list(range(len(people.questions)))
        for split in splits:
            assert not set(cluster[split.test]) & set(cluster[np.r_[split.train, split.validation]])
            assert len(split.train) >= 15 and len(split.validation) >= 3
    rounds = group_rounds(people)
    assert sorted(sum(rounds, [])) == list(range(len(people.groups)))


def test_splits_that_cannot_be_made_are_refused(survey):
    with pytest.raises(ValueError, match="folds is 4, but the survey made up has 3 topics: a, b, c"):
        by_topic(survey, 4, 0)
    with pytest.raises(ValueError, match="made up is one survey; to fit"):
        by_survey(survey.select(questions=range(7)), 3, 0)
    with pytest.raises(ValueError, match="split 'to one': . questions for training, 0 for validation"):
        by_survey(survey, 10**9, 0)
    with pytest.raises(ValueError, match="no attribute with two groups"):
        group_rounds(survey.select(groups=[0, 2]))


class Spy:
    """A fit that writes down what it was shown."""

    def __init__(self, groups, sae):
        self.seen, self.groups, self.sae = [], groups, sae

    def __call__(self, split):
        self.seen.append((set(split.train.tolist()), set(split.validation.tolist())))
        return GroupDelta(self.groups, self.sae), pd.DataFrame({"epoch": [0]})


@pytest.mark.parametrize("kind", ["question", "topic", "survey"])
def test_a_fit_is_never_shown_a_test_question(answers, sae, survey, kind):
    splits, spy = all_splits(survey)[kind], Spy(survey.groups, sae)
    found = held_out(answers, splits, spy)
    assert len(spy.seen) == len(splits) == len(found.offsets)
    for split, (train, validation) in zip(splits, spy.seen, strict=True):
        assert not set(split.test.tolist()) & (train | validation)
    np.testing.assert_allclose(found.log_probs, answers.predict().numpy().repeat(5, 0), atol=1e-5)
    assert found.history["fold"].tolist() == list(range(len(splits)))


def test_question_splits_validate_on_the_next_fold():
    for fold, split in enumerate(by_question(FOLDS)):
        assert split.test.tolist() == np.flatnonzero(FOLDS == fold).tolist()
        assert split.validation.tolist() == np.flatnonzero(FOLDS == (fold + 1) % 4).tolist()
    assert fold_of(by_question(FOLDS), 12).tolist() == FOLDS.tolist()
    assert fold_of(by_question(FOLDS)[1:], 12).tolist() == np.where(FOLDS == 0, -1, FOLDS - 1).tolist()
    with pytest.raises(ValueError, match="folds: 2 leave no questions to train on"):
        by_question(FOLDS % 2)


def test_what_is_given_for_each_split_reaches_its_fit(answers, sae, survey):
    splits, seen = by_question(FOLDS), []

    def fit(split, word, number):
        seen.append((split.name, word, number))
        return GroupDelta(survey.groups, sae), pd.DataFrame()

    held_out(answers, splits, fit, "abcd", range(4))
    assert seen == [(f"fold {n}", "abcd"[n], n) for n in range(4)]
    with pytest.raises(ValueError, match="shorter"):
        held_out(answers, splits, fit, "abcd", range(3))


def test_sizes_of_folds_by_survey(survey):
    table = fold_sizes(survey, by_question(FOLDS))
    assert table.loc[0].tolist() == [2, 2] and table.to_numpy().sum() == 12


def test_a_question_that_is_not_tested_has_no_answer(answers, sae, survey):
    some = [Split("some", np.array([0, 1]), np.array([2]), np.array([5, 4]))]
    found = held_out(answers, some, Spy(survey.groups, sae)).log_probs
    assert (~np.isnan(found).all(-1)).all(0).nonzero()[0].tolist() == [4, 5]


SETTINGS = FitSettings(epochs=3, lr=0.003)


def answer_with(method, answers, sae, survey, splits):
    def fit(split):
        if method == "delta":
            return fit_frozen(answers, sae, survey, split, SETTINGS)
        return fit_dense(answers, survey, split, SETTINGS)

    if method in ("delta", "dense"):
        return held_out(answers, splits, fit).log_probs
    if method == "position-prior":
        return position_prior(survey, splits)
    if method == "choose":
        candidates = {str(s): np.log(np.random.default_rng(s).dirichlet(np.ones(3), (5, 12))) for s in range(9)}
        return choose(survey, candidates, splits)[0]
    if method == "few-shot":
        with TemporaryDirectory() as folder:
            return few_shot(answers.lm, survey, splits, 1, Path(folder)).log_probs
    if method == "unembedding":
        return unembedding(answers, survey, splits)[0]
    return {"calibrated": calibrated, "probe": probe}[method](answers, survey, splits)


METHODS = ["delta", "dense", "position-prior", "choose", "calibrated", "unembedding", "probe", "few-shot"]


@pytest.mark.parametrize("method", METHODS)
def test_other_answers_to_the_test_questions_change_nothing(answers, sae, survey, method):
    """Whatever reads the survey on its own: turn round the test questions' answers and fit again."""
    split = by_question(FOLDS)[1]
    counts = survey.counts.copy()
    for question in split.test:
        n = len(survey.questions[question].options)
        counts[:, question, :n] = counts[:, question, :n][:, ::-1] ** 2
    turned = dataclasses.replace(survey, counts=counts)
    before, after = (answer_with(method, answers, sae, people, [split])[:, split.test] for people in (survey, turned))
    assert np.isfinite(before).any()
    np.testing.assert_array_equal(before, after)
    counts[:, np.r_[split.train, split.validation]] = [1.0, 0, 0]  # those do matter
    assert (answer_with(method, answers, sae, turned, [split])[:, split.test] != before).any()


def test_groups_are_left_out_one_of_each_attribute_and_answered_by_their_siblings(answers, sae, survey):
    assert group_rounds(survey) == [[0, 2], [1, 3], [4]]
    shown = []

    def fit(others, split):
        shown.append((others.groups, set(split.train.tolist()) | set(split.validation.tolist())))
        delta = GroupDelta(others.groups, sae)
        with torch.no_grad():
            delta.shared[0] = 3.0
            for row, group in enumerate(others.groups):
                delta.deviation[row, survey.groups.index(group) + 1] = 8.0
        return delta, pd.DataFrame()

    splits = by_question(FOLDS)
    found = leave_groups_out(answers, survey, splits, fit)
    for number, (groups, questions) in enumerate(shown):
        out = group_rounds(survey)[number // len(splits)]
        assert not {survey.groups[g] for g in out} & set(groups)
        assert not set(splits[number % len(splits)].test.tolist()) & questions
    expected = GroupDelta(["d"], sae)  # the mean of i and r
    with torch.no_grad():
        expected.shared[0] = 3.0
        shared = answers.predict(expected).numpy()[0]
        expected.deviation[0, [4, 5]] = 4.0
        sibling = answers.predict(expected).numpy()[0]
    np.testing.assert_allclose(found["left-out-shared"][2], shared, atol=1e-5)
    np.testing.assert_allclose(found["left-out-sibling"][2], sibling, atol=1e-5)
    assert np.abs(np.exp(shared) - np.exp(sibling)).max() > 0.003
