"""Unsteered answers to prompts that begin alike: the common beginning is run once, and every prompt goes on from it."""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from opinion_sae.model.answers import NEVER, length_batches, letter_table
from opinion_sae.model.language_model import LanguageModel
from opinion_sae.model.prompts import Prompt
from opinion_sae.score.metrics import total_variation


class Told(NamedTuple):
    """Answers to the prompts of some questions; of several groups, each has a first axis for them."""

    log_probs: Float[np.ndarray, "*group question option"]  # mean over orders of the options; -inf: no such option
    option_mass: Float[np.ndarray, "*group question"]  # of the next token's probability, on the letters; likewise
    order_tv: Float[np.ndarray, "*group question"]  # total variation between two orders; NaN if there is one only


@torch.no_grad()
def read_answers(lm: LanguageModel, prompts: Sequence[Prompt], orders: int, width: int) -> Told:
    """Answers over `width` options to questions of `orders` prompts each."""
    log_probs, mass = (found.double().unflatten(0, (-1, orders)) for found in read_prompts(lm, prompts))
    mean = log_probs.logsumexp(1) - np.log(orders)
    _, has_option = letter_table(prompts)
    answers = np.full((len(mean), width), -np.inf, np.float32)
    answers[:, : mean.shape[1]] = mean.masked_fill(~has_option[::orders], -torch.inf).numpy()
    p, one = log_probs.exp().numpy(), np.full(len(mean), np.nan)
    return Told(answers, mass.mean(1).numpy(), total_variation(p[:, 0], p[:, 1]) if orders > 1 else one)


def read_prompts(
    lm: LanguageModel, prompts: Sequence[Prompt]
) -> tuple[Float[Tensor, "item option"], Float[Tensor, "item"]]:
    """log p of each prompt's options, `NEVER` or less where there is no such option, and the share of the next token's
    probability that lies on them. Nothing is kept."""
    prefix = common_prefix([prompt.tokens for prompt in prompts])
    beginning, layers = Beginning() if prefix else None, range(len(lm.layers))
    if prefix:
        tokens = torch.tensor([prompts[0].tokens[:prefix]])
        lm.run_layers(lm.embed(tokens), layers, *lm.causal(*tokens.shape), beginning)
    rest = [torch.tensor(prompt.tokens[prefix:]) for prompt in prompts]
    lengths, (letters, has_option) = torch.tensor([len(row) for row in rest]), letter_table(prompts)
    logits, mass = torch.empty(letters.shape), torch.empty(len(letters))
    for items in length_batches(lengths, lm.tokens_per_batch):
        tokens = torch.nn.utils.rnn.pad_sequence([rest[i] for i in items], batch_first=True)
        keys = torch.arange(prefix + tokens.shape[1], device=lm.device)
        positions = keys[prefix:].expand(len(items), -1)
        distance = positions[:, :, None] - keys
        hidden = lm.run_layers(
            lm.embed(tokens), layers, positions, lm.attention_masks(distance >= 0, distance), beginning
        )
        last = hidden[torch.arange(len(items)), lengths[items] - 1]
        logits[items] = lm.logits(last, letters[items]).cpu()
        with torch.no_grad():
            on_letters = lm.logits(last).softmax(-1).cpu().gather(-1, letters[items])
            mass[items] = on_letters.masked_fill(~has_option[items], 0).sum(-1)
    return logits.masked_fill(~has_option, NEVER).log_softmax(-1), mass


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with; at least one of each row is left over."""
    return len(os.path.commonprefix([list(row[:-1]) for row in rows]))


class Beginning:
    """A cache that keeps the keys and values of the first pass; later ones see them before their own, without a copy
    of the former being kept for each prompt."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, keys: Tensor, values: Tensor, layer: int, *args: object) -> tuple[Tensor, Tensor]:
        if layer not in self.kept:
            self.kept[layer] = keys, values
            return keys, values
        old_keys, old_values = (old.expand(len(keys), -1, -1, -1) for old in self.kept[layer])
        return torch.cat([old_keys, keys], dim=2), torch.cat([old_values, values], dim=2)
