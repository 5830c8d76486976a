"""`delta-reading` and its controls: offsets that read the question, each fitted from the direct read-out of a split."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from opinion_sae.delta.directions import Effects
from opinion_sae.delta.fit_reading import Axes, axes_of, few_features, start, task_loss
from opinion_sae.delta.held_out import Split, assemble
from opinion_sae.delta.offsets import Offset
from opinion_sae.delta.reading import FEW, DenseReading, ReadingDelta, ReadingOffset
from opinion_sae.methods.baselines import validation_kl
from opinion_sae.methods.controls import shuffled_labels
from opinion_sae.methods.kernel_ridge import DEGREES, Features, KernelRidge, Settings, choose
from opinion_sae.methods.place import observed_tilts, place_basis, tilted
from opinion_sae.model.answers import AnswerPath
from opinion_sae.model.reading import PLACES, turned
from opinion_sae.progress import progress
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.sae.train import untrained_sae
from opinion_sae.score.toplines import everyone
from opinion_sae.survey import Survey

AXES = (1, 2, 3, 4, 6, 8)
RIDGES = (0.1, 0.3, 1.0)  # of the few latents, in the units of their sum of squares
STRENGTHS = tuple(twentieth / 20 for twentieth in range(4, 31))  # of the groups' own parts


class ReadingChoice(NamedTuple):
    """What was chosen for a split, with the axes' KL on its validation questions (task: from toplines), in nats."""

    split: str
    reads: str
    axes: int
    latents: int | None  # read by an axis; None: all that fire
    ridge: float
    damping: float
    validation_kl: float
    strength: float = 1.0  # that the groups' own parts are given at last


class Fitted(NamedTuple):
    """Axes, and the questions that they were fitted to."""

    axes: Axes
    questions: Int[np.ndarray, "fitted"]


@dataclass(frozen=True, eq=False)
class ReadOut:
    """The direct read-out that an offset of some kind starts from: what it reads, weighted as the offset weighs it."""

    answers: AnswerPath
    survey: Survey
    make: Callable[[str, int], ReadingOffset]  # an empty offset that reads this place, of so many axes
    latents: int | None = None  # that an axis may read
    only: Bool[np.ndarray, "feature"] | None = None  # features to read, if not all

    def features(self, place: str) -> Features:
        """r of all questions, as the training questions have it weighted.

        With several orders of the options, r is averaged over them, each by the side that it is seen from (`turned`):
        what is read then moves the answers on average as the average moves them.
        """
        read, empty, orders = self.read(place), self.make(place, 0), self.answers.orders
        side = torch.tensor([turned(prompt) for prompt in self.answers.prompts])[:, None]

        def weighted(train: Int[np.ndarray, "train"]) -> Float[np.ndarray, "question feature"]:
            empty.learn_weights(read[items_of(train, orders)])
            r = (side * empty.weigh(read)).unflatten(0, (-1, orders)).mean(1).double().numpy()
            return r if self.only is None else r * self.only

        return weighted

    def read(self, place: str) -> Float[Tensor, "item feature"]:
        """What all prompts hold to read."""
        return self.answers.read(self.make(place, 0).sae, place, torch.arange(len(self.answers.prompts)))

    def choose(
        self, split: Split, places: Sequence[str] = PLACES, axes: Sequence[int] = AXES, refit: bool = True
    ) -> tuple[ReadingChoice, list[Fitted]]:
        """Place and ridge as `kernel_ridge.choose` has them, number of axes and the few latents' ridge by the KL given
        the toplines on the validation questions; then the axes, fitted to the training questions, and with `refit`
        those fitted to training and validation questions together.
        """
        one, fitted = choose(self.survey, split, {place: self.features(place) for place in places}, refit=False)
        features = self.features(one.features)
        x = features(split.train)
        trials = [
            (self.cost(self.axes(fitted, x, one.damping, count, ridge), x, split.validation), count, ridge)
            for count in sorted({min(count, len(self.survey.groups)) for count in axes})
            for ridge in (RIDGES if self.latents else RIDGES[:1])
        ]
        cost, count, ridge = min(trials)
        found = [Fitted(self.axes(fitted, x, one.damping, count, ridge), fitted.train)]
        if refit:
            same = [Settings(one.ridge, one.evenness, one.damping)]
            _, fitted = choose(self.survey, split, {one.features: features}, grid=same)
            found.append(Fitted(self.axes(fitted, features(fitted.train), one.damping, count, ridge), fitted.train))
        return ReadingChoice(split.name, one.features, count, self.latents, one.ridge, one.damping, cost), found

    def axes(
        self, fitted: KernelRidge, x: Float[np.ndarray, "question feature"], damping: float, count: int, ridge: float
    ) -> Axes:
        """The first axes of the read-out of x, with the few latents that they may read."""
        r = torch.from_numpy(x[fitted.train]).float()
        parts = (torch.from_numpy(part).float() for part in (fitted.coefficients(x), fitted.mean))
        whole = axes_of(*parts, count, r)
        if self.latents is None:
            return whole
        tilts = observed_tilts(self.survey, place_basis(self.survey.questions, DEGREES), damping)[:, fitted.train]
        return few_features(whole, r, torch.from_numpy(tilts).float(), self.latents, ridge)

    def cost(self, axes: Axes, x: Float[np.ndarray, "question feature"], questions: Int[np.ndarray, "some"]) -> float:
        """KL given the toplines of the axes' own answers to some questions."""
        basis = place_basis(self.survey.questions, DEGREES)[questions]
        tilts = axes.tilts(torch.from_numpy(x[questions]).float()).double().numpy()
        return validation_kl(self.survey, tilted(everyone(self.survey)[:, questions], basis, tilts), questions)


