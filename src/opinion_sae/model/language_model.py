"""A decoder-only language model whose layers can be called one by one."""

from __future__ import annotations

import hashlib
import inspect
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from opinion_sae.model.attention import use_products
from opinion_sae.model.weights import load_weights
from opinion_sae.products import Linear, linear

Edit = Callable[[Float[Tensor, "batch token d"]], Float[Tensor, "batch token d"]]


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """The parts of a Hugging Face decoder that the method needs, under one set of names.

    Any family fits whose backbone has `layers`, a rotary embedding and a final norm (Llama, Qwen2, Gemma 2,
    Gemma 3's text models, GPT-NeoX).
    The weights are frozen. `hook_layer` means everywhere: after the layer of that index, counted from 0.
    """

    name: str
    model: transformers.PreTrainedModel
    tokenizer: transformers.PreTrainedTokenizerBase
    layers: nn.ModuleList
    norm: nn.Module
    rotary: nn.Module
    sha256: str

    @property
    def width(self) -> int:
        """Size d of the residual stream."""
        return self.model.config.hidden_size

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def tokens_per_batch(self) -> int:
        """As many as keep a GPU busy; on a CPU as few as its caches hold between two layers."""
        return 1024 if self.device.type == "cpu" else 8192

    @property
    def device(self) -> torch.device:
        return next(self.model.get_input_embeddings().parameters()).device

    def key(self, *about: object) -> str:
        """A hash of `about` and of all else that passes depend on: model, versions, and the code of this room."""
        known = [self.sha256, str(self.dtype), torch.__version__, transformers.__version__, *about]
        digest = hashlib.sha256(json.dumps(known).encode())
        for module in sorted(Path(__file__).parent.glob("*.py")):
            digest.update(module.read_bytes())
        return digest.hexdigest()

    def layer_device(self, index: int) -> torch.device:
        """Where a layer lies; accelerate may spread them over several GPUs."""
        return next(self.layers[index].parameters()).device

    def check_layer(self, hook_layer: int) -> None:
        """Raise ValueError unless a layer of this index exists with at least one layer above it."""
        if not 0 <= hook_layer < len(self.layers) - 1:
            raise ValueError(
                f"hook_layer {hook_layer}: {self.name} has {len(self.layers)} layers, so it must lie in "
                f"0..{len(self.layers) - 2}"
            )

    def embed(self, tokens: Int[Tensor, "batch token"]) -> Float[Tensor, "batch token d"]:
        """The residual stream before the first layer, in float32 whatever the weights' type."""
        return self.model.get_input_embeddings()(tokens.to(self.device)).float()

    def mixed_precision(self) -> AbstractContextManager:
        """With bfloat16 weights, products run in bfloat16 but the residual stream stays in float32.

        A stream in bfloat16 keeps three digits, which would round a small offset away.
        """
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def run_layers(
        self,
        hidden: Float[Tensor, "batch token d"],
        which: range,
        positions: Int[Tensor, "batch token"],
        masks: dict[str, Float[Tensor, "batch 1 token key"]],
        cache: object | None = None,
    ) -> Float[Tensor, "batch token d"]:
        """Residual stream after the layers in `which`, given the stream before the first of them.

        `masks` are those of `attention_masks`; `cache` is anything with the `update` of transformers' caches.
        """
        rotary = self.rotations(hidden, which, positions.to(hidden.device))
        with self.mixed_precision():
            for index in which:
                hidden = self.layers[index](
                    hidden,
                    attention_mask=masks[self.attention_type(index)].to(hidden.device),
                    position_ids=positions,
                    position_embeddings=rotary[self.attention_type(index)],
                    past_key_values=cache,
                    layer_past=cache,  # GPT-NeoX's name for the same argument
                    use_cache=cache is not None,
                )
        return hidden

    def rotations(
        self, hidden: Float[Tensor, "batch token d"], which: range, positions: Int[Tensor, "batch token"]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Cosines and sines of the positions by the attention type of the layers in `which`: the same for all of them,
        but for Gemma 3, whose layers with a window turn by angles of their own."""
        types = {self.attention_type(index) for index in which}
        if "layer_type" in inspect.signature(self.rotary.forward).parameters:
            return {name: self.rotary(hidden, positions, name) for name in types}
        same = self.rotary(hidden, positions)
        return {name: same for name in types}

    def attention_type(self, index: int) -> str:
        """'full_attention' or 'sliding_attention', for the layer of this index."""
        types = getattr(self.model.config, "layer_types", None)
        if types is not None:
            return types[index]
        return "full_attention" if self.window is None else "sliding_attention"

    @property
    def window(self) -> int | None:
        """Width of sliding-window attention in tokens, None where the model has none."""
        return getattr(self.model.config, "sliding_window", None)

    def attention_masks(
        self,
        visible: Bool[Tensor, "batch token key"],
        distance: Int[Tensor, "batch token key"],
    ) -> dict[str, Float[Tensor, "batch 1 token key"]]:
        """Additive masks by attention type: 0 where a key is seen, the lowest finite number where it is not.

        `visible` says which keys exist for a query, `distance` is query position minus key position.
        """
        masks = {"full_attention": self._additive(visible)}
        if self.window is not None:
            masks["sliding_attention"] = self._additive(visible & (distance < self.window))
        return masks

    def _additive(self, visible: Bool[Tensor, "batch token key"]) -> Float[Tensor, "batch 1 token key"]:
        mask = torch.zeros(visible.shape, dtype=self.dtype, device=visible.device)
        return mask.masked_fill(~visible, torch.finfo(self.dtype).min)[:, None]

    def causal(self, batch: int, length: int) -> tuple[Int[Tensor, "batch token"], dict]:
        """Positions and masks of plain causal attention. Padding on the right needs no mask of its own."""
        positions = torch.arange(length, device=self.device).expand(batch, length)
        distance = positions[:, :, None] - positions[:, None, :]
        return positions, self.attention_masks(distance >= 0, distance)

    @torch.no_grad()
    def residual(self, tokens: Int[Tensor, "batch token"], hook_layer: int) -> Float[Tensor, "batch token d"]:
        """Residual stream after `hook_layer` at every token; the layers above do not run."""
        positions, masks = self.causal(*tokens.shape)
        return self.run_layers(self.embed(tokens), range(hook_layer + 1), positions, masks)

    def logits(
        self, hidden: Float[Tensor, "*batch d"], tokens: Int[Tensor, "*batch option"] | None = None
    ) -> Float[Tensor, "*batch option"]:
        """Logits in float32 from the stream after the last layer, of all tokens or of those named per position."""
        with self.mixed_precision():
            hidden = self.norm(hidden)
        head: Any = self.model.get_output_embeddings()
        if tokens is None:
            logits = head(hidden.to(self.dtype)).float()
        else:
            rows = head.weight[tokens.to(head.weight.device)].float()
            logits = torch.einsum("...d,...od->...o", hidden.float().to(rows.device), rows)
            if head.bias is not None:
                logits = logits + head.bias[tokens.to(rows.device)].float()
        softcap = getattr(self.model.config, "final_logit_softcapping", None)
        return logits if softcap is None else softcap * torch.tanh(logits / softcap)

    @torch.no_grad()
    def next_token_loss(
        self,
        tokens: Int[Tensor, "batch token"],
        hook_layer: int | None = None,
        edit: Edit | None = None,
    ) -> Float[Tensor, "batch token-1"]:
        """Cross-entropy in nats of each next token, with the stream after `hook_layer` replaced by `edit` of it."""
        positions, masks = self.causal(*tokens.shape)
        hidden = self.embed(tokens)
        split = 0
        if edit is not None:
            split = hook_layer + 1
            hidden = self.run_layers(hidden, range(split), positions, masks)
            hidden = edit(hidden)
        hidden = self.run_layers(hidden, range(split, len(self.layers)), positions, masks)
        # row by row: the logits of a whole batch over the vocabulary would be the largest tensor by far
        losses = []
        for row, ids in zip(hidden, tokens, strict=True):
            logits = self.logits(row[:-1])
            losses.append(nn.functional.cross_entropy(logits, ids[1:].to(logits.device), reduction="none"))
        return torch.stack(losses)


def load_language_model(source: str, dtype: str = "auto") -> LanguageModel:
    """Load `packaged:<name>`, a folder, a `.gguf` file or a hub id, ready for `AnswerPath` and `activations`.

    `dtype` is 'float32', 'bfloat16', or 'auto': bfloat16 where a measured probe finds it faster.
    Raises what `load_weights` raises, and ValueError for a model whose layers cannot be called one by one.
    """
    model, tokenizer, sha256 = load_weights(source, resolve_dtype(dtype))
    return wrap(source, model, tokenizer, sha256)


def wrap(
    name: str, model: transformers.PreTrainedModel, tokenizer: transformers.PreTrainedTokenizerBase, sha256: str
) -> LanguageModel:
    """A loaded transformers model as a `LanguageModel`; freezes it and checks that its parts are where we look."""
    model.eval().requires_grad_(False)
    backbone = model.base_model
    norm = getattr(backbone, "norm", None) or getattr(backbone, "final_layer_norm", None)
    parts = {"layers": getattr(backbone, "layers", None), "rotary_emb": getattr(backbone, "rotary_emb", None)}
    missing = [part for part, found in {**parts, "norm": norm}.items() if found is None]
    known = {"full_attention", "sliding_attention"}
    unknown = set(getattr(model.config, "layer_types", None) or known) - known
    if missing or unknown:
        raise ValueError(
            f"model {name} ({model.config.model_type}): its layers cannot be called one by one here "
            f"(missing {missing}, attention types {sorted(unknown)}); Llama, Qwen2, Gemma 2, Gemma 3 and GPT-NeoX can"
        )
    if any(weight.device.type == "meta" for weight in model.parameters()):
        raise ValueError(
            f"model {name}: it does not fit in the memory of this machine's GPUs; take a smaller one, or hide the GPUs "
            "to run it on the CPU (CUDA_VISIBLE_DEVICES= make book ...)"
        )
    for module in model.modules():
        if isinstance(module, nn.LayerNorm) and module.weight.device.type == "cpu":
            module.float()  # GPT-NeoX: on the CPU torch's LayerNorm wants its weights as wide as the stream
    # generate's first step passes a slice; torch then copies the whole unembedding once per row, gigabytes at a time
    head: Any = model.get_output_embeddings()
    head.register_forward_pre_hook(lambda module, args: (args[0].contiguous(),))
    lm = LanguageModel(name, model, tokenizer, parts["layers"], norm, parts["rotary_emb"], sha256)
    text = tokenizer("Question: do you read a newspaper every day?", return_tensors="pt")
    tokens = text["input_ids"].to(lm.device)
    with (
        torch.no_grad(),
        lm.mixed_precision(),
    ):  # from the same stream in float32, or rounding alone would make them differ
        expected = model(inputs_embeds=lm.embed(tokens), use_cache=False).logits.float()
    if lm.device.type == "cpu":
        use_products(model)
        for module in model.modules():
            if type(module) is nn.Linear:
                module.__class__ = Linear  # the same layer with another product
    check_layer_by_layer(lm, tokens, expected)
    return lm


@torch.no_grad()
def check_layer_by_layer(
    lm: LanguageModel, tokens: Int[Tensor, "1 token"], expected: Float[Tensor, "1 token vocabulary"]
) -> None:
    """Raise ValueError unless calling the layers one by one gives `expected`, the whole model's logits as transformers
    runs it.

    Some families scale embeddings or logits outside the layers, or do more in attention than `attention.py` knows;
    without this they would answer wrongly in silence.
    """
    try:
        found = lm.logits(lm.residual(tokens, len(lm.layers) - 1)).to(expected.device)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"model {lm.name} ({lm.model.config.model_type}): its layers cannot be called one by one: {error}"
        ) from error
    off = ((found - expected).norm() / (expected - expected.mean()).norm()).item()
    if not off < (1e-3 if lm.dtype == torch.float32 else 0.2):  # bfloat16 alone may be off by some hundredths
        raise ValueError(
            f"model {lm.name} ({lm.model.config.model_type}): called layer by layer its logits are off by {off:.0%}, "
            "so this family does more between its layers, or in attention, than is known here"
        )


def resolve_dtype(name: str) -> torch.dtype:
    """The torch dtype of a profile's `dtype`; 'auto' measures a matrix product in both precisions."""
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name in named:
        return named[name]
    if name != "auto":
        raise ValueError(f"dtype {name!r} is not one of auto, float32, bfloat16")
    if torch.cuda.is_available():
        return torch.bfloat16
    return min(named.values(), key=_seconds_per_product)


def _seconds_per_product(dtype: torch.dtype) -> float:
    a, b = torch.ones(256, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
    linear(a, b)
    start = time.perf_counter()
    for _ in range(8):
        linear(a, b)
    return time.perf_counter() - start
