"""Steer text: a group's offset while Hugging Face's `generate` writes, and the groups' answers side by side."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers
from jaxtyping import Bool, Float
from torch import Tensor, nn

from opinion_sae.delta.offsets import Offset
from opinion_sae.effects.readers import so_far
from opinion_sae.methods.personas import in_turn
from opinion_sae.model.activations import content
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


class Moving:
    """The hooks of `steer`, for the rows' groups. What an offset reads is taken from the prompt at the prompt's pass,
    and stays that while text is written."""

    def __init__(self, offset: Offset, names: Sequence[str], asked: slice | None):
        self.offset, self.asked = offset, asked
        self.which = torch.tensor([offset.groups.index(name) for name in names])
        self.read: Tensor | None = None
        self.prompt, self.mask = True, None

    def begin(self, module: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> None:
        """Before a pass of the model: whether it is a prompt's, and where that is padded."""
        cache = kwargs.get("past_key_values")
        self.prompt, self.mask = cache is None or cache.get_seq_length() == 0, kwargs.get("attention_mask")

    def move(self, module: nn.Module, args: tuple, output: Float[Tensor, "row token d"]) -> Tensor:
        """After the hook layer: the last position moved, in float32, as offsets are small."""
        rows = len(output)
        if len(self.which) not in (1, rows):
            raise ValueError(
                f"{len(self.which)} groups for a batch of {rows} rows; give one group, or one for each row"
            )
        if self.offset.reads and (self.prompt or self.read is None or len(self.read) != rows):
            real = torch.ones(output.shape[:2], dtype=torch.bool, device=output.device)
            if self.mask is not None and self.mask.shape == real.shape:
                real = self.mask.bool().to(output.device)
            self.read = read_of_prompts(self.offset, output.float(), real, self.asked)
        moved = self.offset.steer(output[:, -1].float(), self.read)  # row group d
        output = output.clone()
        output[:, -1] = moved[torch.arange(rows), self.which.expand(rows)].to(output.dtype)
        return output


def read_of_prompts(
    offset: Offset, x: Float[Tensor, "row token d"], real: Bool[Tensor, "row token"], asked: slice | None = None
) -> Float[Tensor, "row read"]:
    """What an offset reads of free prompts, each by itself, without padding and attention sinks.

    'question': all tokens, or those of `asked`; 'last': the last one; 'options', of which a free prompt has none:
    nothing, so that a latent offset moves by its constant part alone and a dense one as at the mean question.
    """
    if asked is not None and offset.reads == "question":
        inside = torch.zeros_like(real)
        inside[:, asked] = True
        real = real & inside
    found = []
    for stream, there in zip(x, real, strict=True):
        read = so_far(offset, stream[content(stream[None], there[None])[0]])
        assert read is not None  # the offset reads
        found.append(read[-1])
    return torch.stack(found).to(x.device)


@contextmanager
def steer(
    lm: LanguageModel,
    delta: Offset,
    group: str | Sequence[str],
    strength: float = 1.0,
    hook_layer: int | None = None,
    asked: slice | None = None,
) -> Iterator[None]:
    """While the block runs, move the residual stream after the hook layer by `strength` times a group's offset:

        x_g = x + decode(max(z + strength Delta_g, 0)) - decode(z)

    at the last position of every forward pass. Under `lm.model.generate` that is the last prompt token, where Delta was
    fitted, and then each token written, when it is read back. The prompt's other tokens stay as they are, so padding
    must be on the left and generate's cache in use, as it is by default. Strength 0 changes nothing at all.

    An offset that reads the question reads each row's prompt (`read_of_prompts`), once, and moves all tokens written by
    what it read there. `asked` says which tokens of the rows, padding counted, are the question; all if it is not
    given.

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
    moving = Moving(part.to(lm.layer_device(layer)), names, asked)
    handles = [
        lm.layers[layer].register_forward_hook(moving.move),
        lm.model.register_forward_pre_hook(moving.begin, with_kwargs=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
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
    (top-p 0.95), both columns of a row from the same random numbers. At most `tokens` tokens each. An offset that reads
    the question reads its tokens, not those of the chat template. Columns: group, unsteered, steered.
    """
    groups = list(delta.groups if groups is None else groups)
    with steer(lm, delta, groups, strength, hook_layer, asked_tokens(lm.tokenizer, question)):
        steered = continuations(lm, question, len(groups), tokens, seed)
    alone = 1 if seed is None else len(groups)  # greedy rows would all be the same
    unsteered = continuations(lm, question, alone, tokens, seed) * (len(groups) // alone)
    return pd.DataFrame({"group": groups, "unsteered": unsteered, "steered": steered})


def asked_tokens(tokenizer: transformers.PreTrainedTokenizerBase, question: str) -> slice | None:
    """Which tokens of an open question's prompt are the question; None if the tokenizer cannot say, or none is."""
    if not tokenizer.is_fast:
        return None
    prompt, text = in_turn(tokenizer, question), question.strip()
    start = prompt.rindex(text)
    places = tokenizer(prompt, add_special_tokens=not tokenizer.chat_template, return_offsets_mapping=True)
    inside = [i for i, (begin, end) in enumerate(places["offset_mapping"]) if begin < start + len(text) and end > start]
    return slice(inside[0], inside[-1] + 1) if inside else None


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
