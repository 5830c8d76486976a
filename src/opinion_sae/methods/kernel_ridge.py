"""Kernel ridge from features of a question to the tilt of every group's answers: what reading alone can predict."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from opinion_sae.delta.held_out import Split, assemble
from opinion_sae.methods.baselines import validation_kl
from opinion_sae.methods.place import observed_tilts, place_basis, tilted
from opinion_sae.score.toplines import everyone
from opinion_sae.survey import Survey, question_clusters

# features of all questions, as the training questions (their positions) would have them weighted
Features = Callable[[Int[np.ndarray, "train"]], Float[np.ndarray, "question feature"]]


class Settings(NamedTuple):
    """What a fit is chosen by: `ridge` in units of the mean k(q, q), `evenness` of the ridge over the groups' axes (0:
    the same for all; 1: in inverse proportion to an axis' variance, as if all were as noisy), `damping` of tilts."""

    ridge: float
    evenness: float
    damping: float


GRID = tuple(itertools.starmap(Settings, itertools.product(10.0 ** np.arange(-1.5, 1.6, 0.5), (0.5,), (0.1, 0.3))))
DEGREES = 3
PARTS = 4


@dataclass(frozen=True, eq=False)
class KernelRidge:
    """t_gb(q) = mean_gb + sum_i weights_gbi k(q, train_i): a fit to training questions."""

    train: Int[np.ndarray, "train"]
    mean: Float[np.ndarray, "group degree"]
    weights: Float[np.ndarray, "group degree train"]

    def predict(self, kernel: Float[np.ndarray, "question some"]) -> Float[np.ndarray, "group some degree"]:
        """The tilts of the questions that the kernel has columns for; its rows are all questions."""
        return np.einsum("gbi,iq->gqb", self.weights, kernel[self.train]) + self.mean[:, None]

    def coefficients(
        self, features: Float[np.ndarray, "question feature"]
    ) -> Float[np.ndarray, "group degree feature"]:
        """W_gb = X' weights_gb, so that t_gb(q) = mean_gb + W_gb . x_q with the kernel of `question_kernel`."""
        train = features[self.train]
        return self.weights @ train / mean_square(train)


def mean_square(x: Float[np.ndarray, "train feature"]) -> float:
    """mean |x|^2; 1 where all x are 0, since what says nothing of the few questions there are needs no unit."""
    return float(np.square(x).sum(1).mean()) or 1.0


def question_kernel(
    features: Float[np.ndarray, "question feature"], train: Int[np.ndarray, "train"]
) -> Float[np.ndarray, "question question"]:
    """k(q, q') = x_q . x_q', in units of the training questions' mean |x|^2."""
    return features @ features.T / mean_square(features[train])


class Decomposed:
    """The kernel of the training questions that have each degree, decomposed once for every ridge, group and target."""

    def __init__(self, kernel: Float[np.ndarray, "question question"], train: np.ndarray, has: np.ndarray):
        self.train = train
        self.rows = [np.flatnonzero(has[train, degree]) for degree in range(has.shape[1])]
        self.parts = [np.linalg.eigh(kernel[np.ix_(train[rows], train[rows])]) for rows in self.rows]

    def fit(self, tilts: Float[np.ndarray, "group question degree"], settings: Settings) -> KernelRidge:
        r"""Ridge on each principal axis u of the groups' tilts: (K + \lambda_u I) a_u = u' (t - mean).

        \lambda_u = ridge (s_1 / s_u)^evenness with s_u the axis' mean square, s_1 the largest of any degree. A cell
        without answers counts as its group's mean.
        """
        targets = tilts[:, self.train]
        weights, means = np.zeros((len(tilts), len(self.rows), len(self.train))), np.zeros((len(tilts), len(self.rows)))
        axes = []
        for degree, rows in enumerate(self.rows):
            cells = targets[:, rows, degree]
            answered = ~np.isnan(cells)
            mean = np.where(answered, cells, 0).sum(1) / np.maximum(answered.sum(1), 1)
            centred = np.where(answered, cells - mean[:, None], 0)
            means[:, degree] = mean
            axes.append(np.linalg.svd(centred, full_matrices=False))
        spread = [np.square(size) / max(len(rows), 1) for (_, size, _), rows in zip(axes, self.rows, strict=True)]
        largest = max(part.max(initial=0) for part in spread) or 1.0  # of one question nothing is left to explain
        for degree, ((u, size, along), (values, vectors), rows) in enumerate(
            zip(axes, self.parts, self.rows, strict=True)
        ):
            ridge = settings.ridge * (largest / np.maximum(spread[degree], 1e-12 * largest)) ** settings.evenness
            projected = (size[:, None] * along) @ vectors / (values.clip(0) + ridge[:, None])
            weights[:, degree, rows] = u @ projected @ vectors.T
        return KernelRidge(self.train, means, weights)


