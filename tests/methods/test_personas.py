"""Persona texts by hand; a run that was stopped goes on where it was."""

import numpy as np
import pytest

from opinion_sae.delta.held_out import Split
from opinion_sae.methods import personas
from opinion_sae.methods.personas import (
    STYLES,
    examples,
    few_shot,
    persona,
    persona_answers,
    persona_residuals,
    some_held_out,
    spread,
)
from opinion_sae.model.answers import AnswerPath


def test_texts(two_groups):
    assert persona("qa", two_groups, 1) == "Question: What is your sex?\nA. Female\nB. Male\nAnswer: B"
    assert "My sex is Male." in persona("bio", two_groups, 1)
    assert "a Female adult" in persona("portray", two_groups, 0)
    assert len({persona(style, two_groups, g) for style in STYLES for g in (0, 1)}) == 6
    with pytest.raises(ValueError, match="'poem' is not one of qa, bio, portray"):
        persona("poem", two_groups, 0)


def test_an_attribute_without_words_of_its_own(tiny):
    survey = tiny.survey(np.full((2, 3, 4), 0.25), groups=("Tea", "Coffee"), attributes=["drink"] * 2)
    assert persona("qa", survey, 0) == "Question: What is your drink?\nA. Tea\nB. Coffee\nAnswer: A"
    assert "an adult whose drink is Coffee" in persona("portray", survey, 1)


def test_answers_are_those_of_the_prompts_with_the_persona(lm, two_groups, tmp_path):
    found = persona_answers(lm, two_groups, 2, "bio", tmp_path)
    for group in range(2):
        answers = AnswerPath(lm, two_groups.questions, 1, 2, persona("bio", two_groups, group))
        np.testing.assert_allclose(found.log_probs[group], answers.predict()[0], atol=1e-4)  # sums in another order
        np.testing.assert_allclose(found.option_mass[group], answers.next_token().mass.mean(-1)[0], rtol=1e-4)
    assert np.abs(np.exp(found.log_probs[0]) - np.exp(found.log_probs[1])).max() > 1e-4


def test_some_questions_only(lm, two_groups, tmp_path):
    some = persona_answers(lm, two_groups, 2, "qa", tmp_path, questions=[0, 2])
    assert some.log_probs.shape == (2, 2, 4)
    for part, whole in zip(some, persona_answers(lm, two_groups, 2, "qa", tmp_path), strict=True):
        np.testing.assert_allclose(part, whole[:, [0, 2]], atol=1e-5)


def test_a_stopped_run_goes_on_where_it_was_and_other_prompts_are_asked_anew(lm, two_groups, tmp_path, monkeypatch):
    asked, ask = [], personas.ask_group

    def counted(*args):
        asked.append(args[4])
        if len(asked) == 2:
            raise KeyboardInterrupt
        return ask(*args)

    monkeypatch.setattr(personas, "ask_group", counted)
    with pytest.raises(KeyboardInterrupt):
        persona_answers(lm, two_groups, 2, "portray", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["portray-0.safetensors"]
    first = persona_answers(lm, two_groups, 2, "portray", tmp_path)
    assert len(asked) == 3 and asked[2] == asked[1]  # the first group was not asked again
    again = persona_answers(lm, two_groups, 2, "portray", tmp_path)
    assert len(asked) == 3
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    persona_answers(lm, two_groups, 1, "portray", tmp_path)  # one order of the options
    assert len(asked) == 5


def test_a_broken_file_is_named(lm, two_groups, tmp_path):
    (tmp_path / "qa-0.safetensors").write_bytes(b"not one")
    with pytest.raises(ValueError, match="qa-0.safetensors: not a safetensors file.*delete it"):
        persona_answers(lm, two_groups, 2, "qa", tmp_path)


def test_questions_are_spread_evenly():
    questions = np.array([3, 5, 8])
    assert spread(questions, 2).tolist() == [3, 8] and spread(questions, 9).tolist() == [3, 5, 8]


def test_residuals_alone_are_those_of_the_prompts(lm, two_groups):
    found = persona_residuals(lm, two_groups, 1, "portray", np.array([0, 2]))
    for group in range(2):
        answers = AnswerPath(lm, two_groups.questions, 1, 1, persona("portray", two_groups, group))
        np.testing.assert_allclose(found[group], answers.residual[[0, 2]], atol=1e-4)


def test_examples_say_what_most_of_the_group_chose(two_groups):
    text = examples(two_groups, 1, [0, 1])
    assert "Is it so?\nA. Yes\nB. No\nAnswer: B\n" in text and "D. Always\nAnswer: A\n" in text
    assert "Answer: A\n\nHow often" in examples(two_groups, 0, [0, 1])


def test_few_shot_shows_training_questions_that_the_group_answered(lm, two_groups, tmp_path):
    split = Split("s", np.array([0, 2]), np.array([1]), np.array([1]))
    found = few_shot(lm, two_groups, [split], 1, tmp_path).log_probs
    assert found.shape == (2, 3, 4) and np.isnan(found[:, [0, 2]]).all()
    for group, shown in ((0, [0, 2]), (1, [0])):  # the second group did not answer question 2
        text = examples(two_groups, group, shown)
        expected = AnswerPath(lm, two_groups.questions[1:2], 1, 1, text).predict()[0, 0]
        np.testing.assert_allclose(found[group, 1], expected, atol=1e-5)


def test_those_asked_are_held_out_and_name_no_group(tiny):
    questions = [tiny.question(f"q{i}", text="Are men so?" if i in (1, 4) else "Is it so?") for i in range(8)]
    survey = tiny.survey(np.full((2, 8, 2), 0.5), questions)
    splits = [tiny.split([0], test=[0, 1, 2, 3, 7]), tiny.split([0], test=[4, 5, 6])]
    assert some_held_out(survey, splits, 2).tolist() == [0, 5, 6, 7]
