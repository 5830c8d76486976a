"""The residual stream after every layer at the places of a prompt that offsets read, from one pass over the prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from opinion_sae.methods.question_tokens import padded_batches
from opinion_sae.model.activations import content
from opinion_sae.model.language_model import LanguageModel
from opinion_sae.model.prompts import Prompt
from opinion_sae.model.reading import PLACES
from opinion_sae.progress import progress


@torch.no_grad()
def place_streams(lm: LanguageModel, prompts: Sequence[Prompt]) -> Float[Tensor, "place layer item d"]:
    r"""One vector for each place (`reading.PLACES`) and layer of every prompt; the first is the embedding.

        last       x_T, T the last token
        question   mean_t x_t, t the tokens of the question and its options
        options    mean_o s_o x_end(o), end(o) an option's last token, s_o from -1 (the first to stand there) to 1

    x is the stream before the first layer and after each, in float32. As in `QuestionTokens`, attention sinks are left
    out of the question. ValueError where it is not known which tokens are the question.
    """
    if not all(prompt.asked for prompt in prompts):
        raise ValueError(
            f"model {lm.name}: its tokenizer has no fast version, so it is not known which tokens are what"
        )
    found = torch.empty(len(PLACES), len(lm.layers) + 1, len(prompts), lm.width)
    for items, tokens, real in progress(padded_batches(lm, prompts), "prompts"):
        weights = _weights([prompts[item] for item in items], tokens.shape[1])
        positions, masks = lm.causal(*tokens.shape)
        hidden = lm.embed(tokens)
        for layer in range(len(lm.layers) + 1):
            if layer:
                hidden = lm.run_layers(hidden, range(layer - 1, layer), positions, masks)
            x = hidden.float().cpu()
            question = weights[1] * content(x, real)
            counted = torch.stack([weights[0], question / question.sum(1, keepdim=True).clamp_min(1), weights[2]])
            found[:, layer, items] = torch.einsum("pit,itd->pid", counted, x)
    return found


def _weights(prompts: Sequence[Prompt], length: int) -> Float[Tensor, "place item token"]:
    """How much each token counts in each place; in the question 1."""
    weights = torch.zeros(len(PLACES), len(prompts), length)
    for row, prompt in enumerate(prompts):
        weights[0, row, len(prompt.tokens) - 1] = 1
        weights[1, row, slice(*prompt.asked)] = 1
        ends = [prompt.ends[option] for option in prompt.order]
        weights[2, row, ends] = torch.linspace(-1, 1, len(ends)) / len(ends)
    return weights
