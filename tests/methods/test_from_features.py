"""The table of read-only methods."""

import numpy as np

from opinion_sae.delta.held_out import Split
from opinion_sae.methods.features import bag_weights
from opinion_sae.methods.from_features import (
    all_candidates,
    bag,
    both,
    dense,
    model_candidates,
    read_only,
    shuffled,
    together,
    word_candidates,
)
from opinion_sae.methods.question_tokens import question_tokens

COUNTS = np.array([[1, 2, 0, 0], [1, 0, 0, 3], [0, 0, 1, 1], [0, 4, 0, 0]], float)
TRAIN = np.array([0, 1, 2])


def test_together_is_the_mean_of_the_kernels():
    vectors = np.random.default_rng(0).normal(size=(4, 3))
    parts = [part(TRAIN) for part in (bag(COUNTS), dense(vectors))]
    found = together(bag(COUNTS), dense(vectors))(TRAIN)
    kernels = [x @ x.T / np.square(x[TRAIN]).sum(1).mean() for x in parts]
    np.testing.assert_allclose(found @ found.T / 2, sum(kernels) / 2)
    np.testing.assert_allclose(parts[1][TRAIN].mean(0), 0, atol=1e-12)


def test_shuffled_gives_each_question_anothers_features():
    order = np.random.default_rng(5).permutation(4)
    found = shuffled(bag(COUNTS), 4, 5)(TRAIN)
    np.testing.assert_array_equal(found, bag_weights(COUNTS[order], TRAIN))


def test_words_with_and_without_options(tiny, two_groups):
    found = {name: features(np.arange(3)).shape for name, features in word_candidates(two_groups).items()}
    assert [shape[0] for shape in found.values()] == [3] * 4
    assert found["words of question"][1] < found["words of question and options"][1]
    assert found["words of question"][1] < found["words and pairs of question"][1]


def test_every_method_answers_and_says_what_it_chose(tiny, six_questions):
    lm = tiny.lm()
    tokens = question_tokens(lm, six_questions.questions, 2)
    split = Split("made up", np.arange(3), np.array([3]), np.array([4, 5]))
    methods = model_candidates(tokens, tiny.sae(), seed=0) | {"words": word_candidates(six_questions)}
    methods["words+direct"] = both(methods["words"], methods["direct"])
    tables, chosen = read_only(six_questions, [split], methods)
    assert (
        np.isfinite(chosen["validation_kl"]).all()
        and set(tables) == set(methods)
        and list(chosen["method"]) == list(methods)
    )
    for table in tables.values():
        assert np.isnan(table[:, :4]).all()
        np.testing.assert_allclose(np.exp(table[:, 4:]).sum(-1), 1, rtol=1e-5)
    assert chosen.loc[chosen["method"] == "words+direct", "features"].str.contains(r" \+ ").all()


def test_latents_stand_beside_a_sentence_embedding_as_beside_words(tiny, six_questions):
    tokens = question_tokens(tiny.lm(), six_questions.questions, 2)
    methods = all_candidates(six_questions, tokens, tiny.sae(), seed=0)
    found, train = methods["embedding+direct"], np.arange(4)
    assert list(found) == [f"sentence + {unit} of question and options" for unit in ("tokens", "values")]
    parts = (methods["embedding"]["sentence"], methods["direct"]["tokens of question and options"])
    expected = together(*parts)(train)
    np.testing.assert_allclose(found["sentence + tokens of question and options"](train), expected)
    assert len(methods["words+direct"]) == 4
