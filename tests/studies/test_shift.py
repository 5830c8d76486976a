"""The probe and its treatments, on features of which one is the topic and one the direction."""

import numpy as np
import pytest
import torch

from opinion_sae.effects.firing import Corpus
from opinion_sae.studies.shift import (
    Cards,
    accuracies,
    card_order,
    draw,
    logistic,
    read_cards,
    table,
    topic_scores,
    treated,
)


def test_the_probe_is_where_the_gradient_vanishes():
    """Two questions at +1 and -1: w solves p(-1 | w) = ridge w with the mean of two kinds, b = 0."""
    w, b = logistic(np.array([[1.0], [-1.0]]), np.array([True, False]), ridge=0.1)
    assert w[0] == pytest.approx(10 / (1 + np.exp(w[0])), rel=1e-6) and b == pytest.approx(0, abs=1e-6)


def test_each_kind_counts_half():
    x, y = np.array([[1.0], [-1.0], [-1.0], [-1.0]]), np.array([True, False, False, False])
    np.testing.assert_allclose(logistic(x, y)[0], logistic(x[:2], y[:2])[0])


def test_a_probe_of_one_kind_says_that_kind_and_of_none_is_refused():
    w, b = logistic(np.ones((3, 2)), np.array([True] * 3))
    assert not w.any() and b > 0
    with pytest.raises(ValueError, match="needs questions"):
        logistic(np.ones((0, 2)), np.array([], dtype=bool))


def test_scores_of_topics_by_hand():
    x = np.array([[1.0, 2.0, 5.0], [3.0, 2.0, 5.0], [0.0, 2.0, 7.0], [0.0, 4.0, 7.0]])
    found = topic_scores(x, np.array([True, True, False, False]))
    np.testing.assert_allclose(found, [2 / 1, 1 / 1, 0])  # the last does not vary within a theme


def test_the_worst_cell_is_the_least_and_empty_ones_are_left_out():
    y, theme = np.array([True, True, False]), np.array([True, False, False])
    np.testing.assert_allclose(accuracies(np.array([True, False, False]), y, theme), [2 / 3, 0])


@pytest.fixture
def questions():
    """200 questions of eight topics; feature 0 is the direction, faintly, feature 1 + t the topic t, loudly."""
    rng = np.random.default_rng(0)
    topics, y = np.repeat(np.arange(8), 25), rng.random(200) < 0.5
    x = rng.normal(0, 0.05, (200, 40))
    x[:, 0] += np.where(y, 0.3, -0.3)
    x[np.arange(200), 1 + topics] += 1
    return x, y, topics.astype(str)


def test_a_draw_confounds_theme_and_direction_and_keeps_the_test_apart(questions):
    _, y, topics = questions
    one = draw(topics, y, 3)
    assert (y[one.confounded] == one.theme[one.confounded]).all()
    assert not set(one.test) & set(one.known) and set(one.confounded) <= set(one.known)
    cells = list(zip(y[one.balanced], one.theme[one.balanced], strict=True))
    assert len({cells.count(cell) for cell in set(cells)}) == 1 and len(set(cells)) == 4
    again = draw(topics, y, 3)
    assert all((part == other).all() for part, other in zip(one, again, strict=True))


def test_taking_the_topic_out_saves_the_worst_cell(questions, monkeypatch):
    x, y, topics = questions
    monkeypatch.setattr("opinion_sae.studies.shift.TAKEN", (8,))
    found = [treated(x, y, draw(topics, y, seed), seed) for seed in range(5)]
    worst = {key: np.mean([one[key][1] for one in found]) for key in found[0]}
    assert worst["retrained", 8] > 0.9 and worst["balanced", 0] > 0.9
    assert worst["confounded", 0] < 0.7 and worst["random", 8] < worst["retrained", 8] - 0.1


TEXTS = ["tax roads tax", "roads bread", "bread police", "police bread"]
FIRES = [[0, 2], [4, 5, 7], [], [3]]  # of each latent: words, counted over all texts; the later, the more strongly


