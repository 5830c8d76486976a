"""Answers from the hook layer up: each prompt is run once, every offset after that costs one token.

The offset acts on the last prompt token only. Everything below the hook layer, and the keys and values of the earlier
tokens above it, never change, so they are computed once and kept. The offsets of all groups are then run side by side
as if they were further tokens of the same prompt, each seeing the prompt and itself but not the others: the kept keys
and values serve all groups without a copy.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import save_file
from torch import Tensor

from opinion_sae.artifacts import read_tensors, replacing
from opinion_sae.model.language_model import LanguageModel
from opinion_sae.model.prompts import Prompt, build_prompts
from opinion_sae.model.reading import Bag, Encoder, Kept, bag_of_latents, mean_stream
from opinion_sae.progress import progress
from opinion_sae.survey import Question

NEVER = -1e4  # logit of an option that a question does not have; finite, so that gradients stay finite


@runtime_checkable
class Steering(Protocol):
    """Anything that moves the residual stream differently for each group."""

    @property
    def reads(self) -> str | None:
        """The place of the prompts that `steer` wants read beside x ('question', say); None: nothing."""
        ...

    def steer(self, x: Float[Tensor, "item d"], read: Tensor | None = None) -> Float[Tensor, "item group d"]: ...


class NextToken(NamedTuple):
    """What the model makes of the token after the prompts, in float64: for each order of a question's options the
    share of each option among them, and the share of the next-token probability that falls on their letters."""

    options: Float[Tensor, "group question order option"]
    mass: Float[Tensor, "group question order"]


class AnswerPath:
    """Option probabilities of a model for a list of questions, unsteered or under an offset per group.

    p(option) is the softmax over the option letters' logits, averaged over `orders` orders of the options. After the
    constructor, `residual` holds x: Float[Tensor, "item d"] in float32, the stream after `hook_layer` at the last
    prompt token, one item per prompt (question-major: item = question * orders + order). `prompts`, one per item, stand
    in for those of `build_prompts`; the tokens that they name are scored as letters are. With `file`, what the prompts
    leave is read from there if the same model, prompts and code left it, and otherwise written to it.
    """

    def __init__(
        self,
        lm: LanguageModel,
        questions: Sequence[Question],
        hook_layer: int,
        orders: int = 2,
        persona: str = "",
        tokens_per_batch: int | None = None,
        prompts: Sequence[Prompt] | None = None,
        file: Path | None = None,
    ):
        lm.check_layer(hook_layer)
        self.lm, self.questions, self.hook_layer, self.orders = lm, tuple(questions), hook_layer, orders
        self.prompts = build_prompts(lm.tokenizer, questions, orders, persona) if prompts is None else list(prompts)
        self.letters, self.has_option = letter_table(self.prompts)
        self.residual = torch.empty(len(self.prompts), lm.width)
        self.kept, self.item = Kept(self.prompts, self.residual, lm.dtype), torch.arange(len(self.prompts))
        self._read: dict[tuple[int, str], tuple[Encoder | None, Bag | Tensor]] = {}
        self.lengths = torch.tensor([len(prompt.tokens) - 1 for prompt in self.prompts])
        self.starts = self.lengths.cumsum(0) - self.lengths
        if file is None or not self._recall(file):
            self._run_prompts(tokens_per_batch or lm.tokens_per_batch)
            if file is not None:
                self._keep(file)

    def _key(self) -> str:
        """A hash of all that the prompts' passes depend on."""
        return self.lm.key(self.hook_layer, [(prompt.tokens, prompt.asked) for prompt in self.prompts])

    def _keep(self, file: Path) -> None:
        tensors = {f"layer-{index}": layer.cpu() for index, layer in self.keys_values.items()}
        with replacing(file) as side:
            save_file(
                tensors | {"residual": self.residual, "stream": self.kept.stream}, side, metadata={"key": self._key()}
            )

    def _recall(self, file: Path) -> bool:
        """Whether the file was left for the same `_key`; if so its tensors are taken, which the system reads as they
        are used."""
        if not file.exists() or read_tensors(file, names=[])[0].get("key") != self._key():
            return False
        tensors = read_tensors(file)[1]
        self.residual.copy_(tensors.pop("residual"))
        self.kept.stream = tensors.pop("stream")
        layers = {int(name.removeprefix("layer-")): layer for name, layer in tensors.items()}
        self.keys_values = {index: layer.to(self.lm.layer_device(index)) for index, layer in layers.items()}
        return True

    @torch.no_grad()
    def _run_prompts(self, tokens_per_batch: int) -> None:
        lengths = self.lengths + 1
        upper = range(self.hook_layer + 1, len(self.lm.layers))
        config = self.lm.model.config
        kept = int(self.lengths.sum())  # all tokens but each prompt's last
        heads = (kept, getattr(config, "num_key_value_heads", config.num_attention_heads))
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        # two tensors a layer, filled in place: the only large things this object holds
        self.keys_values = {
            index: torch.empty(2, *heads, head_dim, dtype=self.lm.dtype, device=self.lm.layer_device(index))
            for index in upper
        }
        for items in progress(length_batches(lengths, tokens_per_batch), "prompts"):
            rows = [torch.tensor(self.prompts[i].tokens) for i in items]
            tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
            positions, masks = self.lm.causal(*tokens.shape)
            hidden = self.lm.run_layers(self.lm.embed(tokens), range(self.hook_layer + 1), positions, masks)
            last = hidden[torch.arange(len(items)), lengths[items] - 1]
            self.residual[items] = last.cpu()
            for row, item in enumerate(items):
                self.kept.record(item, hidden[row])
            self.lm.run_layers(hidden, upper, positions, masks, Recorder(self, items))

    def for_questions(self, questions: Int[Tensor, "question"]) -> AnswerPath:
        """The same prompts, already run, for some of the questions; shares the kept keys and values."""
        items = self.items(questions)
        part = copy.copy(self)
        part.questions = tuple(self.questions[i] for i in questions.tolist())
        part.prompts = [self.prompts[i] for i in items.tolist()]
        for name in ("letters", "has_option", "residual", "starts", "lengths", "item"):
            setattr(part, name, getattr(self, name)[items])
        return part

    def items(self, questions: Int[Tensor, "question"]) -> Int[Tensor, "item"]:
        """The prompts of these questions."""
        return (questions[:, None] * self.orders + torch.arange(self.orders)).flatten()

    def steered(self, items: Int[Tensor, "item"], offset: Steering | None = None) -> Float[Tensor, "item group d"]:
        """x_g of these prompts, on the model's device; x, as one group, if there is no offset.

        An offset that reads gets what it `reads` of these prompts.
        """
        x = self.residual[items].to(self.lm.device)
        if offset is None:
            return x[:, None]
        if offset.reads is None:
            return offset.steer(x)
        sae: Encoder | None = getattr(offset, "sae", None)  # whose latents are read; without one the stream is
        return offset.steer(x, self.read(sae, offset.reads, items).to(x.device))

    def log_probs(
        self, offset: Steering | None = None, questions: Int[Tensor, "question"] | None = None
    ) -> Float[Tensor, "group question option"]:
        """log p of each option, -inf where a question has no such option; one group if there is no `offset`.

        Gradients flow to the parameters of the offset, and of its SAE unless that is frozen. Only `questions` (by
        index) are answered if given. For many questions use `predict`.
        """
        if questions is None:
            questions = torch.arange(len(self.questions))
        items = self.items(questions)
        logits = self.option_logits(items, self.steered(items, offset))
        has_option = self.has_option[items].to(logits.device)[:, None]
        by_order = logits.masked_fill(~has_option, NEVER).log_softmax(-1)
        by_order = by_order.unflatten(0, (len(questions), self.orders))
        mean = by_order.logsumexp(1) - math.log(self.orders)
        has_option = has_option.unflatten(0, (len(questions), self.orders))[:, 0]
        return mean.masked_fill(~has_option, -torch.inf).transpose(0, 1)

    def read(self, sae: Encoder | None, place: str, items: Int[Tensor, "item"]) -> Float[Tensor, "item m"]:
        """What there is to read of these prompts in a place ('last', 'question' or 'options').

        Counts of firing per latent of the SAE, or without one the mean stream (d in place of m); in either, a prompt
        whose options are reversed counts negatively. The SAE's latents are found once, and anew for another SAE; call
        `forget` when its weights have changed.
        """
        known, kept = self._read.get((id(sae), place), (None, None))
        if kept is None or known is not sae:
            tokens, count = self.kept.tokens(place), len(self.kept.prompts)
            kept = mean_stream(tokens, count) if sae is None else bag_of_latents(sae, tokens, count)
            self._read[id(sae), place] = sae, kept
        items = self.item[items]  # of all prompts that were run
        return kept.rows(items) if isinstance(kept, Bag) else kept[items]

    def forget(self) -> None:
        """Find the latents anew when they are next read: for an SAE that is being trained."""
        self._read.clear()

    @torch.no_grad()
    def predict(
        self,
        offset: Steering | None = None,
        questions: Int[Tensor, "question"] | None = None,
        batch: int = 16,
    ) -> Float[Tensor, "group question option"]:
        """`log_probs` without gradients, `batch` questions at a time, on the CPU."""
        if questions is None:
            questions = torch.arange(len(self.questions))
        return torch.cat([self.log_probs(offset, chunk).cpu() for chunk in questions.split(batch)], dim=1)

    def option_logits(
        self, items: Int[Tensor, "item"], x_g: Float[Tensor, "item group d"]
    ) -> Float[Tensor, "item group option"]:
        """Logits of the option letters in float32, with x_g in place of x at the last token of each prompt."""
        letters = self.letters[items][:, None].expand(-1, x_g.shape[1], -1)
        return self.lm.logits(self.run_upper(items, x_g), letters)

    def run_upper(
        self, items: Int[Tensor, "item"], x_g: Float[Tensor, "item group d"]
    ) -> Float[Tensor, "item group d"]:
        """The stream after the last layer at the last token, with x_g in place of x after the hook layer."""
        prefix = Prefix(self, items, x_g.shape[1])
        upper = range(self.hook_layer + 1, len(self.lm.layers))
        return self.lm.run_layers(x_g, upper, prefix.positions, prefix.masks, prefix)

    @torch.no_grad()
    def next_token(self, offset: Steering | None = None, batch: int = 32) -> NextToken:
        """Shares of the options and of their letters in each order of the options, in one pass."""
        shares, masses = [], []
        for items in torch.arange(len(self.prompts)).split(batch):
            x = self.run_upper(items, self.steered(items, offset))
            letters = self.letters[items].to(x.device)[:, None].expand(-1, x.shape[1], -1)
            on_letters = self.lm.logits(x, letters).cpu().double()  # in float32, whatever the model's own type
            on_letters = on_letters.masked_fill(~self.has_option[items][:, None], NEVER)
            shares.append(on_letters.softmax(-1))
            masses.append((on_letters.logsumexp(-1) - self.lm.logits(x).float().logsumexp(-1).cpu()).exp().clamp_max(1))
        by_order = (torch.cat(part).unflatten(0, (-1, self.orders)) for part in (shares, masses))
        return NextToken(*(part.movedim(2, 0) for part in by_order))

    @torch.no_grad()
    def by_letter(self) -> Float[Tensor, "question place"]:
        """Unsteered probability of the first, second, ... letter, whatever option stands there; mean over orders."""
        items = torch.arange(len(self.prompts))
        logits = [self.option_logits(part, self.steered(part)) for part in items.split(32)]
        by_option = torch.cat(logits)[:, 0].cpu().masked_fill(~self.has_option, NEVER).softmax(-1)
        by_place = torch.zeros_like(by_option)
        for item, prompt in enumerate(self.prompts):
            by_place[item, : len(prompt.order)] = by_option[item, list(prompt.order)]
        return by_place.unflatten(0, (len(self.questions), self.orders)).mean(1)


