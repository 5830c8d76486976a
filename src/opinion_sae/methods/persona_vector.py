r"""Persona vectors: the mean stream of what the model writes as the group, less that as not of it (Chen et al. 2025).

    v_g = mean over answers and their tokens of x | told to be of g   -   the same | told not to be
    x_g = x + s v_g

The model writes, greedily, to a few training questions without their options; x is read at the tokens that it wrote.
Published with five pairs of instructions, twenty questions, ten samples each and a judge that drops answers out of
character: here one pair and few questions, since a model of this size has no judge. s is chosen on validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from opinion_sae.delta.held_out import Split
from opinion_sae.delta.offsets import DenseOffset
from opinion_sae.methods.contract import STRENGTHS, Bench, Outcome, best_of, steered
from opinion_sae.methods.personas import in_turn, persona, spread
from opinion_sae.model.language_model import LanguageModel
from opinion_sae.model.prompts import describe, prompt_tokens
from opinion_sae.progress import progress

QUESTIONS = 1  # of each split's test part; a split uses those of the others
WRITTEN = 16  # tokens of an answer


def persona_vector(bench: Bench) -> Outcome:
    """Vectors from what is written, one strength for all groups."""
    survey, lm, layer = bench.survey, bench.answers.lm, bench.answers.hook_layer
    asked = sorted({int(q) for split in bench.splits for q in spread(split.test, QUESTIONS)})
    groups = range(len(survey.groups))
    own = [persona("portray", survey, group) for group in groups]
    other = [contrary(survey.attributes[group], survey.groups[group]) for group in groups]
    written = {}
    for q in progress(asked, "persona vectors"):
        stem = survey.questions[q].text
        one, two = (mean_written(lm, [f"{text}\n\n{stem}" for text in side], layer) for side in (own, other))
        written[q] = one - two

    def fit(split: Split) -> DenseOffset:
        seen = [vectors for q, vectors in written.items() if q in split.train]
        if not seen:
            raise ValueError(f"split {split.name!r}: nothing was written to any of its training questions")
        v = torch.stack(seen).mean(0)
        nothing = DenseOffset(survey.groups, v.shape[1])
        return best_of(bench, split, [nothing.with_parts(deviation=s * v) for s in STRENGTHS])

    return steered(bench, fit, len(survey.groups) * lm.width)


def contrary(attribute: str, group: str) -> str:
    """The instruction not to be of the group."""
    return (
        f"Put yourself in the place of somebody who is not {describe(attribute, group)}. Answer as this person would."
    )


@torch.no_grad()
def mean_written(lm: LanguageModel, texts: Sequence[str], layer: int, tokens: int = WRITTEN) -> Float[Tensor, "text d"]:
    """x after the hook layer, averaged over the tokens that the model writes after each text, as it reads them back;
    the last is never read. All texts in one batch, padded on the left; a text that has ended counts no further."""
    tokenizer, total, count = lm.tokenizer, torch.zeros(len(texts), lm.width), torch.zeros(len(texts), 1)
    rows = [prompt_tokens(tokenizer, in_turn(tokenizer, text)) for text in texts]
    longest, end = max(map(len, rows)), tokenizer.eos_token_id
    padding = end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    ids = torch.tensor([[padding] * (longest - len(row)) + row for row in rows], device=lm.device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=lm.device)
    model: Any = lm.model  # whose `generate` has no types
    streams: list[Tensor] = []

    def keep(module: nn.Module, args: tuple, output: Tensor) -> None:
        streams.append(output[:, -1].float())

    handle = lm.layers[layer].register_forward_hook(keep)
    try:
        settings = {"max_new_tokens": tokens, "min_new_tokens": 2, "do_sample": False, "pad_token_id": padding}
        whole = model.generate(input_ids=ids, attention_mask=mask, **settings)
    finally:
        handle.remove()
    there = (whole[:, longest:] != end).cummin(1).values.float().cpu()
    for place, x in enumerate(streams[1:]):  # the first is the prompt's last token
        total += there[:, place : place + 1] * x.cpu()
        count += there[:, place : place + 1]
    return total / count.clamp_min(1)
