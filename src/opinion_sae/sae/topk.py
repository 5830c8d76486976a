"""The top-k SAE training step: one dense product, everything else on active latents only.

A top-k SAE of m latents has k << m of them active, so of its three products with the decoder and the encoder's weight
gradient only k / m is needed. `embedding_bag` does just that: a weighted sum of the rows that an index list names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from opinion_sae.products import linear

BLOCK = 4  # of four entries only the largest goes on to the next round of `top_k`


def top_k(pre: Float[Tensor, "batch m"], k: int) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
    """The k largest of each row and where they stand, in no order: what `Tensor.topk` finds, sooner on a CPU.

    The k largest lie in the k blocks with the largest maxima. So the maxima are searched first, by the same rule, and
    then only the entries of the blocks found. A block is a column of the row laid out as (BLOCK, m / BLOCK), so that
    the maxima of neighbouring blocks are found together.
    """
    blocks = pre.shape[1] // BLOCK
    if pre.is_cuda or pre.shape[1] % BLOCK or blocks < 2 * k:
        values, indices = pre.topk(k, dim=-1, sorted=False)
        return values, indices
    _, best = top_k(pre.unflatten(1, (BLOCK, blocks)).amax(1), k)
    candidates = (torch.arange(BLOCK)[:, None] * blocks + best[:, None]).flatten(1)
    values, at = pre.gather(1, candidates).topk(k, dim=-1, sorted=False)
    return values, candidates.gather(1, at)


def batch_top_k(pre: Float[Tensor, "batch m"], k: int) -> tuple[Float[Tensor, "batch most"], Int[Tensor, "batch most"]]:
    """The k * batch largest of all entries (BatchTopK; Bussmann et al. 2024): k a row on average, more for some rows.

    Returned row by row, each as long as the fullest; entries beyond those chosen have value 0. Each row's 2k largest
    are looked at first, then 4k and so on, until no row could have more.
    """
    most = min(2 * k, pre.shape[1])
    while True:
        values, indices = top_k(pre, most)
        level = values.flatten().float().topk(k * len(pre)).values[-1]
        chosen = values >= level
        fullest = int(chosen.sum(1).max())
        if fullest < most or most == pre.shape[1]:
            break
        most = min(2 * most, pre.shape[1])
    first = chosen.float().topk(fullest, dim=-1).indices
    return torch.where(chosen, values, 0.0).gather(1, first), indices.gather(1, first)  # -inf * 0 would be NaN


def scatter_rows(
    values: Float[Tensor, "batch k"], indices: Int[Tensor, "batch k"], rows: Float[Tensor, "batch d"], width: int
) -> Float[Tensor, "m d"]:
    """S^T rows, where S (batch, m) is the sparse matrix with `values` at `indices`: one weighted sum per latent."""
    order = indices.flatten().argsort()
    counts = torch.bincount(indices.flatten(), minlength=width)
    return embedding_bag(
        order // indices.shape[1],
        rows,
        offsets=counts.cumsum(0) - counts,
        per_sample_weights=values.flatten()[order],
        mode="sum",
    )


class SparseDecode(torch.autograd.Function):
    """sum_k values_k W_dec[indices_k], with gradients for the values and the decoder."""

    @staticmethod
    def forward(
        ctx: Any, values: Float[Tensor, "batch k"], indices: Int[Tensor, "batch k"], W_dec: Float[Tensor, "m d"]
    ) -> Float[Tensor, "batch d"]:
        ctx.save_for_backward(values, indices, W_dec)
        return embedding_bag(indices, W_dec, per_sample_weights=values, mode="sum")

    @staticmethod
    def backward(ctx: Any, grad: Float[Tensor, "batch d"]) -> tuple[Tensor, None, Tensor]:
        values, indices, W_dec = ctx.saved_tensors
        with torch.enable_grad():  # torch's own kernel for the values' gradient hides behind autograd
            leaf = values.detach().requires_grad_()
            (grad_values,) = torch.autograd.grad(
                embedding_bag(indices, W_dec.detach(), per_sample_weights=leaf, mode="sum"), leaf, grad
            )
        return grad_values, None, scatter_rows(values, indices, grad, len(W_dec))


class TopKEncode(torch.autograd.Function):
    """ReLU of the k largest of W_enc x + b_enc, with gradients for W_enc and b_enc (not for x).

    W_enc is stored as (m, d) here. The product runs in `dtype`; bfloat16 decides near-ties between latents differently
    from float32 now and then, and rounds their values to three digits. `select` is `top_k`, or `batch_top_k` for
    k * batch latents shared out among the rows. `out` is a place for the product, (batch, m) in `dtype`: the largest
    tensor of a step, and memory that is new each time costs a fifth of the product itself.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "batch d"],
        W_enc: Float[Tensor, "m d"],
        b_enc: Float[Tensor, "m"],
        k: int,
        dtype: torch.dtype,
        select: Callable[[Tensor, int], tuple[Tensor, Tensor]] = top_k,
        out: Tensor | None = None,
    ) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
        pre = linear(x.to(dtype), W_enc.to(dtype), b_enc.to(dtype), out)
        values, indices = select(pre, k)
        values = values.float().relu()
        ctx.save_for_backward(x, values, indices)
        ctx.width = len(W_enc)
        ctx.mark_non_differentiable(indices)
        ctx.set_materialize_grads(False)  # no zeros for the indices
        return values, indices

    @staticmethod
    def backward(ctx: Any, grad: Float[Tensor, "batch k"], _: None) -> tuple[Tensor | None, ...]:
        x, values, indices = ctx.saved_tensors
        grad = grad * (values > 0)
        grad_bias = torch.zeros(ctx.width, device=x.device).index_add_(0, indices.flatten(), grad.flatten())
        return None, scatter_rows(grad, indices, x, ctx.width), grad_bias, None, None, None, None
