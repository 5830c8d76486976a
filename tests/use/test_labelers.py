"""Labels that a model writes and judges: from which texts, on which texts, and what its answers count for."""

import math

import pytest

from opinion_sae.effects.labels import Statistics, scored, words_of
from opinion_sae.use.labelers import ByWriter, Local

TEXTS = 40


class Writer:
    """Answers with `label`, and yes where `yes` says so."""

    def __init__(self, label="roads", yes=lambda text: "road" in text):
        self.answer, self.yes, self.prompts, self.judged = label, yes, [], []

    def write(self, prompt, tokens):
        self.prompts.append(prompt)
        return self.answer

    def judge(self, question, texts):
        self.judged += texts
        return [self.yes(text) for text in texts]


@pytest.fixture(scope="module")
def corpus(tiny):
    """Texts of twelve words, of which every second has a road, on which latent 0 fires, most strongly in text 4."""
    texts = [[f"n{n}", *["good"] * 5, "tree" if n % 2 else "road", *["day"] * 5] for n in range(TEXTS)]
    return tiny.corpus(texts, [{12 * n + 6: 5.0 if n == 4 else 1.0 for n in range(0, TEXTS, 2)}, {}])


@pytest.fixture(scope="module")
def parts(corpus):
    return words_of(corpus, 0)


def test_words_are_said_as_they_stand(corpus):
    assert corpus.say(range(12)) == "n0 good good good good good road day day day day day"
    assert corpus.say(range(5, 8), {6}) == "good <<road>> day"


def test_it_is_written_from_one_half_and_judged_on_the_other(corpus, parts):
    writer = Writer(" 'roads'.\nAnd more: \x1b[0m")
    found = scored(corpus, parts, ByWriter(corpus, parts, writer), 0, 5)
    assert found.text == "roads" and found[1:] == (1.0, pytest.approx(0.5), 10, 10)
    judged = {f"n{n}" for n in range(TEXTS) if parts.judged[12 * n]}
    assert {text.split()[0] for text in writer.judged} <= judged
    shown = {line.split()[1] for line in writer.prompts[0].splitlines() if line[:1].isdigit()}
    assert shown and not shown & judged and writer.prompts[0].count("good <<road>> day") == len(shown) <= 10
    if not parts.judged[4 * 12]:
        assert "1. n4 " in writer.prompts[0]


def test_fuzzing_asks_of_the_word_that_is_marked(corpus, parts):
    found = scored(corpus, parts, ByWriter(corpus, parts, Writer(yes=lambda text: "<<road>>" in text)), 0, 5)
    assert found.fuzzing == 1.0 and found.detection == 0.5  # without a mark in detection


def test_all_labelers_are_judged_on_the_same_cases(corpus, parts):
    first, second = Writer(), Writer("trees")
    for writer in (first, second):
        scored(corpus, parts, ByWriter(corpus, parts, writer), 0, 5)
    assert first.judged == second.judged
    for weighted in (False, True):
        found = scored(corpus, parts, Statistics(corpus, parts, weighted=weighted), 0, 5)
        assert "road" in found.text.split(", ") and (found.contexts, found.marks) == (10, 10)


def test_what_is_not_answered_is_left_out(corpus, parts):
    found = scored(corpus, parts, ByWriter(corpus, parts, Writer(yes=lambda text: None)), 0, 5)
    assert math.isnan(found.detection) and found.contexts == 0
    half = scored(
        corpus, parts, ByWriter(corpus, parts, Writer(yes=lambda text: True if "road" in text else None)), 0, 5
    )
    assert math.isnan(half.detection) and half.contexts == 5


def test_a_latent_that_never_fires_and_an_empty_label_have_no_scores(corpus, parts):
    for writer, latent in ((Writer(), 1), (Writer(" \n"), 0)):
        found = scored(corpus, parts, ByWriter(corpus, parts, writer), latent, 5)
        assert found.text == "" and math.isnan(found.detection) and not writer.judged


def test_weighted_words_are_those_of_the_strongest_firings(tiny):
    words = ["road", "tree", "good", "day"] * 30
    fires = {n: 9.0 if word == "tree" else 1.0 for n, word in enumerate(words) if word in ("road", "tree")}
    corpus = tiny.corpus([words[n : n + 4] for n in range(0, 120, 4)], [fires])
    parts = words_of(corpus, 0)
    assert Statistics(corpus, parts, weighted=True).label(0) == "tree"  # the correlation of roads is below 0
    assert set(Statistics(corpus, parts).label(0).split(", ")) == {"road", "tree"}


@pytest.mark.parametrize("chat", [False, True])
def test_a_model_that_is_here_says_yes_where_yes_is_likelier(tiny, chat):
    lm = tiny.lm(chat=chat)
    local, texts = Local(lm), ["a", "road", "a longer text than the others", "b"]
    said = local.judge("Is it so?", texts)
    ids = [
        lm.tokenizer(("" if chat else " ") + word, add_special_tokens=False)["input_ids"][0] for word in ("Yes", "No")
    ]
    for text, answer in zip(texts, said, strict=True):
        asked = f"Is it so?\n\nText: {text}\n\nAnswer with Yes or No."
        prompt = f"<s>user\n{asked}</s>\n<s>assistant\n" if chat else f"<s>Question: {asked}\nAnswer:"
        tokens = lm.tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
        yes, no = lm.model(tokens).logits[0, -1, ids].tolist()
        assert answer == (yes > no)
    assert isinstance(local.write("What?", 3), str) and local.judge("Is it so?", []) == []
