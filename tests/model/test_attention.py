"""Attention as batched products against a plain loop, and against what transformers computes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opinion_sae.model.attention import PRODUCTS, batched_products
from opinion_sae.model.language_model import wrap

TOKENS = torch.randint(2, 300, (3, 20), generator=torch.Generator().manual_seed(1))


def by_hand(query, key, value, mask, scaling, softcap):
    """Head by head and query by query, in float64."""
    query, key, value, mask = (part.double() for part in (query, key, value, mask))
    out = torch.empty(*query.shape[:3], value.shape[-1], dtype=torch.float64)
    for b in range(query.shape[0]):
        for h in range(query.shape[1]):
            kv = h // (query.shape[1] // key.shape[1])
            for t in range(query.shape[2]):
                scores = scaling * key[b, kv] @ query[b, h, t]
                if softcap is not None:
                    scores = softcap * torch.tanh(scores / softcap)
                out[b, h, t] = (scores + mask[min(b, len(mask) - 1), 0, t]).softmax(-1) @ value[b, kv]
    return out.transpose(1, 2)


@settings(max_examples=30)
@given(
    batch=st.integers(1, 3),
    kv_heads=st.integers(1, 3),
    share=st.integers(1, 3),
    tokens=st.integers(1, 5),
    earlier=st.integers(0, 4),
    softcap=st.sampled_from([None, 1.5]),
    seed=st.integers(0, 1000),
)
def test_it_equals_a_loop_over_heads_and_queries(batch, kv_heads, share, tokens, earlier, softcap, seed):
    draw = torch.Generator().manual_seed(seed)
    keys = earlier + tokens
    query = torch.randn(batch, kv_heads * share, tokens, 4, generator=draw)
    key, value = torch.randn(2, batch, kv_heads, keys, 4, generator=draw)
    hidden = torch.ones(tokens, keys).triu(earlier + 1).bool()
    mask = torch.zeros(1, 1, tokens, keys).masked_fill(hidden, torch.finfo(torch.float32).min)
    found, weights = batched_products(torch.nn.Module(), query, key, value, mask, 0.5, softcap)
    assert weights is None and found.is_contiguous()
    expected = by_hand(query, key, value, mask, 0.5, softcap)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


def test_two_keys_by_hand():
    query, key = torch.tensor([[[[1.0]]]]), torch.tensor([[[[0.0], [math.log(3)]]]])
    value = torch.tensor([[[[4.0], [8.0]]]])  # weights 1/4 and 3/4
    found, _ = batched_products(torch.nn.Module(), query, key, value, torch.zeros(1, 1, 1, 2), 1.0)
    torch.testing.assert_close(found, torch.tensor([[[[7.0]]]]))


def test_in_bfloat16_a_row_that_sees_nothing_stays_finite():
    query, key, value = torch.randn(3, 1, 2, 3, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    mask = torch.full((1, 1, 3, 3), torch.finfo(torch.float32).min)  # the padding of a batch
    found, _ = batched_products(torch.nn.Module(), query, key, value, mask, 0.5)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found[0, 0], value.mean(2)[0], atol=0.01, rtol=0.01)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gemma3", "gpt-neox", "mistral"])
def test_a_wrapped_model_answers_as_transformers_own(family, tiny):
    plain = tiny.model(family).eval()
    expected = plain(TOKENS).logits
    model = tiny.lm(family).model
    assert model.config._attn_implementation == PRODUCTS != plain.config._attn_implementation
    torch.testing.assert_close(model(TOKENS).logits, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_wrapped_model_writes_as_transformers_own(dtype, tiny):
    plain = tiny.model("llama").to(dtype).eval()
    rows = {"input_ids": TOKENS.clone(), "attention_mask": torch.ones_like(TOKENS)}
    rows["input_ids"][0, :6], rows["attention_mask"][0, :6] = 1, 0  # padded on the left
    how = {"max_new_tokens": 5, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    expected = plain.generate(**rows, **how)
    found = wrap("tiny", tiny.model("llama").to(dtype), tiny.tokenizer(), "none").model.generate(**rows, **how)
    tolerance = 1e-3 if dtype == torch.float32 else 0.5
    torch.testing.assert_close(found.logits[0], expected.logits[0], atol=tolerance, rtol=tolerance)
    if dtype == torch.float32:
        assert found.sequences.tolist() == expected.sequences.tolist()


def test_gradients_are_those_of_transformers_own(tiny):
    grads = []
    for model in (tiny.model("gemma2").eval(), tiny.lm("gemma2").model):
        embedded = model.get_input_embeddings()(TOKENS).detach().requires_grad_()
        model(inputs_embeds=embedded).logits.pow(2).mean().backward()
        grads.append(embedded.grad)
    torch.testing.assert_close(grads[1], grads[0], atol=1e-5, rtol=1e-3)
