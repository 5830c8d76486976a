"""What a method is given and what it gives: one small contract for every rival on the bench."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from opinion_sae.delta.fit import fit_offset
from opinion_sae.delta.held_out import Split, assemble
from opinion_sae.delta.offsets import GroupDelta, Offset
from opinion_sae.delta.settings import FitSettings
from opinion_sae.methods.baselines import validation_kl
from opinion_sae.methods.personas import persona_residuals, spread
from opinion_sae.methods.question_tokens import QuestionTokens, question_tokens
from opinion_sae.model.answers import AnswerPath, Steering
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.score.toplines import from_toplines
from opinion_sae.survey import Survey

STRENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0)  # of a direction that no answers were fitted to, in units of itself
JUDGED = 30  # validation questions that candidates are judged by, spread evenly
PERSONAS = 3  # questions of each split's test part that are asked under every persona


@dataclass(frozen=True, eq=False)
class Bench:
    """What every method may use; nothing of a split's test questions but their prompts.

    `folder` takes what is kept between runs, `known` offsets that were fitted before, by method and split.
    """

    answers: AnswerPath
    sae: SparseAutoencoder
    survey: Survey
    splits: Sequence[Split]
    settings: FitSettings
    folder: Path
    known: Mapping[str, Sequence[Offset]] = field(default_factory=dict)

    @cached_property
    def tokens(self) -> QuestionTokens:
        """The stream at every token of the prompts, for what only reads them."""
        return question_tokens(self.answers.lm, self.survey.questions, self.answers.hook_layer)

    @cached_property
    def personas(self) -> tuple[Float[np.ndarray, "group asked d"], Int[np.ndarray, "asked"]]:
        """x under every group's persona at a few questions (`personas.py`), and which these are."""
        asked = np.unique(np.concatenate([spread(split.test, PERSONAS) for split in self.splits]))
        lm, layer = self.answers.lm, self.answers.hook_layer
        return persona_residuals(lm, self.survey, layer, "portray", asked), asked

    def personas_of(self, split: Split) -> Float[Tensor, "group asked d"]:
        """Those of the split's training questions. ValueError if none of them was asked."""
        residuals, asked = self.personas
        seen = np.isin(asked, split.train)
        if not seen.any():
            raise ValueError(f"split {split.name!r}: none of its training questions was asked with a persona")
        return torch.from_numpy(residuals[:, seen]).float()


@runtime_checkable
class Steered(Steering, Protocol):
    """Steering that says for which groups it is."""

    @property
    def groups(self) -> Sequence[str]: ...


AnySteered = TypeVar("AnySteered", bound=Steered)


class Outcome(NamedTuple):
    """What a method gives: answers held out by split, and where it steers, whatever it is that does so.

    `steering` has one entry per split, which `effects` takes to facts, plain text and other orders of the options; it
    is empty for a method that steers nothing. `texts`, by split and group, is what a prompt sets before whatever is
    read. `parameters`: numbers of a split that were fitted or chosen. `option_mass`: of what was told, the probability
    of an option's letter as the next token, where it was asked.
    """

    log_probs: Float[np.ndarray, "_ question option"]
    steering: Sequence[Steered] = ()
    texts: Sequence[Sequence[str]] = ()
    parameters: int = 0
    option_mass: np.ndarray | None = None


Method = Callable[[Bench], Outcome]


class Scaled:
    """x + s (x_g - x): any steering at strength s, the change in proportion."""

    def __init__(self, steering: Steered, strength: float):
        self.steering, self.strength = steering, strength
        self.reads, self.sae = steering.reads, getattr(steering, "sae", None)
        self.groups = steering.groups

    def steer(self, x: Float[Tensor, "item d"], read: Tensor | None = None) -> Float[Tensor, "item group d"]:
        return x[:, None] + self.strength * (self.steering.steer(x, read) - x[:, None])


def steered(bench: Bench, fit: Callable[[Split], Steered], parameters: int) -> Outcome:
    """Fit to each split, and answer its test questions."""
    steering, parts = [], []
    for split in bench.splits:
        steering.append(fit(split))
        parts.append(bench.answers.predict(steering[-1], torch.from_numpy(split.test)).numpy())
    return Outcome(assemble(parts, bench.splits, len(bench.survey.questions)), steering, (), parameters)


def trained(bench: Bench, split: Split, start: GroupDelta, support: Bool[Tensor, "group m"]) -> GroupDelta:
    """An offset trained on from there through the model, in the latents of `support` alone and without an L1 term.

    In one stage, with the epochs of both stages of Delta and the first one's steps and patience, which are the bolder.
    """
    settings = bench.settings
    both = replace(settings.first_stage, epochs=settings.first_stage.epochs + settings.epochs, l1=0.0)
    fit_offset(bench.answers, bench.survey, start, split, both, support=support)
    return start.requires_grad_(False)


def best_of(bench: Bench, split: Split, candidates: Sequence[AnySteered]) -> AnySteered:
    """The candidate with the lowest KL from toplines on `JUDGED` of the split's validation questions, the first of
    equals. KL alone would ask how well everybody is met, for which what tells groups apart does nothing."""
    judged = spread(split.validation, JUDGED)
    some = bench.survey.select(questions=judged.tolist())
    costs = [toplines_cost(some, bench.answers.predict(one, torch.from_numpy(judged)).numpy()) for one in candidates]
    return candidates[int(np.argmin(costs))]


def toplines_cost(some: Survey, log_probs: Float[np.ndarray, "group question option"]) -> float:
    """KL(h_g || p_g) from toplines, mean over groups and then over the survey's questions, in nats."""
    given = from_toplines(some, log_probs[..., : some.counts.shape[-1]])
    return validation_kl(some, given, np.arange(len(some.questions)))
