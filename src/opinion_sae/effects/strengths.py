"""Answers under an offset at several strengths, and with a latent that it reads at a question taken out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from opinion_sae.delta.reading import ReadingDelta
from opinion_sae.model.answers import AnswerPath

STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0)
TAKEN_OUT = 4  # latents per question


class Strengths(NamedTuple):
    """log p of some questions at each of STRENGTHS, and at 1 with one latent after the other not read."""

    log_probs: Float[Tensor, "strength group question option"]
    latents: Int[Tensor, "question taken"]  # -1 where so many are not read
    without: Float[Tensor, "taken group question option"]


def reach(offset: ReadingDelta, read: Float[Tensor, "item m"]) -> Float[Tensor, "item m"]:
    """How much each latent that is read moves what is written, over axes k and directions w and on average over groups:

    sum_kw mean_g |c_gk| |a_kwj r_j| |b_kw|
    """
    size = offset.codes().abs().mean(0)[:, None] * offset.b.norm(dim=-1)
    return torch.einsum("im,kwm,kw->im", offset.weigh(read).abs(), offset.a.abs(), size)


def without_nth(offset: ReadingDelta, n: int) -> ReadingDelta:
    """The offset that does not read the latent with the n-th largest `reach` (from 0) at whatever prompt is asked."""
    part = offset.copy()

    def weigh(read: Float[Tensor, "item m"]) -> Float[Tensor, "item m"]:
        nth = reach(offset, read).topk(n + 1, dim=1).indices[:, n:]
        return offset.weigh(read).scatter(1, nth, 0.0)

    part.weigh = weigh
    return part


@torch.no_grad()
def at_strengths(answers: AnswerPath, offset: ReadingDelta, questions: Int[Tensor, "question"]) -> Strengths:
    """s times the whole offset, the shared part too, for s in STRENGTHS: at 0 the model as it is, for all groups alike.

    Latents are those of the prompts with the options in their order; with several orders each prompt goes without its
    own n-th.
    """
    tables = [answers.predict(offset.dosed(s, s), questions) for s in STRENGTHS]
    count = min(TAKEN_OUT, offset.sae.width)
    top = reach(offset, answers.read(offset.sae, str(offset.reads), questions * answers.orders)).topk(count, dim=1)
    without = [answers.predict(without_nth(offset, n), questions) for n in range(count)]
    return Strengths(torch.stack(tables), top.indices.masked_fill(top.values == 0, -1), torch.stack(without))
