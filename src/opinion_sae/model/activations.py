"""The residual stream of a model over plain text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import save_file
from torch import Tensor

from opinion_sae.artifacts import check_numbers, read_tensors, replacing
from opinion_sae.model.language_model import LanguageModel
from opinion_sae.progress import progress

SINK_NORM = 5.0  # in medians: tokens with a longer residual are attention sinks, not content
PROMPT_ENDS = 64  # times that a prompt's last token counts in training: offsets act there, and there is one a prompt


class Windows(NamedTuple):
    """A batch of text windows, padded on the right; `real` is False at the padding."""

    tokens: Int[Tensor, "batch token"]
    real: Bool[Tensor, "batch token"]


class Shard(NamedTuple):
    """One of the parts into which extraction is cut: whole batches, since padding and sinks depend on the batch."""

    number: int = 0
    of: int = 1

    def part(self, batches: Sequence[Windows]) -> Sequence[Windows]:
        """This shard's batches; those of all shards, one after another, are all. None if there are fewer than `of`."""
        start, end = (n * len(batches) // self.of for n in (self.number, self.number + 1))
        return batches[start:end]


def text_windows(
    lm: LanguageModel, texts: Sequence[str], length: int = 128, tokens_per_batch: int = 4096
) -> list[Windows]:
    """Texts cut into windows of at most `length` tokens, in batches of like length.

    Every window starts with BOS where the tokenizer has one, as the model (and Gemma Scope) was trained with it. Pieces
    of fewer than four tokens are left out. Raises ValueError if nothing remains.
    """
    bos = [lm.tokenizer.bos_token_id] if lm.tokenizer.bos_token_id is not None else []
    body = length - len(bos)
    pieces = []
    for text in texts:
        ids = lm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if bos and ids[:1] == bos:  # a rendered chat prompt brings its own
            ids = ids[1:]
        pieces += [bos + ids[i : i + body] for i in range(0, len(ids), body)]
    pieces = sorted((piece for piece in pieces if len(piece) >= 4), key=len, reverse=True)
    if not pieces:
        raise ValueError(f"no text of four tokens or more among the {len(texts)} texts given")
    batches, start = [], 0
    while start < len(pieces):
        rows = pieces[start : start + max(1, tokens_per_batch // len(pieces[start]))]
        tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        batches.append(Windows(tokens, torch.arange(tokens.shape[1]) < lengths[:, None]))
        start += len(rows)
    return batches


def content(residual: Float[Tensor, "batch token d"], real: Bool[Tensor, "batch token"]) -> Bool[Tensor, "batch token"]:
    """Which tokens are real and no attention sinks (residual norm at most SINK_NORM medians)."""
    norm = residual.norm(dim=-1)
    return real & (norm <= SINK_NORM * norm[real].median())


def activations(
    lm: LanguageModel, texts: Sequence[str], hook_layer: int, length: int = 128, ends: int = 1
) -> Float[Tensor, "token d"]:
    """Residual stream after `hook_layer` at every token of the texts, in float32, without padding and sinks.

    The layers above the hook are not run. Attention sinks (mostly the first token) have norms many times the others',
    carry no content, and keep an SAE from training, so they are dropped. A window's last token comes `ends` times.
    """
    lm.check_layer(hook_layer)
    return stream(lm, text_windows(lm, texts, length, lm.tokens_per_batch), hook_layer, ends)


def stream(lm: LanguageModel, batches: Sequence[Windows], hook_layer: int, ends: int = 1) -> Float[Tensor, "token d"]:
    """`activations` at these batches; no token if there is none."""
    found = [torch.empty(0, lm.width)]
    for tokens, real in progress(batches, "activations"):
        residual = lm.residual(tokens, hook_layer).cpu()
        found.append(residual[content(residual, real)])
        found += [residual[torch.arange(len(real)), real.sum(1) - 1]] * (ends - 1)
    return torch.cat(found)


class Activations(NamedTuple):
    """What an SAE is trained and judged on."""

    tokens: Float[Tensor, "token d"]
    held_out: Float[Tensor, "held_out d"]


def save_activations(folder: Path, found: Activations) -> None:
    """Write `activations.safetensors`, in float16: half the size, and three digits are enough to train on."""
    with replacing(folder / "activations.safetensors") as side:
        save_file({name: x.half() for name, x in found._asdict().items()}, side)


def load_activations(folder: Path) -> Activations:
    """What `save_activations` wrote, in float32."""
    path = folder / "activations.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no activations there; run chapter 03_sae first")
    _, tensors = read_tensors(path)
    check_numbers(path, tensors)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if set(shapes) != set(Activations._fields) or len({shape[1:] for shape in shapes.values()}) > 1:
        raise ValueError(f"{path}: expected {' and '.join(Activations._fields)} of one width, found {shapes}")
    return Activations(**{name: x.float() for name, x in tensors.items()})
