"""Bags of words and latents: by hand on a few questions."""

import numpy as np
import pytest
import torch

from opinion_sae.methods.features import bag_weights, latent_counts, word_counts

# three questions; "tax" is in two of them, "war" twice in the first, "art" in the last alone
COUNTS = np.array([[1, 2, 0], [1, 0, 0], [0, 0, 1]], float)


def test_bag_weights_by_hand():
    found = bag_weights(COUNTS, np.arange(3))
    tax, war = np.log(2) * np.log(3 / 2), np.log(3) * np.log(3)
    np.testing.assert_allclose(found[0], np.array([tax, war, 0]) / np.hypot(tax, war))
    np.testing.assert_allclose(found[1:], [[1, 0, 0], [0, 0, 1]])


def test_document_frequencies_are_those_of_training_questions_only():
    found = bag_weights(COUNTS, np.array([0, 1]))
    np.testing.assert_allclose(found, [[0, 1, 0], [0, 0, 0], [0, 0, 0]])  # both have tax, neither has art
    changed = COUNTS.copy()
    changed[2] = [5, 5, 5]
    np.testing.assert_array_equal(bag_weights(changed, np.array([0, 1]))[:2], found[:2])


def test_no_training_question_is_an_error():
    with pytest.raises(ValueError, match="no training question"):
        bag_weights(COUNTS, np.array([], int))


def test_words_and_pairs_of_text_and_options(tiny):
    questions = [tiny.question("a", ("Yes", "No"), "Is it so? Is it?"), tiny.question("b", ("No war", "So"), "Yes")]
    words = word_counts(questions, pairs=False)
    # is, it, no, so, war, yes
    np.testing.assert_array_equal(words, [[2, 2, 1, 1, 0, 1], [0, 0, 1, 1, 1, 1]])
    both = word_counts(questions)
    # is, is it, it, it is, it so, no, no war, so, so is, war, yes: none across the options
    np.testing.assert_array_equal(both.sum(0), [2, 2, 2, 0, 1, 2, 1, 2, 1, 1, 2][:3] + [1, 2, 1, 2, 1, 1, 2])


def test_latents_are_counted_per_token_where_they_fire(tiny):
    sae, generator = tiny.sae(), torch.Generator().manual_seed(1)
    residual = torch.randn(7, 32, generator=generator)
    question = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    read = torch.tensor([True, True, False, True, True, False, False])
    found = latent_counts(sae, residual, question, read, batch=3)
    z = sae.encode(residual).double().numpy()
    fires = (z > 0).astype(float)
    np.testing.assert_array_equal(found, [fires[:2].sum(0), fires[3:5].sum(0), np.zeros(24)])
    strong = latent_counts(sae, residual, question, read, strength=True, batch=3)
    unit = np.concatenate([z[:2], z[3:5]])
    unit = unit[unit > 0].mean()
    np.testing.assert_allclose(strong, np.array([z[:2].sum(0), z[3:5].sum(0), np.zeros(24)]) / unit, rtol=1e-5)
