"""The factual questions and plain passages that come with the package, and how options are scored by their text."""

import re
from collections import Counter

import numpy as np
import pytest

from opinion_sae.effects.facts import Facts, fact_prompts, load_facts, load_passages
from opinion_sae.model.answers import AnswerPath

WORDS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen".split()
NUMBERS = {word: number for number, word in enumerate(WORDS)}
NUMBERS |= {"eighteen": 18, "nineteen": 19, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60}
NUMBERS |= {"ninety": 90, "hundred": 100, "thousand": 1000}
HEADER = "subject,question,a,b,c,d,right\n"


def computed(text):
    """The answer to an arithmetic question, from its words."""
    text = re.sub(r"\b(" + "|".join(NUMBERS) + r")\b", lambda word: str(NUMBERS[word.group()]), text)
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    if "largest" in text or "smallest" in text:
        return max(numbers) if "largest" in text else min(numbers)
    if len(numbers) == 1:
        (number,) = numbers
        return {"right after": number + 1, "half of": number / 2, "twice": 2 * number}[
            next(key for key in ("right after", "half of", "twice") if key in text)
        ]
    a, b = numbers
    operation = re.fullmatch(r"What is \d+ (plus|minus|times|divided by) \d+\?", text).group(1)
    return {"plus": a + b, "minus": a - b, "times": a * b, "divided by": a / b if b else None}[operation]


@pytest.fixture(scope="module")
def facts():
    return load_facts()


def test_there_are_enough_questions_on_several_subjects(facts):
    subjects = Counter(question.topic for question in facts.questions)
    assert len(facts.questions) >= 200 and len(subjects) >= 6 and min(subjects.values()) >= 30
    assert len({question.key for question in facts.questions}) == len(facts.questions)


def test_no_question_is_asked_twice(facts):
    plain = Counter(re.sub(r"\W+", " ", question.text.lower()).strip() for question in facts.questions)
    assert max(plain.values()) == 1
    assert all(question.text.endswith("?") and question.text.isascii() for question in facts.questions)


def test_each_question_has_four_options_that_start_with_different_words(facts):
    for question in facts.questions:
        assert len(question.options) == 4, question
        assert len({option.lower().split()[0] for option in question.options}) == 4, question
        assert len({option[0].isupper() for option in question.options if option != "I"}) == 1, question


def test_a_question_names_none_of_its_options_or_all_of_them(facts):
    for question in facts.questions:
        words = re.sub(r"\W+", " ", question.text).split()
        named = [option for option in question.options if {option, option.lower()} & set(words)]
        assert len(named) in (0, 4), (question.text, named)


def test_the_right_option_stands_equally_often_at_each_place(facts):
    for subject in {question.topic for question in facts.questions}:
        places = Counter(int(r) for q, r in zip(facts.questions, facts.right, strict=True) if q.topic == subject)
        assert set(places) == {0, 1, 2, 3} and max(places.values()) - min(places.values()) <= 1


def test_arithmetic_is_right(facts):
    asked = [(q, r) for q, r in zip(facts.questions, facts.right, strict=True) if q.topic == "arithmetic"]
    assert len(asked) == 40
    for question, right in asked:
        values = [NUMBERS[option] for option in question.options]
        assert [place for place, value in enumerate(values) if value == computed(question.text)] == [right], question


def test_a_part_is_spread_evenly(facts):
    part = load_facts(8)
    assert [facts.questions.index(question) for question in part.questions] == [30 * i for i in range(8)]
    assert part.right.tolist() == facts.right[[30 * i for i in range(8)]].tolist()
    assert len(load_facts(10_000).questions) == len(facts.questions)


def test_the_passages_are_different_plain_texts():
    passages = load_passages()
    assert len(passages) == len(set(passages)) == 24 and load_passages(5) == passages[:5]
    for passage in passages:
        assert 40 <= len(passage.split()) <= 60 and passage.isascii() and "\n" not in passage


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("s,Is it?,p,q,r,t,E\n", "row 2, column 'right': 'E' is not one of A, B, C, D"),
        ("s,Is it?,p,q,r,t,A\ns,Is it?,p,q,r,t,B\n", "row 3: the question of row 2 once more"),
        ("s,Is it?,p,p,r,t,A\n", "the same option twice"),
        ("s,Is it?,p,q,,t,A\n", "an option is empty"),
        ("s,Is it?,p,q,r,A\n", "row 2: 6 fields where the header has 7"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, rows, message):
    path = tmp_path / "facts.csv"
    path.write_text(HEADER + rows)
    with pytest.raises(ValueError, match=message):
        load_facts(path=path)


def made_facts(tiny, *options):
    questions = tuple(tiny.question(f"q{i}", some, f"Which is number {i}?") for i, some in enumerate(options))
    return Facts(questions, np.arange(len(questions)) % 4)


def test_options_are_scored_by_the_first_token_of_their_text(tiny, lm):
    facts = made_facts(tiny, ("A x", "B", "C", "D"), ("H", "G", "E y", "F"))
    known, prompts = fact_prompts(lm.tokenizer, facts)
    assert known.questions == facts.questions
    answers = AnswerPath(lm, known.questions, hook_layer=2, orders=1, prompts=prompts)
    for index, options in enumerate(("ABCD", "HGEF")):
        text = f"Question: Which is number {index}?\nAnswer:"
        tokens = lm.tokenizer(text)["input_ids"]  # with BOS
        assert lm.tokenizer.decode(prompts[index].tokens) == "<s>" + text and list(prompts[index].tokens) == tokens
        first = [lm.tokenizer(f" {letter}", add_special_tokens=False)["input_ids"][0] for letter in options]
        hidden = lm.residual(lm.tokenizer(text, return_tensors="pt")["input_ids"], len(lm.layers) - 1)
        expected = lm.logits(hidden)[0, -1, first].log_softmax(-1)
        np.testing.assert_allclose(answers.predict()[0, index], expected, atol=1e-5)


def test_questions_whose_options_start_alike_are_left_out(tiny, lm):
    facts = made_facts(tiny, ("A x", "A y", "C", "D"), ("H", "G", "E", "F"))
    known, prompts = fact_prompts(lm.tokenizer, facts)
    assert known.questions == facts.questions[1:] and known.right.tolist() == [1]
    assert [prompt.question for prompt in prompts] == [0]
    with pytest.raises(ValueError, match="none of the 1 factual questions has options with different first tokens"):
        fact_prompts(lm.tokenizer, Facts(facts.questions[:1], facts.right[:1]))
