"""Where latents fire, the words of their labels, and what taking one out does: small cases worked by hand."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from opinion_sae.delta.held_out import Split
from opinion_sae.delta.reading import ReadingDelta
from opinion_sae.effects.firing import Context, Corpus, plain_texts, read_corpus
from opinion_sae.effects.labels import balanced_accuracy, labels, of_equal_rate
from opinion_sae.effects.latent_table import Used, describe, found_again
from opinion_sae.effects.removal import Change, Removal, changes, path_table
from opinion_sae.model.answers import AnswerPath
from opinion_sae.score.gap_replicates import PooledGaps, people, question_weights, replicates_of, seed_weights

TEXTS = ["it's old strugglings of the land", "the land's cold <b> & no rain, they say of land"]


@pytest.fixture(scope="module")
def answers(lm, tiny):
    return AnswerPath(lm, tiny.questions, 2)


@pytest.fixture(scope="module")
def corpus(answers, tiny):
    return read_corpus(answers, tiny.sae(), TEXTS)


def hand(tiny, words, firings, texts):
    """A corpus of one-token words in texts of some length; `firings` are (latent, token, value)."""
    latent, where, values = (torch.tensor(part) for part in zip(*sorted(firings), strict=True))
    starts = torch.searchsorted(latent, torch.arange(4))
    text = torch.arange(len(texts)).repeat_interleave(torch.tensor(texts))
    place, of_survey = torch.arange(len(words)), torch.zeros(len(texts), dtype=torch.bool)
    return Corpus(tiny.tokenizer(), place, text, place, tuple(words), of_survey, where, values.float(), starts)


def test_tokens_are_pieced_together_to_words(corpus):
    plain = "".join(f"{word} " for word in corpus.words[int(corpus.word[~corpus.of_survey[corpus.text]][0]) :])
    assert plain == (  # the longest first
        "the land's cold < b > & no rain , they say of land it's old strugglings of the land "
    )
    assert len(corpus.ids) > len(corpus.words)  # the tokenizer's tokens are mostly letters


def test_firings_are_those_of_the_sae_and_rates_their_share(corpus, answers, tiny):
    first = answers.prompts[0]
    part = slice(int(answers.kept.starts[0]), int(answers.kept.starts[0]) + first.asked[1] - first.asked[0])
    z = tiny.sae().encode(answers.kept.stream[part].float())
    assert corpus.ids[: len(z)].tolist() == list(first.tokens[slice(*first.asked)])
    for latent in range(24):
        where, values = corpus.of(latent)
        here = where < len(z)
        assert torch.equal(where[here], z[:, latent].nonzero()[:, 0])
        torch.testing.assert_close(values[here], z[z[:, latent] > 0, latent])
    of_survey = corpus.of_survey[corpus.text]
    both = corpus.rates(True) * of_survey.sum() + corpus.rates(False) * (~of_survey).sum()
    torch.testing.assert_close(both / len(corpus.ids), corpus.rates())


def test_contexts_show_the_whole_word_and_each_text_once(corpus):
    latent = int(corpus.rates(False).argmax())
    top, middle = corpus.contexts(latent, survey=False)
    assert 1 <= len(top) <= 2 and len(top) + len(middle) <= 2  # there are two texts
    assert top[0].value == max(c.value for c in (*top, *middle))
    for context in top:
        assert any(context.before + context.word + context.after in text for text in TEXTS)
        assert context.word in corpus.words and isinstance(context, Context)


def test_a_stretch_that_several_texts_have_is_shown_once(tiny):
    made = hand(tiny, ["a"] * 9, [(0, 1, 3.0), (0, 4, 2.5), (0, 7, 2.0)], [3, 3, 3])
    made = dataclasses.replace(made, ids=torch.tensor([65, 66, 67, 65, 66, 67, 68, 66, 69]))
    top, middle = made.contexts(0, survey=False)
    assert [one.value for one in top] == [3.0, 2.0] and top[0][:3] != top[1][:3] and not middle


def test_prompts_are_no_plain_text_and_none_comes_twice():
    texts = {"training": ["asked", "one", "two"], "prompts": ["asked"], "held_out": ["three", "one"]}
    assert plain_texts(texts) == ["three", "one", "two"]


def test_a_label_is_scored_where_it_was_not_chosen(tiny):
    """Latent 0 fires on 'road' wherever it stands, latent 1 on every second text's first word, latent 2 nowhere."""
    words = [word for n in range(40) for word in (("road", "good", "day") if n % 3 else ("tree", "good", "day"))]
    firings = [(0, i, 1.0) for i, word in enumerate(words) if word == "road"] + [(1, 6 * n, 1.0) for n in range(20)]
    road, first, none = labels(hand(tiny, words, firings, [3] * 40), [0, 1, 2])
    assert road[:3] == ("road", 1.0, 1.0)
    assert 0.2 < first.detection < 0.8
    assert none.text == "" and math.isnan(none.detection)


