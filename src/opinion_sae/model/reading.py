"""What an offset may read of a prompt: the stream at the question's tokens, and which latents fire there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from opinion_sae.model.prompts import Prompt

PLACES = ("last", "question", "options")


@runtime_checkable
class Encoder(Protocol):
    """What is asked of an SAE here."""

    width: int

    def encode_sparse(self, x: Float[Tensor, "token d"]) -> tuple[Tensor, Tensor]: ...


class Tokens(NamedTuple):
    """The tokens of one place in all prompts: whose they are (`item`), how much and which way they count (`weight`)."""

    stream: Float[Tensor, "token d"]
    item: Int[Tensor, "token"]
    weight: Float[Tensor, "token"]


class Bag(NamedTuple):
    """Counts of firing, an item's latents one after the other: those of item i lie from starts[i] to starts[i + 1]."""

    counts: Float[Tensor, "entry"]
    latents: Int[Tensor, "entry"]
    starts: Int[Tensor, "item+1"]
    width: int

    def rows(self, items: Int[Tensor, "item"]) -> Float[Tensor, "item m"]:
        """The counts of some items, with their zeros."""
        starts = self.starts[items]
        lengths = self.starts[items + 1] - starts
        row = torch.arange(len(items)).repeat_interleave(lengths)
        entry = torch.arange(len(row)) + (starts - (lengths.cumsum(0) - lengths)).repeat_interleave(lengths)
        rows = torch.zeros(len(items), self.width)
        rows[row, self.latents[entry]] = self.counts[entry]
        return rows


class Kept:
    """The residual stream after the hook layer at the tokens that may be read, of all prompts one after the other.

    `stream` holds those of the question, in the model's type, `last` each prompt's last, in float32; both on the CPU. A
    token's keys and values take 2 x upper layers x key-value heads x head size; this is d more for each token of the
    question. For SmolLM2-135M, hook layer 15, and OpinionQA's prompts: 57 MB beside 957 MB, in float32.
    """

    def __init__(self, prompts: Sequence[Prompt], last: Float[Tensor, "item d"], dtype: torch.dtype):
        self.prompts, self.last = prompts, last
        lengths = torch.tensor([prompt.asked[1] - prompt.asked[0] if prompt.asked else 0 for prompt in prompts])
        self.starts = lengths.cumsum(0) - lengths
        self.item = torch.arange(len(prompts)).repeat_interleave(lengths)
        self.stream = torch.empty(int(lengths.sum()), last.shape[1], dtype=dtype)

    def record(self, item: int, hidden: Float[Tensor, "token d"]) -> None:
        """Keep what may be read of one prompt's stream."""
        prompt = self.prompts[item]
        if prompt.asked:
            part = hidden[slice(*prompt.asked)]
            self.stream[self.starts[item] : self.starts[item] + len(part)] = part.to(self.stream)

    def tokens(self, place: str) -> Tokens:
        """The tokens of a place.

        'question': the question's and its options' tokens, all with the weight `turned` of their prompt. 'last': the
        last token of the prompt, likewise. 'options': the last token of each option, weighted by its letter's place
        from -1 (the first) to 1 (the last), so that what is read turns when the options do. ValueError for another
        place, or where the prompts do not say where the question lies.
        """
        if place not in PLACES:
            raise ValueError(f"an offset may read {', '.join(PLACES)}, not {place!r}")
        if place == "last":
            items = torch.arange(len(self.prompts))
            return Tokens(self.last, items, torch.tensor([turned(prompt) for prompt in self.prompts]))
        if not all(prompt.asked for prompt in self.prompts):
            raise ValueError(
                f"reading {place!r}: it is not known which of the prompt's tokens are the question; the tokenizer has "
                "no fast version, or the prompts are not those of build_prompts"
            )
        if place == "question":
            weight = torch.tensor([turned(prompt) for prompt in self.prompts])
            return Tokens(self.stream, self.item, weight[self.item])
        found = [
            (int(self.starts[item]) + prompt.ends[option] - prompt.asked[0], item, at)
            for item, prompt in enumerate(self.prompts)
            for option, at in zip(prompt.order, torch.linspace(-1, 1, len(prompt.order)).tolist(), strict=True)
        ]
        token, item, weight = zip(*found, strict=True)
        return Tokens(self.stream[list(token)], torch.tensor(item), torch.tensor(weight))


def turned(prompt: Prompt) -> float:
    """1 if the options run by and large as in the question as it was asked, -1 if the other way, 0 if neither.

    What moves the answer along the letters moves it the other way along the options when these are reversed, so what is
    read of the question as a whole takes this sign.
    """
    order = torch.tensor(prompt.order, dtype=torch.float32)
    along = torch.arange(len(order)) - (len(order) - 1) / 2
    return torch.sign(along @ order).item()


@torch.no_grad()
def bag_of_latents(encoder: Encoder, tokens: Tokens, items: int, batch: int = 2048) -> Bag:
    """How many of an item's tokens each latent fires on, every token by its weight; an item may have none."""
    seen: list[tuple[Tensor, Tensor]] = []
    for chunk in torch.arange(len(tokens.item)).split(batch):
        values, latents = (part.cpu() for part in encoder.encode_sparse(tokens.stream[chunk].float()))
        row, place = (values > 0).nonzero(as_tuple=True)
        seen.append((tokens.item[chunk][row] * encoder.width + latents[row, place], tokens.weight[chunk][row]))
    where, which = torch.cat([cell for cell, _ in seen]).unique(return_inverse=True)
    counts = torch.zeros(len(where)).index_add_(0, which, torch.cat([weight for _, weight in seen]))
    starts = torch.searchsorted(where, torch.arange(items + 1) * encoder.width)
    return Bag(counts, where % encoder.width, starts, encoder.width)


def mean_stream(tokens: Tokens, items: int) -> Float[Tensor, "item d"]:
    """The stream averaged over an item's tokens, every token by its weight."""
    total = torch.zeros(items, tokens.stream.shape[1]).index_add_(
        0, tokens.item, tokens.stream.float() * tokens.weight[:, None]
    )
    return total / torch.bincount(tokens.item, minlength=items).clamp_min(1)[:, None]


def inverse_frequency(counts: Float[Tensor, "item m"]) -> Float[Tensor, "m"]:
    """log(items / items in which the latent fires), 0 for one that fires in none: it could not be learnt from."""
    fires = (counts != 0).sum(0)
    return torch.where(fires > 0, (len(counts) / fires.clamp_min(1)).log(), 0.0)


def weighted_bag(counts: Float[Tensor, "item m"], weight: Float[Tensor, "m"]) -> Float[Tensor, "item m"]:
    """r_j = sign(n_j) log(1 + |n_j|) weight_j for counts n, scaled to |r| = 1; 0 for an item without any."""
    r = counts.sign() * counts.abs().log1p() * weight
    return r / r.norm(dim=1, keepdim=True).clamp_min(1e-12)
