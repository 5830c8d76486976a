"""Steer text: a group's offset while Hugging Face's `generate` writes, and the groups' answers side by side."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from opinion_sae.delta.offsets import Offset
from opinion_sae.methods.personas import in_turn
from opinion_sae.model.language_model import LanguageModel
from opinion_sae.sae.autoencoder import SparseAutoencoder


def hook_layer_of(sae: SparseAutoencoder | None) -> int:
    """The layer that an SAE reads, from its metadata: N of `blocks.N.hook_resid_post`.

    Raises ValueError if there is no SAE or its metadata does not say.
    """
    name = None if sae is None else sae.metadata.get("hook_name")
    found = re.fullmatch(r"blocks\.(\d+)\.hook_resid_post", str(name))
    if found is None:
        raise ValueError(
            f"the layer is not known: the SAE's metadata has hook_name {name!r}, expected blocks.<N>.hook_resid_post; "
            "give hook_layer"
        )
    return int(found.group(1))


def check_belongs(about: Mapping[str, str], lm: LanguageModel, hook_layer: int) -> None:
    """Raise ValueError, naming both sides, if offsets were read from a file that names another model or layer.

    `about` is the offset's own; a hash of the model stands for its name, and a model given as a path may have any.
    """
    here = {"hook_layer": str(hook_layer)}
    if "model_sha256" in about:
        here["model_sha256"] = lm.sha256
    elif not Path(lm.name).expanduser().exists():
        here["model"] = lm.name
    for key, value in here.items():
        if about.get(key, value) != value:
            raise ValueError(f"offsets fitted with {key} {about[key]}, but used with {key} {value}")


@contextmanager
def steer(
    lm: LanguageModel,
    delta: Offset,
    group: str | Sequence[str],
    strength: float = 1.0,
    hook_layer: int | None = None,
) -> Iterator[None]:
    """While the block runs, move the residual stream after the hook layer by `strength` times a group's offset:

        x_g = x + decode(max(z + strength Delta_g, 0)) - decode(z)

    at the last position of every forward pass. Under `lm.model.generate` that is the last prompt token, where Delta was
    fitted, and then each token written, when it is read back. The prompt's other tokens stay as they are, so padding
    must be on the left and generate's cache in use, as it is by default. Strength 0 changes nothing at all.

    `group` is one name for all rows of the batch, or a name for each row. The layer is that of the SAE's metadata
    unless `hook_layer` says otherwise; a DenseOffset needs it. Raises KeyError for a group without an offset,
    ValueError for a layer that is not known, a batch of another size than `group`, or an offset whose file names
    another model or layer.
    """
    layer = hook_layer_of(delta.sae) if hook_layer is None else hook_layer
    lm.check_layer(layer)
    check_belongs(delta.about, lm, layer)
    names = [group] if isinstance(group, str) else list(group)
    part = delta.for_groups(list(dict.fromkeys(names))).scaled(strength)
    which = torch.tensor([part.groups.index(name) for name in names])

    def move_last(module: nn.Module, args: tuple, output: Float[Tensor, "row token d"]) -> Tensor:
        rows = len(output)
        if len(which) not in (1, rows):
            raise ValueError(f"{len(which)} groups for a batch of {rows} rows; give one group, or one for each row")
        moved = part.steer(output[:, -1].float())  # row group d, in float32: offsets are small
        output = output.clone()
        output[:, -1] = moved[torch.arange(rows), which.expand(rows)].to(output.dtype)
        return output

    handle = lm.layers[layer].register_forward_hook(move_last)
    try:
        yield
    finally:
        handle.remove()


def generate_answers(
    lm: LanguageModel,
    question: str,
    delta: Offset,
    groups: Sequence[str] | None = None,
    *,
    strength: float = 1.0,
    tokens: int = 40,
    seed: int | None = None,
    hook_layer: int | None = None,
) -> pd.DataFrame:
    """What the model writes to one open question, unsteered and under each group's offset; all groups in one batch.

    Greedy without a `seed`, so that the unsteered answer is one and the same. With a seed, sampled at temperature 0.8
    (top-p 0.95), both columns of a row from the same random numbers. At most `tokens` tokens each. Columns: group,
    unsteered, steered.
    """
    groups = list(delta.groups if groups is None else groups)
    with steer(lm, delta, groups, strength, hook_layer):
        steered = continuations(lm, question, len(groups), tokens, seed)
    alone = 1 if seed is None else len(groups)  # greedy rows would all be the same
    unsteered = continuations(lm, question, alone, tokens, seed) * (len(groups) // alone)
    return pd.DataFrame({"group": groups, "unsteered": unsteered, "steered": steered})


@torch.no_grad()
def continuations(lm: LanguageModel, question: str, rows: int, tokens: int, seed: int | None) -> list[str]:
    """`rows` continuations of the same prompt."""
    tokenizer = lm.tokenizer
    prompt = in_turn(tokenizer, question)
    ids = tokenizer(prompt, add_special_tokens=not tokenizer.chat_template, return_tensors="pt")["input_ids"]
    ids = ids.to(lm.device).expand(rows, -1)
    sampling = {"do_sample": False}
    if seed is not None:
        torch.manual_seed(seed)
        sampling = {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "top_k": 0}
    padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    mask = torch.ones_like(ids)
    written = lm.model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=tokens, pad_token_id=padding, **sampling
    )
    return [text.strip() for text in tokenizer.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)]
