"""Products with a weight matrix in float32 on the CPU, by oneDNN.

Torch itself leaves them to MKL, which uses the widest vectors of Intel's processors only: on others oneDNN takes less
than half the time. The number of threads changes no bit of what it finds.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

ROWS = 512  # at a time into a place that is given: what oneDNN returns then stays in the caches


def linear(
    x: Float[Tensor, "*batch d"],
    weight: Float[Tensor, "m d"],
    bias: Float[Tensor, "m"] | None = None,
    out: Float[Tensor, "*batch m"] | None = None,
) -> Float[Tensor, "*batch m"]:
    """x W' + b, as torch's `linear`; gradients as there.

    `out` is a place for what comes of a matrix; there is no gradient then.
    """
    plain = {x.dtype, weight.dtype} == {torch.float32} and x.device.type == "cpu" and x.numel() > 0
    if not (plain and torch.backends.mkldnn.is_available()):
        if out is None:
            return functional.linear(x, weight, bias)
        return torch.mm(x, weight.T, out=out) if bias is None else torch.addmm(bias, x, weight.T, out=out)
    if out is None:
        return _Linear.apply(x, weight, bias)
    for some, into in zip(x.split(ROWS), out.split(ROWS), strict=True):
        into.copy_(_product(some, weight, bias))
    return out


class Linear(torch.nn.Linear):
    """Torch's layer of that name, with this product."""

    def forward(self, input: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch m"]:
        return linear(input, self.weight, self.bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if weight.requires_grad else None, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows = grad.flatten(0, -2) if of_weight or of_bias else grad
        return (
            _product(grad, weight.T) if of_x else None,
            _product(rows.T, x.flatten(0, -2).T) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )
