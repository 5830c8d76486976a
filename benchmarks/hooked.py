"""The peer for offsets: transformers with a forward hook, every prompt run whole for every group.

This is the usual steering script at its best: prompts of like length in a batch, padded on the left so that the last
position is the same for all, logits for that position only, no gradient below the hook. The offset itself is computed
by the library's own function, so that only the passes through the model differ.
"""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from opinion_sae.delta.offsets import GroupDelta, RectifiedShift
from opinion_sae.model.answers import NEVER, AnswerPath, length_batches
from opinion_sae.model.language_model import LanguageModel
from opinion_sae.products import Linear
from opinion_sae.sae.autoencoder import SparseAutoencoder


def as_loaded(lm: LanguageModel) -> PreTrainedModel:
    """A copy of the model with the attention and the products that transformers itself would take for it."""
    model = copy.deepcopy(lm.model)
    model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
    for module in model.modules():
        if type(module) is Linear:
            module.__class__ = nn.Linear
    return model


class HookedModel:
    """Option probabilities by whole forward passes; takes prompts, letters and weights from an `AnswerPath`.

    One prompt per question. `answers` lends its tokens and its weights, none of what it has computed.
    """

    def __init__(self, answers: AnswerPath, tokens_per_batch: int):
        if answers.orders != 1:
            raise ValueError(f"one order of options is compared, the answers have {answers.orders}")
        self.answers, self.model = answers, as_loaded(answers.lm)
        lengths = torch.tensor([len(prompt.tokens) for prompt in answers.prompts])
        self.batches = [self._padded(items) for items in length_batches(lengths, tokens_per_batch)]

    def _padded(self, items: list[int]) -> dict[str, Tensor]:
        rows = [torch.tensor(self.answers.prompts[i].tokens) for i in items]
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side="left")
        lengths = torch.tensor([len(row) for row in rows])
        real = torch.arange(tokens.shape[1]) >= tokens.shape[1] - lengths[:, None]
        batch = {"items": torch.tensor(items), "input_ids": tokens, "attention_mask": real.long()}
        batch["position_ids"] = (real.cumsum(1) - 1).clamp_min(0)
        return {name: part.to(self.model.device) for name, part in batch.items()}

    def log_probs(
        self, sae: SparseAutoencoder, offsets: Float[Tensor, "1 m"], batch: dict[str, Tensor]
    ) -> Float[Tensor, "item option"]:
        """log p of the options under the offset of one group, for the prompts of one batch."""

        def hook(module: object, inputs: object, hidden: Tensor) -> Tensor:
            x = hidden[:, -1].float()
            code = sae.encode_sparse(x)
            x_g = x + RectifiedShift.apply(offsets, code.values, code.indices, sae.W_dec)[:, 0]
            return torch.cat([hidden[:, :-1], x_g[:, None].to(hidden.dtype)], dim=1)

        items = batch["items"].cpu()
        handle = self.model.base_model.layers[self.answers.hook_layer].register_forward_hook(hook)
        try:
            passed = {name: part for name, part in batch.items() if name != "items"}
            logits = self.model(**passed, use_cache=False, logits_to_keep=1).logits[:, 0].float()
        finally:
            handle.remove()
        letters = self.answers.letters[items].to(logits.device)
        absent = ~self.answers.has_option[items].to(logits.device)
        return logits.gather(1, letters).masked_fill(absent, NEVER).log_softmax(-1).masked_fill(absent, -torch.inf)

    @torch.no_grad()
    def predict(
        self, sae: SparseAutoencoder, delta: GroupDelta, groups: range | None = None
    ) -> Float[Tensor, "group question option"]:
        """All groups (or some), one pass each over all prompts."""
        offsets = delta.offsets().detach()
        groups = range(len(offsets)) if groups is None else groups
        found = torch.empty(len(groups), *self.answers.has_option.shape)
        for row, group in enumerate(groups):
            for batch in self.batches:
                found[row, batch["items"].cpu()] = self.log_probs(sae, offsets[group : group + 1], batch).cpu()
        return found

    def gradient(
        self, sae: SparseAutoencoder, delta: GroupDelta, shares: Float[Tensor, "group question option"]
    ) -> float:
        """Adds to the offsets' gradients those of the mean KL over all answered cells; returns that mean.

        One pass forward and backward per group and batch. (The offset's straight-through gradient is rectified after
        summing over prompts, so it equals the library's to the last digit only where all prompts are one batch.)
        """
        cells = int((~shares.isnan().any(-1)).sum())
        total = 0.0
        for group in range(len(shares)):
            for batch in self.batches:
                log_probs = self.log_probs(sae, delta.offsets()[group : group + 1], batch)
                own = shares[group, batch["items"].cpu()].to(log_probs.device)
                loss = kl_sum(own, log_probs) / cells
                loss.backward()
                total += loss.item()
        return total


def kl_sum(shares: Float[Tensor, "item option"], log_probs: Float[Tensor, "item option"]) -> Float[Tensor, ""]:
    """KL(h || p) summed over the items that have answers; in nats."""
    answered = ~shares.isnan().any(-1)
    h, log_p = shares[answered], log_probs[answered]
    chosen = h > 0
    return (h[chosen] * (h[chosen].log() - log_p[chosen])).sum()