def test_balanced_accuracy_by_hand():
    true = torch.tensor([True, True, False, False, False, False])
    assert balanced_accuracy(torch.tensor([True, False, False, False, False, True]), true) == pytest.approx(0.625)
    assert math.isnan(balanced_accuracy(true, torch.ones(6, dtype=torch.bool)))


def test_a_latent_of_equal_rate_is_another_one():
    rates = torch.tensor([0.1, 0.1, 0.5, 0.11, 0.5, 0.3])
    assert of_equal_rate(rates, [0, 2]) != [0, 2] and not {0, 2} & set(of_equal_rate(rates, [0, 2]))
    assert all(a != b for a, b in zip(range(6), of_equal_rate(rates, range(6)), strict=True))


def offset(tiny, groups=("Female", "Male"), seed=0, small=1.0):
    """Reads six latents and writes ten."""
    made = ReadingDelta(groups, tiny.sae(), axes=2, directions=2)
    generator = torch.Generator().manual_seed(seed)
    made.a.data[..., :6] = torch.randn(2, 2, 6, generator=generator)
    made.b.data[..., 4:14] = small * torch.randn(1, 2, 10, generator=generator).expand(2, -1, -1)
    made.c.data.copy_(torch.tensor([[0.6, -0.1], [-0.5, 0.4]]))
    made.deviation.data[:, 4:14] = small * torch.randn(2, 10, generator=generator)
    made.shared.data.copy_(0.1 * torch.rand(24, generator=generator))
    return made


@pytest.fixture(scope="module")
def case(answers, tiny):
    """Three splits of a question each, and what their offsets, which add little, say of it."""
    splits = [Split(str(q), *(np.array(part, dtype=int) for part in ([0, 1, 2], [], [q]))) for q in range(3)]
    offsets = [offset(tiny, seed=seed, small=1e-3) for seed in range(3)]
    log_probs = torch.cat([answers.predict(one, torch.tensor([q])) for q, one in enumerate(offsets)], 1).numpy()
    return splits, offsets, log_probs, Removal(answers, splits, offsets)


def without(one, name, latent):
    cut = one.copy()
    for part in ("a",) if name == "read" else ("b", "deviation"):
        getattr(cut, part).data[..., latent] = 0
    return cut


@pytest.mark.parametrize("role, latents", [("read", range(6)), ("written", range(4, 14))])
def test_a_removal_is_exact_to_first_order(case, answers, role, latents):
    _, offsets, log_probs, removal = case
    moved = []
    for latent in latents:
        cut = [without(one, role, latent) for one in offsets]
        exact = torch.cat([answers.predict(one, torch.tensor([q])) for q, one in enumerate(cut)], 1).numpy()
        there = np.isfinite(log_probs)
        change = getattr(removal, role)(latent, log_probs)[there] - log_probs[there]
        moved += list(zip(change, exact[there] - log_probs[there], strict=True))
    found, expected = np.array(moved).T
    assert np.abs(expected).max() > 1e-5
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_few_latents_kept_are_none_to_all(case, answers):
    _, offsets, log_probs, removal = case
    there = np.isfinite(log_probs)
    np.testing.assert_allclose(removal.few(24, log_probs)[there], log_probs[there], atol=1e-6)
    cut = [without(one, "read", slice(None)) for one in offsets]
    exact = torch.cat([answers.predict(one, torch.tensor([q])) for q, one in enumerate(cut)], 1).numpy()
    np.testing.assert_allclose(removal.few(0, log_probs)[there], exact[there], atol=1e-5)


