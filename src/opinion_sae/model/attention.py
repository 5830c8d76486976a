"""Attention by two batched matrix products, in place of torch's own on the CPU.

Torch's CPU kernel works through each head in blocks of a few queries, which for prompts of some hundred tokens costs
more than the products themselves, and its backward pass more still.
"""

from __future__ import annotations

import torch
import transformers
from jaxtyping import Float
from torch import Tensor, nn

from opinion_sae.threads import softmax

PRODUCTS = "batched-products"  # its name among transformers' attention implementations


def batched_products(
    module: nn.Module,
    query: Float[Tensor, "batch head token d_head"],
    key: Float[Tensor, "batch kv_head key d_head"],
    value: Float[Tensor, "batch kv_head key d_head"],
    attention_mask: Float[Tensor, "#batch 1 token key"],
    scaling: float,
    softcap: float | None = None,
    **others: object,
) -> tuple[Float[Tensor, "batch token head d_head"], None]:
    """softmax(scaling q k' + mask) v for every head, as transformers' layers ask for it.

    The heads that share keys and values are stacked as further queries, so neither is copied. With a soft cap c the
    scores are c tanh(scaling q k' / c) (Gemma 2). Products run in the type of the values, the softmax in float32.
    """
    dtype, (batch, heads, tokens, _), (_, kv_heads, keys, _) = value.dtype, query.shape, key.shape
    stacked = (batch, kv_heads, heads // kv_heads, tokens, keys)
    least = torch.finfo(dtype).min  # the lowest float32 would round to -inf in bfloat16, and a row of those to NaN
    mask = attention_mask.clamp_min(least).to(dtype)[:, :, None].expand(stacked).reshape(batch * kv_heads, -1, keys)
    q = query.to(dtype).reshape(batch * kv_heads, -1, query.shape[-1])
    k, v = key.to(dtype).flatten(0, 1), value.flatten(0, 1)
    if softcap is None:
        scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=scaling)
    else:
        scores = mask + softcap * torch.tanh(torch.bmm(q, k.transpose(1, 2)) * (scaling / softcap))
    mixed = torch.bmm(softmax(scores).to(dtype), v)
    return mixed.view(batch, heads, tokens, -1).transpose(1, 2).contiguous(), None


def use_products(model: transformers.PreTrainedModel) -> None:
    """Let a model attend by `batched_products` from now on."""
    from transformers.masking_utils import eager_mask  # seconds, which chapters that run no model do without

    transformers.AttentionInterface.register(PRODUCTS, batched_products)
    transformers.AttentionMaskInterface.register(PRODUCTS, eager_mask)
    model.set_attn_implementation(PRODUCTS)
