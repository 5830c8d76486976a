"""Layers called one by one against transformers' own forward pass."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, CohereConfig, GPT2Config, GptOssConfig, Qwen3NextConfig

from opinion_sae.model.language_model import check_layer_by_layer, load_language_model, resolve_dtype, wrap

FAMILIES = ("llama", "qwen2", "gemma2", "gemma3", "gpt-neox", "mistral")
SINKS = {"num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 8, "initializer_range": 0.4}
TOKENS = torch.randint(2, 300, (2, 20), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=FAMILIES)
def family_lm(request, tiny):
    return tiny.lm(request.param)


@torch.no_grad()
def test_residual_equals_the_hidden_states_of_transformers(family_lm):
    states = family_lm.model(TOKENS, output_hidden_states=True).hidden_states
    for layer in range(4):
        found = family_lm.residual(TOKENS, layer)
        torch.testing.assert_close(found, states[layer + 1], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_logits_equal_those_of_the_whole_model(family_lm):
    hidden = family_lm.residual(TOKENS, 4)
    expected = family_lm.model(TOKENS).logits
    torch.testing.assert_close(family_lm.logits(hidden), expected, atol=1e-4, rtol=1e-4)
    rows = torch.tensor([5, 250, 5])
    some = family_lm.logits(hidden, rows.expand(2, 20, 3))
    torch.testing.assert_close(some, expected[..., rows], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_next_token_loss_is_the_cross_entropy(family_lm):
    logits = family_lm.model(TOKENS).logits[:, :-1]
    expected = -logits.log_softmax(-1).gather(-1, TOKENS[:, 1:, None])[..., 0]
    found = family_lm.next_token_loss(TOKENS)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)
    unchanged = family_lm.next_token_loss(TOKENS, 2, lambda x: x)
    torch.testing.assert_close(unchanged, expected, atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_next_token_loss_under_an_edit_equals_a_hook(family_lm):
    handle = family_lm.layers[2].register_forward_hook(lambda module, args, output: -output)
    logits = family_lm.model(TOKENS).logits[:, :-1]
    handle.remove()
    expected = -logits.log_softmax(-1).gather(-1, TOKENS[:, 1:, None])[..., 0]
    found = family_lm.next_token_loss(TOKENS, 2, torch.neg)
    assert (found - family_lm.next_token_loss(TOKENS)).abs().max() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_the_tiny_gemma_uses_its_window_and_its_soft_caps(tiny):
    plain = tiny.lm("gemma2").residual(TOKENS, 4)
    for change in (
        {"sliding_window": 100},
        {"attn_logit_softcapping": None},
        {"layer_types": ["full_attention"] * 5},
    ):
        assert (tiny.lm("gemma2", **change).residual(TOKENS, 4) - plain).abs().max() > 0.01, change


@torch.no_grad()
def test_the_tiny_gemma_3_turns_by_other_angles_where_it_has_a_window(tiny):
    lm = tiny.lm("gemma3")
    positions = torch.arange(5)[None]
    turns = lm.rotations(torch.zeros(1, 5, 32), range(5), positions)
    assert set(turns) == {"full_attention", "sliding_attention"}
    assert not torch.allclose(turns["full_attention"][0], turns["sliding_attention"][0])
    assert set(lm.rotations(torch.zeros(1, 5, 32), range(1), positions)) == {"sliding_attention"}
    same = {"rope_parameters": dict.fromkeys(turns, {"rope_type": "default", "rope_theta": 1e4})}
    assert (tiny.lm("gemma3", **same).residual(TOKENS, 4) - lm.residual(TOKENS, 4)).abs().max() > 1e-3


def test_the_model_is_frozen_and_deterministic(family_lm):
    assert not family_lm.model.training
    assert not any(weight.requires_grad for weight in family_lm.model.parameters())
    assert family_lm.width == 32 and family_lm.dtype == torch.float32


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_with_bfloat16_weights_the_stream_stays_in_float32(family, tiny):
    exact = tiny.lm(family)
    rough = wrap("rough", tiny.model(family).to(torch.bfloat16), exact.tokenizer, "none")
    stream, expected = rough.residual(TOKENS, 3), exact.residual(TOKENS, 3)
    assert stream.dtype == torch.float32 and (stream != stream.bfloat16()).any()
    assert (stream - expected).norm() < 0.1 * expected.norm()
    assert rough.logits(stream).dtype == rough.next_token_loss(TOKENS).dtype == torch.float32


def test_a_family_without_the_parts_is_refused(tiny):
    small = {"vocab_size": 320, "bos_token_id": 0, "eos_token_id": 1}
    gpt2 = AutoModelForCausalLM.from_config(GPT2Config(n_embd=16, n_layer=3, n_head=2, **small))
    with pytest.raises(ValueError, match=r"model mine \(gpt2\).*missing \['layers', 'rotary_emb', 'norm'\].*Llama"):
        wrap("mine", gpt2, tiny.tokenizer(), "none")


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (CohereConfig, {"logit_scale": 0.1, "num_key_value_heads": 2}, r"cohere\).*logits are off by"),
        (Qwen3NextConfig, {"num_key_value_heads": 2}, r"qwen3_next\).*one by one here.*linear_attention"),
        # attention with a sink per head, which `attention.py` does not know
        (GptOssConfig, {**SINKS, "num_key_value_heads": 2}, r"gpt_oss\).*logits are off by.*in attention"),
    ],
)
def test_a_family_that_does_more_between_its_layers_is_refused(config, settings, message, tiny):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    tokens = {"vocab_size": 320, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    model = AutoModelForCausalLM.from_config(config(**sizes, **tokens, **settings))
    with pytest.raises(ValueError, match=message):
        wrap("mine", model, tiny.tokenizer(), "none")


def test_a_family_whose_parts_want_other_arguments_is_refused(tiny):
    lm = tiny.lm("llama")
    with pytest.raises(ValueError, match=r"one by one: .*positional argument"):
        check_layer_by_layer(replace(lm, rotary=lm.norm), TOKENS[:1], torch.zeros(1, 20, 320))


def test_a_model_that_does_not_fit_the_gpus_is_refused(tiny):
    model = tiny.model("gemma2")
    model.model.layers[3].to("meta")  # where accelerate leaves what it takes in and out of the GPU
    with pytest.raises(ValueError, match="model mine: it does not fit in the memory.*CUDA_VISIBLE_DEVICES="):
        wrap("mine", model, tiny.tokenizer(), "none")


def test_the_unembedding_is_never_given_a_slice(tiny):
    """For which torch's product of a batch copies the weights once per row."""
    lm, seen = tiny.lm(), []
    lm.model.get_output_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0].is_contiguous()))
    ids = torch.arange(2, 14).reshape(3, 4)
    lm.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False)
    assert seen == [True] * 3


def test_dtypes_are_named_or_measured():
    assert resolve_dtype("float32") is torch.float32 and resolve_dtype("bfloat16") is torch.bfloat16
    assert resolve_dtype("auto") in (torch.float32, torch.bfloat16)
    with pytest.raises(ValueError, match="dtype 'float16' is not one of auto, float32, bfloat16"):
        resolve_dtype("float16")


@torch.no_grad()
def test_a_saved_folder_comes_back_the_same(tmp_path, tiny):
    model = tiny.model("qwen2")
    model.save_pretrained(tmp_path)
    tiny.tokenizer(chat=True).save_pretrained(tmp_path)
    lm = load_language_model(str(tmp_path), "float32")
    torch.testing.assert_close(lm.model(TOKENS).logits, model.eval()(TOKENS).logits, atol=1e-4, rtol=1e-4)
    assert lm.tokenizer.chat_template == tiny.tokenizer(chat=True).chat_template
    assert load_language_model(str(tmp_path), "bfloat16").dtype == torch.bfloat16
    assert lm.name == str(tmp_path) and lm.sha256.startswith("sha256:")