def items_of(questions: Int[np.ndarray, "some"], orders: int) -> Int[Tensor, "item"]:
    """The prompts of these questions."""
    return (torch.from_numpy(questions)[:, None] * orders + torch.arange(orders)).flatten()


def fit_reading(
    read_out: ReadOut,
    split: Split,
    effects: Effects,
    *,
    places: Sequence[str] = PLACES,
    axes: Sequence[int] = AXES,
    penalty: float = 0.01,
    refit: bool = True,
    shared: Float[Tensor, "written"] | None = None,
) -> tuple[ReadingOffset, ReadingChoice]:
    """An offset that reads, fitted to a split: nothing is chosen on the questions that it is tested on.

    The direct read-out says what to read, where the groups stand and how much; least squares through the layers above
    says where to write it (`delta.fit_reading.start`). That holds to first order only, so what the model makes of it
    comes out too strong or too weak: the groups' own parts are scaled to the `strength` that is best on the validation
    questions for the offset that is fitted to the training questions alone. `penalty` makes what is written sparse.
    `shared` is a shared part that was fitted before, for the task *alone*; then `effects` are those at x as it leaves
    it.
    """
    survey, answers = read_out.survey, read_out.answers
    choice, found = read_out.choose(split, places, axes, refit)
    wishes = torch.from_numpy(place_basis(survey.questions, DEGREES)).float()

    def built(one: Fitted) -> ReadingOffset:
        offset = read_out.make(choice.reads, choice.axes)
        offset.learn_weights(read_out.read(choice.reads)[items_of(one.questions, answers.orders)])
        if shared is not None:
            offset.shared.data.copy_(shared)
        start(offset, one.axes, effects, wishes, torch.from_numpy(one.questions), penalty)
        return offset.to(answers.lm.device)

    offset = built(found[0])
    best = strength(answers, survey, offset, torch.from_numpy(split.validation))
    offset = built(found[1]) if refit else offset
    return offset.dosed(1.0, best), choice._replace(strength=best)


def strength(answers: AnswerPath, survey: Survey, offset: ReadingOffset, questions: Int[Tensor, "chosen"]) -> float:
    """Of STRENGTHS the one with the lowest KL given the toplines, log p taken to move in proportion; 1 if there are no
    questions to choose by."""
    if not len(questions):
        return 1.0
    log_probs, loss = answers.predict(offset, questions), task_loss(survey)
    there = log_probs > -torch.inf  # -inf where there is no such option, at any strength
    costs = {s: loss(torch.where(there, s * log_probs, log_probs), questions).item() for s in STRENGTHS}
    return min(STRENGTHS, key=lambda s: (costs[s], abs(s - 1)))


def reading(answers: AnswerPath, sae: SparseAutoencoder, survey: Survey, latents: int | None = None) -> ReadOut:
    """`delta-reading`: latents read and latents written."""

    def make(place: str, axes: int) -> ReadingDelta:
        return ReadingDelta(survey.groups, sae, axes=axes, directions=DEGREES, reads=place)

    return ReadOut(answers, survey, make, latents)


def dense_reading(answers: AnswerPath, survey: Survey) -> ReadOut:
    """`dense-reading`: the stream read and the stream written."""

    def make(place: str, axes: int) -> DenseReading:
        return DenseReading(survey.groups, answers.lm.width, axes=axes, directions=DEGREES, reads=place)

    return ReadOut(answers, survey, make)


