"""The top-k SAE training step: one dense product, everything else on active latents only.

A top-k SAE of m latents has k << m of them active, so of its three products with the decoder and the encoder's weight
gradient only k / m is needed. `embedding_bag` does just that: a weighted sum of the rows that an index list names.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag


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
        ctx: object, values: Float[Tensor, "batch k"], indices: Int[Tensor, "batch k"], W_dec: Float[Tensor, "m d"]
    ) -> Float[Tensor, "batch d"]:
        ctx.save_for_backward(values, indices, W_dec)
        return embedding_bag(indices, W_dec, per_sample_weights=values, mode="sum")

    @staticmethod
    def backward(ctx: object, grad: Float[Tensor, "batch d"]) -> tuple[Tensor, None, Tensor]:
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
    from float32 now and then, and rounds their values to three digits.
    """

    @staticmethod
    def forward(
        ctx: object,
        x: Float[Tensor, "batch d"],
        W_enc: Float[Tensor, "m d"],
        b_enc: Float[Tensor, "m"],
        k: int,
        dtype: torch.dtype,
    ) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
        pre = torch.nn.functional.linear(x.to(dtype), W_enc.to(dtype), b_enc.to(dtype))
        values, indices = pre.topk(k, dim=-1, sorted=False)
        values = values.float().relu()
        ctx.save_for_backward(x, values, indices)
        ctx.width = len(W_enc)
        ctx.mark_non_differentiable(indices)
        ctx.set_materialize_grads(False)  # no zeros for the indices
        return values, indices

    @staticmethod
    def backward(ctx: object, grad: Float[Tensor, "batch k"], _: None) -> tuple[None, Tensor, Tensor, None, None]:
        x, values, indices = ctx.saved_tensors
        grad = grad * (values > 0)
        grad_bias = torch.zeros(ctx.width, device=x.device).index_add_(0, indices.flatten(), grad.flatten())
        return None, scatter_rows(grad, indices, x, ctx.width), grad_bias, None, None