class Recorder:
    """A cache that keeps what the upper layers attend to, without each prompt's last token."""

    def __init__(self, answers: AnswerPath, items: list[int]):
        self.answers, self.items = answers, items

    def update(self, keys: Tensor, values: Tensor, layer: int, *args: object) -> tuple[Tensor, Tensor]:
        for row, item in enumerate(self.items):
            start, length = int(self.answers.starts[item]), int(self.answers.lengths[item])
            into = self.answers.keys_values[layer][:, start : start + length]
            into[0] = keys[row, :, :length].transpose(0, 1)
            into[1] = values[row, :, :length].transpose(0, 1)
        return keys, values


class Prefix:
    """A read-only cache of a batch of prompts; `update` appends the new tokens without keeping them."""

    def __init__(self, answers: AnswerPath, items: Int[Tensor, "item"], new: int):
        lm, self.answers = answers.lm, answers
        lengths = answers.lengths[items].to(lm.device)
        old = torch.arange(int(lengths.max()), device=lm.device)
        real = old < lengths[:, None]
        self.index = torch.where(real, answers.starts[items].to(lm.device)[:, None] + old, 0)
        self.positions = lengths[:, None].expand(-1, new)
        itself = torch.eye(new, dtype=torch.bool, device=lm.device).expand(len(items), -1, -1)
        visible = torch.cat([real[:, None].expand(-1, new, -1), itself], dim=2)
        key_positions = torch.cat([old.expand(len(items), -1), self.positions], dim=1)
        self.masks = lm.attention_masks(visible, self.positions[:, :, None] - key_positions[:, None])

    def update(self, keys: Tensor, values: Tensor, layer: int, *args: object) -> tuple[Tensor, Tensor]:
        old = self.answers.keys_values[layer][:, self.index.to(keys.device)].transpose(2, 3)
        new = keys.to(old.dtype), values.to(old.dtype)
        return torch.cat([old[0], new[0]], dim=2), torch.cat([old[1], new[1]], dim=2)


def letter_table(prompts: Sequence[Prompt]) -> tuple[Int[Tensor, "item option"], Bool[Tensor, "item option"]]:
    """Letter tokens of every prompt's options (0 where there is no such option), and which options exist."""
    options = max(len(prompt.letters) for prompt in prompts)
    letters = torch.zeros(len(prompts), options, dtype=torch.long)
    has_option = torch.zeros(len(prompts), options, dtype=torch.bool)
    for item, prompt in enumerate(prompts):
        letters[item, : len(prompt.letters)] = torch.tensor(prompt.letters)
        has_option[item, : len(prompt.letters)] = True
    return letters, has_option


def length_batches(lengths: Int[Tensor, "item"], tokens_per_batch: int) -> list[list[int]]:
    """Items in batches of like length, each of at most `tokens_per_batch` tokens (or one item)."""
    batches: list[list[int]] = []
    for item in lengths.argsort(descending=True, stable=True).tolist():
        if batches and (len(batches[-1]) + 1) * int(lengths[batches[-1][0]]) <= tokens_per_batch:
            batches[-1].append(item)
        else:
            batches.append([item])
    return batches
