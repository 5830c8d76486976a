"""Text cut into windows, and the residual stream over it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opinion_sae.model.activations import SINK_NORM, activations, content, text_windows

TEXTS = ["Question: yes? " * 9, "Answer: A B C", "x", "The weather is often cold, they say."]


def rows(lm, texts, **more):
    """All windows as lists of tokens, without padding."""
    windows = text_windows(lm, texts, **more)
    return [t[keep].tolist() for batch in windows for t, keep in zip(*batch, strict=True)]


def test_windows_hold_every_token_once_in_order(lm):
    ids = lm.tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"]
    found = rows(lm, TEXTS[:1], length=10)
    assert all(len(row) <= 10 and row[0] == 0 for row in found)
    body = [token for row in found for token in row[1:]]
    assert body == ids[: len(body)] and len(ids) - len(body) < 3  # a last piece of under four is left out


@settings(max_examples=30)
@given(st.lists(st.text("ab :", min_size=1, max_size=60), min_size=1, max_size=6), st.integers(5, 12))
def test_batches_are_padded_right_within_the_budget(lm, texts, length):
    texts = [*texts, "a long enough text"]
    windows = text_windows(lm, texts, length, tokens_per_batch=30)
    for tokens, real in windows:
        assert tokens.shape == real.shape and tokens.shape[1] <= length
        assert tokens.numel() <= max(30, length)
        kept = real.sum(1)
        assert (kept >= 4).all() and torch.equal(real, torch.arange(tokens.shape[1]) < kept[:, None])
    lengths = [int(count) for _, real in windows for count in real.sum(1)]
    assert lengths == sorted(lengths, reverse=True)


def test_bos_comes_once_even_where_the_text_brings_its_own(lm, tiny):
    plain, own = rows(lm, ["Answer: A B C"]), rows(lm, ["<s>Answer: A B C"])
    assert plain == own and plain[0].count(0) == 1
    without = tiny.lm()
    without.tokenizer.bos_token = None
    assert rows(without, ["Answer: A B C"])[0] == plain[0][1:]


def test_texts_without_four_tokens_are_refused(lm):
    assert len(rows(lm, ["x", *TEXTS])) == len(rows(lm, TEXTS))
    with pytest.raises(ValueError, match="no text of four tokens or more among the 2 texts"):
        text_windows(lm, ["x", "y"])


def test_content_leaves_out_padding_and_sinks():
    residual = torch.ones(2, 8, 9)
    residual[0, 0] *= 1.01 * SINK_NORM
    residual[1, 0] *= 0.99 * SINK_NORM
    real = torch.tensor([[True] * 4 + [False] * 4, [True] * 3 + [False] * 5])
    residual[~real] *= 1000  # more than half, but padding has no say in the median
    expected = [[False] + [True] * 3 + [False] * 4, [True] * 3 + [False] * 5]
    assert content(residual, real).tolist() == expected


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt-neox"])
def test_activations_equal_the_hidden_states_of_transformers_text_by_text(family, tiny):
    lm = tiny.lm(family)
    for layer in (0, 3):
        expected = []
        for ids in rows(lm, TEXTS, length=12):
            states = lm.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
            expected.append(states[layer + 1][0])
        expected = torch.cat(expected)
        found = activations(lm, TEXTS, layer, length=12)
        assert found.dtype == torch.float32
        norm = expected.norm(dim=1)
        assert (norm < SINK_NORM * norm.median()).all()  # no sinks in a random model
        rounding = 1e-5 * expected.abs().max().item()  # either is this far from float64 after four layers
        torch.testing.assert_close(found, expected, atol=rounding, rtol=1e-4)


@torch.no_grad()
def test_a_sink_is_dropped(tiny):
    lm = tiny.lm()
    plain = activations(lm, TEXTS, 0)
    windows = len(rows(lm, TEXTS, length=128))
    lm.model.get_input_embeddings().weight[0] = 1000.0  # now every BOS is one
    assert len(activations(lm, TEXTS, 0)) == len(plain) - windows


def test_the_layers_above_do_not_run(lm):
    def refuse(*args):
        raise AssertionError("ran")

    handle = lm.layers[2].register_forward_pre_hook(refuse)
    activations(lm, TEXTS, 1)
    handle.remove()


def test_a_layer_that_is_not_there_is_refused(lm):
    with pytest.raises(ValueError, match="hook_layer 9: .* 0..3"):
        activations(lm, TEXTS, 9)


def test_the_last_token_of_a_window_comes_as_often_as_asked(lm):
    once, thrice = activations(lm, TEXTS[3:], 1), activations(lm, TEXTS[3:], 1, ends=3)
    assert torch.equal(thrice, torch.cat([once, once[-1:], once[-1:]]))