@pytest.fixture
def corpus(lm):
    """Four texts, a token a word, and four latents, of which one is silent."""
    words = [word for text in TEXTS for word in text.split()]
    text = torch.tensor([number for number, text in enumerate(TEXTS) for _ in text.split()])
    where, place = torch.tensor([word for own in FIRES for word in own]), torch.arange(len(words))
    starts = torch.tensor([0, *np.cumsum([len(own) for own in FIRES])])
    of_survey = torch.ones(len(TEXTS), dtype=torch.bool)
    return Corpus(lm.tokenizer, place, text, place, tuple(words), of_survey, where, where + 1.0, starts)


def test_cards_by_hand(corpus):
    """The label has the words that go with the firing, then come those on which it fires most strongly, a text once."""
    bread, tax, roads, police, none = range(5)  # the vocabulary: three times, then twice each as they come
    cards = read_cards(corpus)
    assert cards.words.tolist() == [
        [tax, tax, *[none] * 4],  # both in one text
        [bread, police, police, bread, bread, none],  # 'bread' twice of three times, 'police' once of twice
        [none] * 6,
        [roads, roads, *[none] * 4],
    ]
    holds = [[tax, roads], [roads, bread], [bread, police], [police, bread]]
    assert [set(np.flatnonzero(row).tolist()) for row in cards.holds] == [set(words) for words in holds]


def test_latents_whose_cards_name_the_topic_come_first():
    """Of four texts the first two are of one theme. 'a' is in both and in no other, 'b' in one, 'c' in all."""
    holds = np.array([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 0, 1], [0, 1, 0]], dtype=bool)
    theme, known = np.array([True, True, False, False, False]), np.arange(4)  # the last text is not known
    cards = Cards(np.array([[2, 3], [1, 2], [3, 3], [2, 0], [1, 1]]), holds)
    # 'a' |5/6 - 1/6| / sqrt(10/36) = 1.26; 'b' |1/2 - 1/6| / sqrt(1/4 + 5/36) = 0.53; 'c' 0; the number 3 is no word
    assert card_order(cards, known, theme).tolist() == [3, 1, 4, 0, 2]


def test_cards_are_cut_by_what_they_say_alone(questions, monkeypatch):
    """Each topic has a word. Latent 1 + t has it on its card, the others nothing: the topics' latents are cut, as by
    score; with cards that name the wrong latents the worst cell is not saved."""
    x, y, topics = questions
    monkeypatch.setattr("opinion_sae.studies.shift.TAKEN", (8,))
    holds = topics[:, None] == np.arange(8).astype(str)
    words = np.full((40, 2), 8)
    words[1:9, 1] = np.arange(8)
    wrong = np.full((40, 2), 8)
    wrong[20:28, 0] = np.arange(8)
    one = draw(topics, y, 1)
    right, other = (treated(x, y, one, 1, Cards(some, holds)) for some in (words, wrong))
    np.testing.assert_allclose(right["retrained-cards", 8], right["retrained", 8])
    np.testing.assert_allclose(right["zeroed-cards", 8], right["zeroed", 8])
    assert other["retrained-cards", 8][1] < right["retrained-cards", 8][1] - 0.1
    assert {name for name, _ in treated(x, y, one, 1)} == {"confounded", "zeroed", "retrained", "random", "balanced"}


def test_questions_of_one_topic_are_refused():
    with pytest.raises(ValueError, match="1 topic; two are needed"):
        draw(np.array(["a", "a", "a"]), np.array([True, False, True]), 0)
    with pytest.raises(ValueError, match="of 2 to fit to none is of one theme and one direction"):
        draw(np.array(["a", "b", "a"]), np.array([True, False, True]), 0)


def test_gains_are_paired_by_draw():
    parts = {
        "general": {
            "confounded-0": np.array([[0.5, 0.2], [0.6, 0.4]]),
            "retrained-64": np.array([[0.6, 0.3], [0.7, 0.5]]),
            "questions": np.array([9, 4]),
        }
    }
    rows = table(parts).set_index("treatment")
    assert rows.loc["retrained", "worst"] == pytest.approx(0.4) and rows.loc["retrained", "gain"] == pytest.approx(0.1)
    assert rows.loc["retrained", "gain_low"] == pytest.approx(0.1)  # the same in every draw
    assert rows.loc["confounded", "draws"] == 2 and rows.loc["confounded", "questions"] == 9