class Choice(NamedTuple):
    """What was chosen for a split, with its KL over questions held out of it (task: from toplines), in nats."""

    split: str
    features: str
    ridge: float
    evenness: float
    damping: float
    validation_kl: float


def choose(
    survey: Survey,
    split: Split,
    candidates: Mapping[str, Features],
    degrees: int = DEGREES,
    grid: Sequence[Settings] = GRID,
    refit: bool = True,
) -> tuple[Choice, KernelRidge]:
    """The features, of those named, and the settings with the lowest KL given the toplines, and what they fit to
    training and validation questions together (`refit`), or to training questions alone.

    Each of PARTS parts of the training and validation questions is answered by a fit to the others, near-duplicates in
    one part: a choice by one validation fold alone is half as sure, and is made for half as many questions to fit to.
    """
    basis, known = place_basis(survey.questions, degrees), everyone(survey)
    has = np.asarray(basis.any(-1))
    tilts = {one.damping: observed_tilts(survey, basis, one.damping) for one in grid}
    seen = np.sort(np.concatenate([split.train, split.validation]))
    part_of, choices = inner_parts(survey, seen), []
    for name, features in candidates.items():
        found = np.zeros((len(grid), len(survey.groups), len(seen), degrees))
        for part in np.unique(part_of):
            train, held_out = seen[part_of != part], part_of == part
            kernel = question_kernel(features(train), train)
            decomposed = Decomposed(kernel, train, has)
            for one, settings in zip(found, grid, strict=True):
                one[:, held_out] = decomposed.fit(tilts[settings.damping], settings).predict(kernel[:, seen[held_out]])
        for one, settings in zip(found, grid, strict=True):
            cost = validation_kl(survey, tilted(known[:, seen], basis[seen], one), seen)
            choices.append(Choice(split.name, name, *settings, cost))
    best = min(choices, key=lambda choice: choice.validation_kl)
    fitted_to = seen if refit else split.train
    kernel = question_kernel(candidates[best.features](fitted_to), fitted_to)
    settings = Settings(best.ridge, best.evenness, best.damping)
    return best, Decomposed(kernel, fitted_to, has).fit(tilts[best.damping], settings)


def inner_parts(survey: Survey, seen: Int[np.ndarray, "seen"]) -> Int[np.ndarray, "seen"]:
    """The part, of PARTS, in which each question is held out to choose by; near-duplicates share one. ValueError if
    all are near-duplicates of one another."""
    clusters, cluster = np.unique(question_clusters(survey)[seen], return_inverse=True)
    if len(clusters) < 2:
        raise ValueError("the questions to fit to are near-duplicates of one another, so nothing can be chosen by them")
    order = np.random.default_rng(0).permutation(len(clusters))
    return (order % PARTS)[cluster]


def kernel_ridge(
    survey: Survey,
    splits: Sequence[Split],
    candidates: Mapping[str, Features],
    degrees: int = DEGREES,
    grid: Sequence[Settings] = GRID,
) -> tuple[Float[np.ndarray, "group question option"], list[Choice]]:
    r"""Held-out log p of every group, and what was chosen for each split; no model is steered.

    p_g(o) \propto prior(o) exp(t_g . phi(o)): t_g is predicted from the features, and the prior is what everybody
    answers on average to training questions with as many options, place by place. Given the toplines,
    p_g \propto h_all p_g / p-bar, the prior falls out and h_all exp(t_g . phi) remains, since tilts weighted by the
    groups' sizes add up to nearly nothing. So one table serves both tasks. NaN for questions that no split tests.
    """
    basis = place_basis(survey.questions, degrees)
    parts, choices = [], []
    for split in splits:
        choice, fitted = choose(survey, split, candidates, degrees, grid)
        features = candidates[choice.features]
        found = fitted.predict(question_kernel(features(fitted.train), fitted.train)[:, split.test])
        prior = mean_by_place(survey, fitted.train)
        parts.append(tilted(prior[None, split.test], basis[split.test], found))
        choices.append(choice)
    return assemble(parts, splits, len(survey.questions)), choices


def mean_by_place(survey: Survey, train: Int[np.ndarray, "train"]) -> Float[np.ndarray, "question option"]:
    """log of everybody's mean answer to training questions with as many options, place by place, one uniform answer
    added; -inf where there is no such option."""
    options = np.array([len(question.options) for question in survey.questions])
    log_probs = np.full(survey.everyone.shape, -np.inf)
    for count in np.unique(options):
        seen = survey.everyone_shares[train[options[train] == count], :count]
        log_probs[options == count, :count] = np.log((seen.sum(0) + 1 / count) / (len(seen) + 1))
    return log_probs
