r"""LoRA beside the offsets: one adapter over prompts that name the group, trained on answers (Hu et al. 2022).

    W' = W + 2 B A,   A: (r, d_in), B: (d_out, r), B = 0 at the start,   A, B = argmin mean KL(h_g || p(. | g, q))

in the attention of every layer; one A and B for all groups, which differ by what the prompt says of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from opinion_sae.delta.fit import BestEpoch, shrinking_steps
from opinion_sae.delta.held_out import Split
from opinion_sae.losses import mean_kl
from opinion_sae.methods.personas import persona
from opinion_sae.model.answers import length_batches
from opinion_sae.model.language_model import LanguageModel
from opinion_sae.model.prompts import Prompt, build_prompts
from opinion_sae.model.whole_pass import Told, read_answers, read_prompts
from opinion_sae.progress import progress
from opinion_sae.sae.train import check_finite
from opinion_sae.survey import Survey

Example = tuple[int, int, int]  # group, question, order of the options
LORA: dict[str, Any] = {"rank": 8, "epochs": 6, "examples": 150, "batch": 8, "lr": 1e-3}


class GroupPrompts:
    """Prompts of every group and question under a persona that names the group, and their answers by whole passes."""

    def __init__(self, lm: LanguageModel, survey: Survey, orders: int, style: str = "portray"):
        self.lm, self.survey, self.orders, self.style = lm, survey, orders, style
        self.shares = torch.from_numpy(survey.shares).float()
        self.prompts = [
            build_prompts(lm.tokenizer, survey.questions, orders, persona(style, survey, group))
            for group in range(len(survey.groups))
        ]

    def prompt(self, example: Example) -> Prompt:
        group, question, order = example
        return self.prompts[group][question * self.orders + order]

    def log_probs(self, examples: Sequence[Example]) -> Float[Tensor, "example option"]:
        """log p of each option; nothing is kept between passes, since the adapter changes every layer."""
        return read_prompts(self.lm, [self.prompt(example) for example in examples])[0]

    def loss(self, examples: Sequence[Example]) -> Float[Tensor, ""]:
        """Mean KL(h_g || p) in nats over the examples, all of which the group answered."""
        log_probs = self.log_probs(examples)
        groups, questions = (torch.tensor(part) for part in list(zip(*examples, strict=True))[:2])
        return mean_kl(self.shares[None, groups, questions, : log_probs.shape[1]], log_probs[None])

    def batches(self, examples: Sequence[Example], tokens: int = 2048) -> Iterator[list[Example]]:
        """The examples in batches of like length, of at most so many tokens."""
        lengths = torch.tensor([len(self.prompt(example).tokens) for example in examples])
        for items in length_batches(lengths, tokens):
            yield [examples[i] for i in items]

    @torch.no_grad()
    def mean_loss(self, examples: Sequence[Example]) -> float:
        """`loss` over many examples, in nats."""
        return sum(self.loss(batch).item() * len(batch) for batch in self.batches(examples)) / len(examples)

    def predict(self, questions: Int[np.ndarray, "asked"]) -> Told:
        """Every group's answers to `questions`."""
        items = [question * self.orders + order for question in questions for order in range(self.orders)]
        width = self.survey.counts.shape[-1]
        groups = progress(self.prompts, "lora answers")
        parts = [read_answers(self.lm, [group[i] for i in items], self.orders, width) for group in groups]
        return Told(*map(np.stack, zip(*parts, strict=True)))


@contextmanager
def adapter(lm: LanguageModel, rank: int, seed: int) -> Iterator[list[nn.Parameter]]:
    """Its parameters, in float32; while the block runs, attention has W + 2 B A in place of W (Hu et al. 2022).

    On the projections that peft takes for the family (queries and values in Llama). B starts at zero, so that nothing
    changes before training. Afterwards the model is as it was.
    """
    from peft import LoraConfig, LoraModel  # slow to import

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wrapped = LoraModel(lm.model, LoraConfig(r=rank, lora_alpha=2 * rank), "default")
    try:
        parameters = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
        for parameter in parameters:  # made in the type of the weights
            parameter.data = parameter.data.float()
        yield parameters
    finally:
        wrapped.unload()


def draw(
    survey: Survey, questions: Int[np.ndarray, "asked"], groups: int, orders: int, rng: np.random.Generator
) -> list[Example]:
    """For each question, in random order, `groups` of the groups that answered it, each with its order of options."""
    found = []
    for question in rng.permutation(questions):
        there = np.flatnonzero(survey.respondents[:, question] > 0)
        for group in rng.permutation(there)[:groups]:
            found.append((int(group), int(question), int(rng.integers(orders))))
    return found


@contextmanager
def fit_lora(
    prompts: GroupPrompts,
    split: Split,
    *,
    rank: int = 8,
    epochs: int = 6,
    examples: int = 150,
    batch: int = 8,
    lr: float = 1e-3,
    seed: int = 0,
) -> Iterator[pd.DataFrame]:
    """A row per epoch; while the block runs the model has an adapter that was fitted to the split's training questions.

    Minimises KL(h_g || p) over groups and questions by Adam, its steps shrinking to zero, `batch` prompts a step. An
    epoch takes each question with as many of its groups, drawn anew, as make about `examples` prompts (one at least).
    The epoch with the lowest KL on the validation questions (the same groups of each throughout) is kept; epoch 0 is
    the prompt alone. Raises FloatingPointError for a loss that is not finite. After Suh et al. 2025, who train one
    adapter over prompts that name the group.
    """
    survey, rng = prompts.survey, np.random.default_rng(seed)
    groups = max(1, examples // len(split.train))
    judged = draw(survey, split.validation, groups, prompts.orders, rng)
    with adapter(prompts.lm, rank, seed) as parameters:
        optimiser = torch.optim.Adam(parameters, lr=lr)
        best, settle = BestEpoch(parameters, epochs), shrinking_steps(optimiser, epochs)
        rows: list[dict[str, float]] = []
        for epoch in progress(range(epochs + 1), f"lora {split.name}"):
            train = np.nan
            if epoch:
                settle(epoch)
                drawn = draw(survey, split.train, groups, prompts.orders, rng)
                train = _pass(prompts, drawn, optimiser, batch, f"{split.name}, epoch {epoch}")
            kl = prompts.mean_loss(judged)
            best.stop(kl)  # never before the last
            rows.append({"epoch": epoch, "train_kl": train, "validation_kl": kl})
        best.restore()
        yield pd.DataFrame(rows).assign(split=split.name)


def _pass(
    prompts: GroupPrompts, examples: Sequence[Example], optimiser: torch.optim.Optimizer, batch: int, where: str
) -> float:
    """One step per `batch` examples; the mean loss on the way, in nats."""
    total = 0.0
    for start in range(0, len(examples), batch):
        chunk = examples[start : start + batch]
        loss = prompts.loss(chunk)
        check_finite(loss, f"fitting the adapter, {where}")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total += loss.item() * len(chunk)
    return total / len(examples)