def shuffled_questions(answers: AnswerPath, seed: int) -> AnswerPath:
    """`shuffled-questions`: the same answers, but each question has another's tokens to read."""
    count = len(answers.questions)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    other, shuffled = order.repeat_interleave(answers.orders) * answers.orders, copy.copy(answers)
    item = torch.arange(len(answers.prompts)) % answers.orders
    shuffled.read = lambda sae, place, items: answers.read(sae, place, (other + item)[items])
    return shuffled


def random_dictionary(answers: AnswerPath, sae: SparseAutoencoder, seed: int) -> SparseAutoencoder:
    """`random-dictionary`: as many random directions as latents, read by their transpose, as many active at once."""
    code = sae.encode_sparse(answers.residual.to(sae.W_dec.device))
    active = max(1, round((code.values > 0).sum(1).float().mean().item()))
    return untrained_sae(answers.residual, sae.width, active, seed).requires_grad_(False)


def random_read_latents(read_out: ReadOut, offset: ReadingDelta, seed: int) -> ReadOut:
    """`random-read-latents`: a read-out of latents drawn at random, as many as the offset reads, each of which fires in
    as many prompts as one of those or, where all such are taken, in nearly as many. An offset that reads nothing is its
    own control."""
    if not offset.a.any():
        return read_out
    fires = (read_out.read(offset.reads) != 0).sum(0)
    own = (offset.a.detach() != 0).any(0).any(0).cpu()
    jitter = torch.rand(len(fires), generator=torch.Generator().manual_seed(seed))
    others = torch.where(own, -1.0, fires + jitter)  # of equals, any
    drawn = torch.zeros_like(own)
    for latent in own.nonzero()[:, 0]:
        nearest = torch.where(others < 0, torch.inf, (others - fires[latent] - 0.5).abs()).argmin()
        drawn[nearest], others[nearest] = True, -1.0
    return replace(read_out, latents=None, only=drawn.numpy())


class HeldOutReading(NamedTuple):
    """The outcome of `held_out_reading`: NaN for questions that no split tests."""

    log_probs: Float[np.ndarray, "group question option"]
    offsets: list[ReadingOffset]  # one per split
    choices: list[ReadingChoice]


@dataclass(frozen=True, eq=False)
class Base:
    """What the offsets of a split start from: x with its first-order effects, or x as a shared part leaves it.

    A shared part is fitted before (`shared`, an offset), and the groups' own parts are written on top of it: it says
    where the answers lie, which from toplines is known anyway.
    """

    split: Split
    effects: Effects
    shared: Offset | None = None

    @classmethod
    def of(cls, answers: AnswerPath, split: Split, shared: Offset | None = None) -> Base:
        """Effects at x, or as the shared part of an offset leaves it: one pass back per letter of every prompt."""
        at = None if shared is None else shared.shared_only()
        return cls(split, Effects(answers, at), at)

    def moved(self, answers: AnswerPath) -> AnswerPath:
        """The same prompts with x as the shared part leaves it, for offsets that are not written in its latents."""
        if self.shared is None:
            return answers
        part = copy.copy(answers)
        with torch.no_grad():
            items = torch.arange(len(answers.prompts)).split(32)
            part.residual = torch.cat([answers.steered(some, self.shared)[:, 0].cpu() for some in items])
        return part


def held_out_reading(
    read_outs: Sequence[ReadOut], bases: Sequence[Base], own_shared: bool = True, **settings: object
) -> HeldOutReading:
    """Fit by each split's read-out and answer its test questions; `settings` go to `fit_reading`.

    The shared part is the offset's own, or, without `own_shared`, x is moved by it first: for an offset that is written
    in the stream, or in the latents of another SAE.
    """
    found, fitted = [], []
    for one, base in zip(read_outs, bases, strict=True):
        shared = base.shared.shared.detach() if own_shared and base.shared is not None else None
        one = one if own_shared else replace(one, answers=base.moved(one.answers))
        fitted.append(fit_reading(one, base.split, base.effects, shared=shared, **settings))
        found.append(one.answers.predict(fitted[-1][0], torch.from_numpy(base.split.test)).numpy())
    questions, splits = len(read_outs[0].answers.questions), [base.split for base in bases]
    return HeldOutReading(assemble(found, splits, questions), *map(list, zip(*fitted, strict=True)))


def read_outs(
    answers: AnswerPath, sae: SparseAutoencoder, survey: Survey, latents: int = 64, seed: int = 0
) -> dict[str, tuple[ReadOut, bool]]:
    """`delta-reading`, the same with few latents read by an axis, and controls, by their names in `gaps.csv`; and
    whether each has the SAE's own shared part."""
    return {
        "delta-reading": (reading(answers, sae, survey), True),
        f"delta-reading-{latents}": (reading(answers, sae, survey, latents), True),
        "shuffled-questions": (reading(shuffled_questions(answers, seed), sae, survey), True),
        "shuffled-groups-reading": (reading(answers, sae, shuffled_labels(survey, seed)), True),
        "dense-reading": (dense_reading(answers, survey), False),
        "random-dictionary": (reading(answers, random_dictionary(answers, sae, seed), survey), False),
    }


