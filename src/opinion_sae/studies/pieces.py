"""Chunks of text with the stream that a model has at their tokens, kept, so that an SAE is judged in seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from opinion_sae.model.activations import content
from opinion_sae.model.language_model import LanguageModel
from opinion_sae.progress import progress

LENGTH = 128  # tokens of a chunk
SHORTEST = 32  # of what is left at a text's end


class Streams(NamedTuple):
    """The stream after the hook layer at every token of some chunks but attention sinks, in float16; the tokens; and
    the number of the chunk that each is in."""

    x: Float[Tensor, "token d"]
    token: Int[Tensor, "token"]
    piece: Int[Tensor, "token"]


def chunks(lm: LanguageModel, texts: Sequence[str], length: int = LENGTH) -> list[list[int]]:
    """The texts cut into chunks of `length` tokens, the last of a text perhaps shorter, with BOS where the tokenizer
    has one. ValueError if no text is long enough."""
    bos = [lm.tokenizer.bos_token_id] if lm.tokenizer.bos_token_id is not None else []
    found, body = [], length - len(bos)
    for text in texts:
        ids = lm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        ids = ids[len(bos) :] if bos and ids[:1] == bos else ids
        found += [bos + ids[at : at + body] for at in range(0, len(ids), body)]
    found = [piece for piece in found if len(piece) >= min(SHORTEST, length)]
    if not found:
        raise ValueError(f"none of the {len(texts)} texts has {min(SHORTEST, length)} tokens")
    return found


def texts_of(lm: LanguageModel, pieces: Sequence[Sequence[int]]) -> list[str]:
    """The chunks as text."""
    return [str(lm.tokenizer.decode(list(piece), skip_special_tokens=True)) for piece in pieces]


@torch.no_grad()
def streams(lm: LanguageModel, pieces: Sequence[Sequence[int]], hook_layer: int) -> Streams:
    """One pass over the chunks, up to the hook layer."""
    lm.check_layer(hook_layer)
    order = sorted(range(len(pieces)), key=lambda number: -len(pieces[number]))
    size, found = max(1, lm.tokens_per_batch // LENGTH), []
    for start in progress(range(0, len(order), size), "chunks"):
        some = order[start : start + size]
        tokens, real = padded([pieces[number] for number in some])
        residual = lm.residual(tokens, hook_layer).cpu()
        there = content(residual, real)
        number = torch.tensor(some)[:, None].expand(tokens.shape)
        found.append((residual[there].half(), tokens[there], number[there]))
    return Streams(*(torch.cat(part) for part in zip(*found, strict=True)))


def padded(pieces: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "piece token"], Bool[Tensor, "piece token"]]:
    """Chunks as the rows of one table, padded on the right, and which of its cells are tokens of theirs."""
    tokens = pad_sequence([torch.tensor(list(piece)) for piece in pieces], batch_first=True)
    return tokens, torch.arange(tokens.shape[1]) < torch.tensor([len(piece) for piece in pieces])[:, None]


class Spliced(NamedTuple):
    """Some chunks run up to the hook layer, once; where an SAE's output is to stand for the stream (`at`)."""

    tokens: Int[Tensor, "piece token"]
    hidden: Float[Tensor, "piece token d"]
    at: Bool[Tensor, "piece token"]

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        lm: LanguageModel,
        pieces: Sequence[Sequence[int]],
        hook_layer: int,
        spans: Sequence[tuple[int, ...]] | None = None,
    ) -> Spliced:
        """At all content tokens, or at those from spans[i][0] up to, not including, spans[i][1] alone."""
        tokens, real = padded(pieces)
        hidden = lm.residual(tokens, hook_layer).cpu()
        at = content(hidden, real)
        if spans is not None:
            place = torch.arange(tokens.shape[1])
            at &= torch.stack([(place >= first) & (place < last) for first, last in spans])
        at[:, -1] = False  # nothing comes after it
        at[torch.arange(len(pieces)), real.sum(1) - 1] = False
        return cls(tokens, hidden, at)

    @torch.no_grad()
    def loss(self, lm: LanguageModel, hook_layer: int, edit: Callable[[Tensor], Tensor], batch: int = 8) -> float:
        """Cross-entropy in nats of the tokens that follow an edited one: mean. exp of it is the perplexity."""
        losses = []
        for rows in torch.arange(len(self.tokens)).split(batch):
            tokens, hidden, at = self.tokens[rows], self.hidden[rows].clone(), self.at[rows]
            hidden[at] = edit(hidden[at])
            positions, masks = lm.causal(*tokens.shape)
            upper = range(hook_layer + 1, len(lm.layers))
            out = lm.run_layers(hidden.to(lm.device), upper, positions, masks)
            following = tokens.roll(-1, 1)[at]
            logits = lm.logits(out[at.to(out.device)])
            losses.append(cross_entropy(logits, following.to(logits.device), reduction="none").cpu())
        return torch.cat(losses).mean().item()
