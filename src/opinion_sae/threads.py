"""The same numbers whatever the number of threads.

Matrix products are: `products.linear` by itself, and torch's own since MKL is asked for its strict mode where the
package is imported. What is left is done here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


@contextmanager
def one_thread() -> Iterator[None]:
    """Within, or within a function that it decorates, torch has one thread: its decompositions and solutions of linear
    equations add up in another order with every number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Float[Tensor, "*row key"]) -> Float[Tensor, "*row key"]:
        p = scores.softmax(-1, dtype=torch.float32)
        ctx.save_for_backward(p)
        ctx.dtype = scores.dtype
        return p

    @staticmethod
    def backward(ctx: Any, grad: Float[Tensor, "*row key"]) -> Float[Tensor, "*row key"]:
        (p,) = ctx.saved_tensors
        own = grad * p
        return own.addcmul_(p, own.sum(-1, keepdim=True), value=-1).to(ctx.dtype)


def softmax(scores: Float[Tensor, "*row key"]) -> Float[Tensor, "*row key"]:
    """Softmax over the last dimension in float32, whose gradient p (g - sum p g) does not hang on the threads, as that
    of torch's own does."""
    return _Softmax.apply(scores)
