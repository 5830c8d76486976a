"""What an axis divides, in words, from small cases."""

import numpy as np
import pandas as pd
import torch

from opinion_sae.delta.reading import ReadingDelta
from opinion_sae.effects.axis_words import about, axis_facts, ends, listed, sentence, sides, topics_of
from opinion_sae.model.answers import AnswerPath

CODES = pd.DataFrame({"axis": 1, "group": ["Up", "Even", "Down"], "c": [0.5, 0.0, -0.4], "low": 0.0, "high": 0.0})


def test_ends_are_the_furthest_questions_on_their_side_of_zero():
    assert ends(np.array([0.1, -0.5, 0.9, -0.2, 0.3, -0.1]), 2) == ([2, 4], [1, 3])
    assert ends(np.array([0.1, 0.2, 0.3, 0.4]), 3) == ([3, 2], [])


def test_topics_are_those_beyond_their_share(tiny):
    topics = ["roads"] * 3 + ["rain"] * 6 + ["sun"]
    questions = [tiny.question(f"q{n}", topic=topic) for n, topic in enumerate(topics)]
    assert about(questions, [0, 1, 3, 9]) == ["roads"]
    assert about(questions, [9]) == ["sun"] and about(questions, []) == []


def test_a_topic_is_named_at_one_end_alone(tiny):
    topics = ["roads"] * 2 + ["rain"] * 4 + ["sun"] * 2 + ["sea"] * 12
    questions = [tiny.question(f"q{n}", topic=topic) for n, topic in enumerate(topics)]
    assert topics_of(questions, ([0, 1, 2, 3], [4, 5, 6, 7])) == (["roads"], ["sun"])  # and rain is at both
    assert topics_of(questions, ([0, 1, 2, 3], [4, 5])) == (["roads"], [])
    assert topics_of(questions, ([2, 3], [4, 5])) == ([], []) and topics_of(questions, ([], [4, 5])) == (None, ["rain"])


def test_groups_on_either_side():
    assert sides(CODES, 1) == (["Up"], ["Down"])


def test_sentences_for_one_end_two_or_none():
    two = sentence(1, (["roads"], ["rain", "sun"]), (["Up"], ["Down"]))
    assert two == (
        "Axis 1: questions about roads divide Up (moved up the scale) from Down (down); on questions about rain and "
        "sun it is the other way round."
    )
    one = sentence(2, (None, ["rain"]), (["Up"], []))
    assert one == "Axis 2: questions about rain divide no group (moved up the scale) from Up (down)."
    assert "nothing that divides" in sentence(1, (None, None), (["Up"], ["Down"]))


def test_an_end_that_has_no_topic_of_its_own_says_so():
    turned = sentence(1, ([], ["rain"]), (["Up"], ["Down"]))
    assert turned == (
        "Axis 1: questions about rain divide Down (moved up the scale) from Up (down); on questions with no topic of "
        "their own it is the other way round."
    )
    assert sentence(1, ([], None), (["Up"], [])).startswith("Axis 1: questions with no topic of their own divide Up (")
    assert sentence(1, (["rain"], []), (["Up"], [])).endswith(
        "; on questions with no topic of their own it is the other way round."
    )


def test_names_with_an_and_are_told_apart():
    assert listed([]) == "" and listed(["a", "b", "c"]) == "a, b and c" and listed(["b and c"]) == "b and c"
    assert listed(["sex and morals", "free speech"]) == "sex and morals, and free speech"
    assert listed(["a", "b and c", "d"]) == "a, b and c, and d"


def test_scores_are_those_of_the_offset_with_the_axes_signs(lm, tiny):
    answers, offset = AnswerPath(lm, tiny.questions, 2), ReadingDelta(("Up", "Even", "Down"), tiny.sae(), axes=1)
    offset.a.data.copy_(torch.randn(offset.a.shape, generator=torch.Generator().manual_seed(0)))
    facts = [axis_facts(answers, offset, [(0, sign)], CODES)[0] for sign in (1.0, -1.0)]
    items = torch.arange(3) * answers.orders
    scores = offset.scores(answers.read(offset.sae, "question", items))[:, 0, 0]
    for fact, sign in zip(facts, (1, -1), strict=True):
        up = {text: score for text, _, score in (*fact["up"], *fact["down"])}
        assert up and all(score > 0 for *_, score in fact["up"]) and all(score < 0 for *_, score in fact["down"])
        for q, question in enumerate(tiny.questions):
            assert question.text not in up or abs(up[question.text] - sign * scores[q].item()) < 1e-6
    assert facts[0]["groups"][0][:2] == ["Up", 0.5]
