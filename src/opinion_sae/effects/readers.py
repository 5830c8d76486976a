"""What a method does to factual questions and plain texts, measured once for all against a small contract.

A `Reader` is a method of one split, left switched on wherever the model reads. Facts and texts belong to no split: they
are dealt out among a method's readers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from opinion_sae.effects.facts import Facts, fact_prompts
from opinion_sae.methods.contract import Steered
from opinion_sae.model.activations import content, text_windows
from opinion_sae.model.answers import AnswerPath
from opinion_sae.model.language_model import LanguageModel
from opinion_sae.progress import progress

Cells = dict[str, Float[np.ndarray, "group _"]]  # by quantity, a column per unit; NaN where there is nothing to measure
LENGTH, SHARE = 48, 4  # tokens read of a text; every so many-th group reads it


class Passage:
    """The first tokens of a text, and the stream at the hook layer and after the last layer when nothing else is read.

    The latter is where a next token is known: before the final norm, so that no logits are kept.
    """

    @torch.no_grad()
    def __init__(self, lm: LanguageModel, text: str, hook_layer: int, length: int = LENGTH):
        self.lm, self.hook_layer = lm, hook_layer
        self.tokens = next(iter(text_windows(lm, [text], length))).tokens[0]
        self.x = lm.residual(self.tokens[None], hook_layer)
        self.top = self.above(self.x)[0]

    def above(self, x: Float[Tensor, "row token d"]) -> Float[Tensor, "row token-1 d"]:
        """The stream after the last layer, from that after the hook layer."""
        positions, masks = self.lm.causal(*x.shape[:2])
        return self.lm.run_layers(x, range(self.hook_layer + 1, len(self.lm.layers)), positions, masks)[:, :-1]


@runtime_checkable
class Reader(Protocol):
    """A method of one split: what each of its `groups` rows makes of facts and texts. One row stands for all groups."""

    groups: int

    def choose(self, items: Int[np.ndarray, "item"], which: slice) -> Int[np.ndarray, "row item"]:
        """The likeliest option of these factual questions, for some rows."""

    def next_logits(self, passage: Passage, which: slice) -> Iterable[Float[Tensor, "token vocabulary"]]:
        """Logits of the passage's next tokens, for some rows one after another."""


class OffsetReader:
    """The model under an offset at every content token (no attention sink) and at the end of a question.

    One that reads the question reads of a text what came so far, and no options.
    """

    def __init__(self, offset: Steered | None, asked: AnswerPath):
        self.offset, self.asked = offset, asked  # None: the model as it is
        self.groups = 1 if offset is None else len(offset.groups)
        if offset is not None and offset.reads == "options":
            self.asked = copy.copy(asked)
            self.asked.read = lambda sae, place, items: nothing_read(offset, len(items), asked.lm.width)

    def choose(self, items: Int[np.ndarray, "item"], which: slice) -> Int[np.ndarray, "row item"]:
        return self.asked.predict(self.offset, torch.from_numpy(items)).numpy().argmax(-1)[which]

    def next_logits(self, passage: Passage, which: slice) -> Iterable[Float[Tensor, "token vocabulary"]]:
        if self.offset is None:
            return [passage.lm.logits(passage.top)]
        x = passage.x
        keep = content(x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device))[0]
        read = so_far(self.offset, x[0, keep])
        shifted = self.offset.steer(x[0, keep], read).transpose(0, 1)[which]  # group token d
        moved = x.repeat(len(shifted), 1, 1)
        moved[:, keep] = shifted
        return (passage.lm.logits(row) for row in passage.above(moved))


def so_far(offset: Steered, x: Float[Tensor, "token d"]) -> Float[Tensor, "token read"] | None:
    """What an offset reads at each token of a text; None for one that reads nothing."""
    sae, place = getattr(offset, "sae", None), offset.reads
    if place is None:
        return None
    if place == "options":
        return nothing_read(offset, len(x), x.shape[1])
    read = x if sae is None else (sae.encode(x) > 0).float()
    if place == "last":
        return read
    total = read.cumsum(0)
    return total if sae is not None else total / torch.arange(1, len(x) + 1, device=x.device)[:, None]


def nothing_read(offset: Steered, items: int, d: int) -> Float[Tensor, "item read"]:
    """What is read where there is nothing to read: no latents, or the mean stream of the questions fitted to."""
    sae, mean = getattr(offset, "sae", None), getattr(getattr(offset, "steering", offset), "mean", None)
    return torch.zeros(items, d if sae is None else sae.width) if mean is None else mean.expand(items, -1)


def asked_facts(answers: AnswerPath, facts: Facts) -> tuple[Facts, AnswerPath]:
    """The factual questions that can be asked, and their prompts, run once."""
    known, prompts = fact_prompts(answers.lm.tokenizer, facts)
    return known, AnswerPath(answers.lm, known.questions, answers.hook_layer, orders=1, prompts=prompts)


def fact_cells(readers: Sequence[Reader | None], facts: Facts, groups: int, share: int = 1) -> Cells:
    """accuracy: 1 where the likeliest option is the right one, else 0.

    Question i is answered under the i-th of the readers, taken in turn (None: nobody), by every `share`-th group.
    """
    right, share = np.full((groups, len(facts.questions)), np.nan), min(share, groups)
    for number, reader in enumerate(readers):
        for turn in range(share if reader is not None else 0):
            items = np.arange(number + len(readers) * turn, right.shape[1], len(readers) * share)
            if len(items):
                chosen = reader.choose(items, slice(turn, None, share))
                right[turn::share, items] = chosen == facts.right[items]
    return {"accuracy": right}


@torch.no_grad()
def text_cells(
    methods: Mapping[str, Sequence[Reader | None]], passages: Iterable[Passage], groups: int, share: int = SHARE
) -> dict[str, Cells]:
    """By method, on each passage:

        text_loss      mean next-token loss, nats per token
        next_token_kl  mean KL(unsteered || steered) of the next token's distribution, nats per token

    Passage i is read under the i-th reader of a method, taken in turn, by every `share`-th group, and the groups change
    when all readers have had a passage: each group reads a part of them, and some group reads each. The rest is NaN.
    """
    columns: dict[str, list[Float[np.ndarray, "quantity group"]]] = {name: [] for name in methods}
    share = min(share, groups)
    for i, passage in enumerate(progress(passages, "side effects, text")):
        plain = passage.lm.logits(passage.top).log_softmax(-1)
        following = passage.tokens[1:, None].to(plain.device)
        for name, readers in methods.items():
            reader, column = readers[i % len(readers)], np.full((2, groups), np.nan)
            if reader is not None:
                which = slice(None) if reader.groups == 1 else slice(i // len(readers) % share, None, share)
                found = [loss_and_kl(logits, plain, following) for logits in reader.next_logits(passage, which)]
                column[:, which] = np.array(found).T
            columns[name].append(column)
    return {
        name: dict(zip(("text_loss", "next_token_kl"), np.stack(found, -1), strict=True))
        for name, found in columns.items()
    }


def loss_and_kl(
    logits: Float[Tensor, "token vocabulary"],
    plain: Float[Tensor, "token vocabulary"],
    following: Int[Tensor, "token 1"],
) -> tuple[float, float]:
    """Mean over tokens of -log p(following) and of KL(exp(plain) || p), p = softmax(logits), in nats.

    One text at a time: the logits of several would be the largest tensor by far.
    """
    log_p = logits.log_softmax(-1)
    divergence = (plain.exp() * (plain - log_p)).sum(-1)
    return -log_p.gather(-1, following).mean().item(), divergence.mean().item()
