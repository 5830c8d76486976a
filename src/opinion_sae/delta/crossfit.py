"""Held-out answers: every question is answered by an offset that was fitted without it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file

from opinion_sae.artifacts import replacing
from opinion_sae.delta.fit import Offset, fit_dense, fit_frozen, fit_offset
from opinion_sae.delta.offsets import DenseOffset, GroupDelta
from opinion_sae.model.answers import AnswerPath
from opinion_sae.progress import progress
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.survey import Survey

Fit = Callable[[np.ndarray, np.ndarray], tuple[Offset, pd.DataFrame]]


class CrossFit(NamedTuple):
    """The outcome of `cross_fit`."""

    log_probs: Float[np.ndarray, "group question option"]  # held out
    offsets: list[Offset]  # one per fold
    history: pd.DataFrame  # the fits' histories, with a column `fold`


def fold_parts(folds: Int[np.ndarray, "question"], fold: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training, validation and test questions of one fold; validation is the next fold, so that it is never test.

    Raises ValueError if there are fewer than three folds, which would leave nothing to train on.
    """
    count = int(folds.max()) + 1
    if count < 3:
        raise ValueError(f"folds: {count} leave no questions to train on beside test and validation; take 3 or more")
    test, validation = folds == fold, folds == (fold + 1) % count
    return np.flatnonzero(~test & ~validation), np.flatnonzero(validation), np.flatnonzero(test)


def cross_fit(answers: AnswerPath, sae: object, folds: Int[np.ndarray, "question"], fit: Fit) -> CrossFit:
    """Fit by `fit(train, validation)` once per fold and answer the fold's test questions with the outcome."""
    parts, offsets, histories = [], [], []
    for fold in progress(range(int(folds.max()) + 1), "folds"):
        train, validation, test = fold_parts(folds, fold)
        offset, history = fit(train, validation)
        offsets.append(offset)
        histories.append(history.assign(fold=fold))
        parts.append((test, answers.predict(sae, offset, torch.from_numpy(test)).numpy()))
    groups = parts[0][1].shape[0]
    log_probs = np.empty((groups, len(folds), parts[0][1].shape[2]), np.float32)
    for test, answer in parts:
        log_probs[:, test] = answer
    return CrossFit(log_probs, offsets, pd.concat(histories, ignore_index=True))


def fit_methods(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    survey: Survey,
    folds: Int[np.ndarray, "question"],
    **settings: float | int,
) -> dict[str, CrossFit]:
    """Held-out fits of every method by its name in `alignment.csv`; `settings` go to `fit_frozen`.

    'delta' goes on from the fits of 'shared-delta', as `fit_frozen` does with both stages.
    """
    second = {name: value for name, value in settings.items() if name != "shared_lr"}
    shares = torch.from_numpy(survey.shares).float()

    def first_stage(train: np.ndarray, validation: np.ndarray) -> tuple[GroupDelta, pd.DataFrame]:
        return fit_frozen(answers, sae, survey, train=train, validation=validation, stages=("shared",), **settings)

    def second_stage(train: np.ndarray, validation: np.ndarray) -> tuple[GroupDelta, pd.DataFrame]:
        offset = copy.deepcopy(next(starts))
        history = fit_offset(answers, offset, sae, shares, train, validation, **second)
        return offset, history.assign(stage="deviation")

    def dense(train: np.ndarray, validation: np.ndarray) -> tuple[DenseOffset, pd.DataFrame]:
        return fit_dense(answers, survey, train=train, validation=validation, **settings)

    shared = cross_fit(answers, sae, folds, first_stage)
    starts = iter(shared.offsets)
    delta = cross_fit(answers, sae, folds, second_stage)
    return {
        "unsteered": CrossFit(answers.predict().numpy(), [], pd.DataFrame()),
        "shared-delta": shared,
        "delta": delta._replace(history=pd.concat([shared.history, delta.history])),
        "dense": cross_fit(answers, None, folds, dense),
    }


def save_fits(folder: Path, fits: dict[str, CrossFit], **about: object) -> None:
    """Write `answers.safetensors` (held-out log p by method), offsets per fold (`delta-*`, `shared-*`) and `dense.safetensors`."""
    save_answers(folder / "answers.safetensors", {name: fit.log_probs for name, fit in fits.items()})
    header = {key: str(value) for key, value in about.items()}
    for name, method in (("delta", "delta"), ("shared", "shared-delta")):
        for fold, delta in enumerate(fits[method].offsets):
            delta.save(folder / f"{name}-{fold}.safetensors", **header)
    save_dense(folder / "dense.safetensors", fits["dense"].offsets)


def save_dense(path: Path, offsets: Sequence[DenseOffset]) -> None:
    """Write the vectors of each fold, both parts in one."""
    with replacing(path) as side:
        save_file({str(n): (one.shared + one.deviation).detach() for n, one in enumerate(offsets)}, side)


def save_answers(path: Path, tables: dict[str, Float[np.ndarray, "_ question option"]]) -> None:
    """Write held-out log p by method."""
    with replacing(path) as side:
        save_file({name: torch.from_numpy(table).contiguous() for name, table in tables.items()}, side)


def load_answers(folder: Path, name: str = "answers.safetensors") -> dict[str, Float[np.ndarray, "_ question option"]]:
    """Held-out log p by method, as `save_answers` wrote them."""
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no held-out answers there; run the chapters that this one needs first")
    return {name: tensor.numpy() for name, tensor in load_file(path).items()}


def load_dense(folder: Path, count: int, name: str = "dense") -> list[DenseOffset]:
    """The dense vectors of the first `count` folds, as `save_dense` wrote them: all in the groups' own part."""
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no vectors there; run the chapters that this one needs first")
    groups, vectors = load_deltas(folder, 1)[0].groups, load_file(path)
    found = []
    for fold in range(count):
        offset = DenseOffset(groups, vectors[str(fold)].shape[1])
        offset.deviation.data.copy_(vectors[str(fold)])
        found.append(offset)
    return found


def save_activations(
    folder: Path, tokens: Float[torch.Tensor, "token d"], held_out: Float[torch.Tensor, "held_out d"]
) -> None:
    """Write the activations that the SAE was trained and judged on."""
    with replacing(folder / "activations.safetensors") as side:
        save_file({"tokens": tokens, "held_out": held_out}, side)


def load_activations(folder: Path) -> tuple[Float[torch.Tensor, "token d"], Float[torch.Tensor, "held_out d"]]:
    """What `save_activations` wrote."""
    path = folder / "activations.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no activations there; run chapter 03_sae first")
    tensors = load_file(path)
    return tensors["tokens"], tensors["held_out"]


def load_deltas(folder: Path, count: int, name: str = "delta") -> list[GroupDelta]:
    """The first `count` folds' offsets, as `save_fits` wrote them; `name` is 'delta' or 'shared'."""
    paths = [folder / f"{name}-{fold}.safetensors" for fold in range(count)]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{folder}: {', '.join(missing)} not there; run chapter 04_delta first")
    return [GroupDelta.load(path)[0] for path in paths]


def fold_sizes(survey: Survey, folds: Int[np.ndarray, "question"]) -> pd.DataFrame:
    """Questions per fold and survey."""
    table = pd.DataFrame({"fold": folds, "survey": [question.survey for question in survey.questions]})
    return table.groupby(["fold", "survey"]).size().unstack(fill_value=0)
