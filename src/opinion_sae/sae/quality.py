"""What an SAE costs the model: variance left unexplained, latents active, and next-token loss when it is spliced in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from opinion_sae.losses import reconstruction
from opinion_sae.model.activations import activations, content, text_windows
from opinion_sae.model.language_model import LanguageModel
from opinion_sae.progress import progress
from opinion_sae.sae.autoencoder import SparseAutoencoder, check_fits, load_sae
from opinion_sae.sae.train import train_sae, unexplained


def obtain_sae(
    source: str,
    lm: LanguageModel,
    tokens: Float[Tensor, "token d"],
    held_out: Float[Tensor, "held_out d"],
    hook_layer: int,
    **training: Any,
) -> tuple[SparseAutoencoder, pd.DataFrame]:
    """The SAE of a profile: trained on the activations if `source` is 'train', else loaded and held against the model.

    `training` goes to `train_sae`, whose weights are then rounded by `as_float16_holds`. The history of a loaded SAE is
    empty.
    """
    if source != "train":
        sae = load_sae(source)
        note = check_fits(sae, source, lm.name, lm.width, hook_layer)
        if note:
            print(note)  # the chapter shows it
        return sae, pd.DataFrame(columns=["step", "fvu", "validation_fvu", "l0", "dead"], dtype=float)
    metadata = {
        "model_name": lm.name,
        "hook_name": f"blocks.{hook_layer}.hook_resid_post",
        "prepend_bos": lm.tokenizer.bos_token_id is not None,
    }
    sae, history = train_sae(tokens, validation=held_out, dtype=lm.dtype, metadata=metadata, **training)
    return as_float16_holds(sae), history


@torch.no_grad()
def as_float16_holds(sae: SparseAutoencoder) -> SparseAutoencoder:
    """The SAE with each weight at the nearest value that float16 has, in its own precision and in place; as it is if
    one lies beyond, since such an SAE is not published.

    A run publishes its SAE in float16: what offsets are fitted to is then the published SAE, to the bit.
    """
    rounded = [weight.half() for weight in sae.parameters()]
    if all(weight.isfinite().all() for weight in rounded):
        for weight, value in zip(sae.parameters(), rounded, strict=True):
            weight.copy_(value)
    return sae


class PlainText(NamedTuple):
    """What SAEs are held against on some texts: activations, and the model's loss with nothing in their place."""

    x: Float[Tensor, "token d"]
    ce_model: float  # nats, as it is
    ce_ablated: float  # nats, with zeros instead of the residual stream


@torch.no_grad()
def plain_text(lm: LanguageModel, texts: Sequence[str], hook_layer: int) -> PlainText:
    """The part of `sae_quality` that is the same for every SAE."""
    losses = [spliced_loss(lm, texts, hook_layer, edit) for edit in (lambda x: x, torch.zeros_like)]
    return PlainText(activations(lm, texts, hook_layer), *losses)


@torch.no_grad()
def sae_quality(
    lm: LanguageModel,
    sae: SparseAutoencoder,
    texts: Sequence[str],
    hook_layer: int,
    at_answers: Float[Tensor, "item d"],
    plain: PlainText | None = None,
    at_questions: Float[Tensor, "question_token d"] | None = None,
) -> dict[str, float | int]:
    """Numbers for `sae.json`, on texts that the SAE was not trained on.

    fvu, l0, dead_fraction (latents that fire on none of these tokens); fvu and l0 at the survey prompts' last token,
    where offsets write, and fvu at their questions' tokens, which offsets read, if these are given; and the model's
    next-token cross-entropy in nats as it is (ce_model), with the SAE's output in place of the residual stream
    (ce_spliced) and with zeros there (ce_ablated). ce_recovered = (ablated - spliced) / (ablated - model).
    Attention sinks stay as they are in all three, since SAEs are not trained on them. To judge several SAEs on the same
    texts, give what `plain_text` says of them.
    """
    plain = plain_text(lm, texts, hook_layer) if plain is None else plain
    x, active = plain.x, torch.zeros(sae.width, dtype=torch.long)
    for part in x.split(4096):
        active += (sae.encode(part) > 0).sum(0).cpu()
    spliced = spliced_loss(lm, texts, hook_layer, sae)
    at_prompts = sae.encode(at_answers) > 0
    if at_questions is None or not len(at_questions):  # a tokenizer that does not say where the question lies
        read = {}
    else:
        read = {"fvu_at_questions": unexplained(sae, at_questions)}
    return {
        "tokens": len(x),
        "fvu": unexplained(sae, x),
        "l0": active.sum().item() / len(x),
        "dead_fraction": (active == 0).float().mean().item(),
        "fvu_at_answers": reconstruction(at_answers, sae(at_answers)).item(),
        "l0_at_answers": at_prompts.sum(-1).float().mean().item(),
        "latents_at_answers": int(at_prompts.any(0).sum()),
        **read,
        "ce_model": plain.ce_model,
        "ce_spliced": spliced,
        "ce_ablated": plain.ce_ablated,
        "ce_recovered": (plain.ce_ablated - spliced) / (plain.ce_ablated - plain.ce_model),
    }


@torch.no_grad()
def spliced_loss(lm: LanguageModel, texts: Sequence[str], hook_layer: int, edit: Callable[[Tensor], Tensor]) -> float:
    """Mean next-token cross-entropy in nats over the texts, with `edit` applied to the stream at content tokens."""
    total, count = 0.0, 0
    for tokens, real in progress(text_windows(lm, texts), "spliced loss"):

        def at_content(x: Tensor, real: Tensor = real) -> Tensor:
            return torch.where(content(x, real.to(x.device))[..., None], edit(x), x)

        losses = lm.next_token_loss(tokens, hook_layer, at_content).cpu()
        total += losses[real[:, 1:]].sum().item()
        count += int(real[:, 1:].sum())
    return total / count