def test_pooled_gaps_are_those_of_the_measures(six_questions):
    rng = np.random.default_rng(0)
    said = np.log(np.maximum(six_questions.shares, 0.05) + 0.1 * rng.random(six_questions.shares.shape))
    log_probs = said - np.logaddexp.reduce(np.nan_to_num(said), axis=-1, keepdims=True)
    there = six_questions.everyone > 0
    log_probs = np.where(there, np.nan_to_num(log_probs, nan=-1.0), -np.inf)
    log_probs -= np.logaddexp.reduce(log_probs, axis=-1, keepdims=True)
    weights = question_weights(np.arange(6), 20, 0)
    whole = replicates_of(six_questions, people(six_questions), [log_probs], "toplines", weights, np.ones((21, 1)))
    r, kl = PooledGaps(six_questions, weights)(log_probs)
    np.testing.assert_allclose(r, whole.gap_r[:, 0])
    np.testing.assert_allclose(kl, whole.kl[:, 0])
    assert seed_weights(1, 20, 0).tolist() == [[1.0]] * 21
    few = np.where(np.arange(6)[:, None] < 2, log_probs, np.nan)  # questions 0 and 1 alone
    r, kl = PooledGaps(six_questions, np.array([[1.0, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 3]]))(few)
    assert np.isfinite([r[0], kl[0]]).all() and np.isnan([r[1], kl[1]]).all()


def test_the_table_has_a_row_per_latent_and_role(case, answers, corpus, two_groups, tiny):
    _, offsets, log_probs, removal = case
    used = Used(offset(tiny, seed=5), offsets)
    assert used.keys() == [("read", j) for j in range(6)] + [("write", j) for j in range(4, 14)]
    changed = changes(two_groups, removal, log_probs, used.in_some_fold(), np.ones((3, 3)))
    assert set(changed) == set(used.keys()) and all(isinstance(one, Change) for one in changed["read", 0])
    table, cards = describe(answers, used, corpus, changed, found_again(tiny.sae().W_dec, [tiny.sae().W_dec] * 2))
    expected = "latent role axis weight groups firing_rate top_tokens label label_score random_score".split()
    assert list(table)[:10] == expected and {"gap_r_if_removed", "kl_if_removed", "seeds"} <= set(table)
    assert {card["others"] for card in cards} == {2}
    assert describe(answers, used, corpus, changed)[0]["seeds"].isna().all()
    assert len(table) == 16 and (table["seeds"] == 2).all() and (table["folds"] == 3).all()
    assert table.loc[table["role"] == "write", "axis"].isna().all()
    for _, part in table.groupby(["role", "axis"], dropna=False):
        assert part["weight"].abs().is_monotonic_decreasing
    assert [(card["role"], card["latent"]) for card in cards] == list(zip(table["role"], table["latent"], strict=True))
    closely = changes(two_groups, removal, log_probs, [("write", 4), ("write", 5)], np.ones((3, 3)), [("write", 5)])
    assert np.isnan(closely["write", 4][0].low) and closely["write", 5] == (
        *[Change(*3 * [c.value]) for c in closely["write", 5]],
    )
    fewer = offset(tiny, seed=5)
    fewer.a.data[..., 0], fewer.b.data[..., 4], fewer.deviation.data[..., 4] = 0, 0, 0
    alone = Used(fewer, offsets[:1]).closely()
    assert ("read", 0) not in alone and ("write", 4) not in alone  # one fold's alone
    assert set(alone) == set(used.keys()) - {("read", 0), ("write", 4)}
    tables = {"few": log_probs, "all": log_probs, "refitted-4": log_probs}
    path = path_table(two_groups, removal, tables, np.ones((3, 3)))
    assert path["latents"].tolist() == ["0", "1", "4", "4", "6", "all"]
    assert path["fit"].tolist() == ["cut"] * 3 + ["refitted", *["as fitted"] * 2]
    assert path["kl"].iloc[-3:].nunique() == 1


def test_rows_of_another_sae_count_from_the_cosine_on():
    own = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert not len(found_again(own, []))
    found = found_again(own, [torch.tensor([[2.0, 0.1]]), torch.tensor([[1.0, 1.0]])], 0.8)
    assert found["of"].tolist() == [2, 2] and found["cosine"].tolist() == pytest.approx([0.99875, 0.70711], abs=1e-4)
    assert found_again(own, [torch.tensor([[2.0, 0.1]]), torch.tensor([[1.0, 1.0]])], 0.8)["seeds"].tolist() == [1, 0]