def held_out_readings(each: Mapping[str, tuple[ReadOut, bool]], bases: Sequence[Base]) -> dict[str, HeldOutReading]:
    """`held_out_reading` of all of them, one after the other."""
    steps = progress(list(each.items()), "offsets that read")
    return {name: held_out_reading([one] * len(bases), bases, own_shared) for name, (one, own_shared) in steps}


def reading_and_controls(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    survey: Survey,
    bases: Sequence[Base],
    latents: int = 64,
    seed: int = 0,
) -> dict[str, HeldOutReading]:
    """All of `read_outs`, and `random-read-latents`. All start from the same shared part, if the bases have one."""
    each, few = read_outs(answers, sae, survey, latents, seed), f"delta-reading-{latents}"
    found = held_out_readings(each, bases)
    drawn = [random_read_latents(each[few][0], offset, seed) for offset in found[few].offsets]
    return found | {"random-read-latents": held_out_reading(drawn, bases)}


@torch.no_grad()
def refitted(
    read_out: ReadOut, splits: Sequence[Split], held: HeldOutReading, counts: Sequence[int] = FEW
) -> dict[str, Float[np.ndarray, "group question option"]]:
    """Held-out log p with only n latents read by an axis, those of the largest weights, and their weights fitted anew:
    'refitted-<n>'. The ridge is chosen on the validation questions again; all else stays as the split has it."""
    answers, tables = read_out.answers, {f"refitted-{count}": [] for count in counts}
    basis = place_basis(read_out.survey.questions, DEGREES)
    has = torch.from_numpy(basis.any(-1))
    for split, offset, choice in progress(list(zip(splits, held.offsets, held.choices, strict=True)), "refits"):
        tilts = torch.from_numpy(observed_tilts(read_out.survey, basis, choice.damping)).float()
        features, both = read_out.features(choice.reads), np.sort(np.concatenate([split.train, split.validation]))
        x, whole = features(split.train), features(both)
        plain = offset.dosed(1.0, 1 / choice.strength)  # weights are fitted to the read-out, which has no strength
        for count in counts:
            costs = [
                (read_out.cost(_anew(plain, tilts, has, split.train, x, count, ridge), x, split.validation), ridge)
                for ridge in RIDGES
            ]
            fitted = offset.copy()
            fitted.a.copy_(_anew(plain, tilts, has, both, whole, count, min(costs)[1]).a)
            tables[f"refitted-{count}"].append(answers.predict(fitted, torch.from_numpy(split.test)).numpy())
    return {name: assemble(parts, list(splits), len(answers.questions)) for name, parts in tables.items()}


def _anew(
    offset: ReadingOffset,
    tilts: Float[Tensor, "group question direction"],
    has: Bool[Tensor, "question direction"],
    questions: Int[np.ndarray, "some"],
    x: Float[np.ndarray, "question feature"],
    count: int,
    ridge: float,
) -> Axes:
    """The offset's axes with new weights for the `count` features that each reads most, fitted to these questions."""
    seen, r = tilts[:, questions], torch.from_numpy(x[questions]).float()
    constant = torch.where(has[questions], seen, torch.nan).nanmean(1).nan_to_num()
    axes = Axes(offset.a.detach().cpu(), offset.codes().detach().cpu(), constant)
    return few_features(axes, r, seen, count, ridge, offset.strongest(count).cpu())


def fit_to_all(read_out: ReadOut, splits: Sequence[Split], shared: Sequence[Offset]) -> ReadingOffset:
    """An offset for new questions, fitted to all of a survey's; chosen on those that the first split tests.

    Its shared part is the mean of the splits' own, which together have seen every question.
    """
    first, none = splits[0], np.arange(0)
    split = Split("all", np.sort(np.concatenate([first.train, first.validation])), first.test, none)
    mean = torch.stack([offset.shared.detach() for offset in shared]).mean(0)
    base = Base.of(read_out.answers, split, shared[0].with_parts(shared=mean))
    return fit_reading(read_out, split, base.effects, shared=mean)[0]


def choices_table(found: Mapping[str, HeldOutReading]) -> pd.DataFrame:
    """What each method chose: a row per method and split."""
    rows = [{"method": name, **choice._asdict()} for name, held in found.items() for choice in held.choices]
    return pd.DataFrame(rows)
