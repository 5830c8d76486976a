"""Held-out answers: which questions a fit may see, and every question answered by an offset fitted without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from opinion_sae.delta.offsets import Offset
from opinion_sae.model.answers import AnswerPath
from opinion_sae.progress import progress
from opinion_sae.survey import Survey, question_clusters


class Split(NamedTuple):
    """Positions of questions. Fitted on `train`, chosen by `validation`, reported on `test`; no two overlap."""

    name: str
    train: Int[np.ndarray, "train"]
    validation: Int[np.ndarray, "validation"]
    test: Int[np.ndarray, "test"]


class HeldOut(NamedTuple):
    """The outcome of `held_out`."""

    log_probs: Float[np.ndarray, "group question option"]  # of the test questions; NaN for those that no split tests
    offsets: list[Offset]  # one per split
    history: pd.DataFrame  # the fits' histories, with a column `fold`, the split's number


def whole(survey: Survey) -> Split:
    """Every question for training and none beside: a fit then judges its epochs on the training questions."""
    none = np.arange(0)
    return Split("all", np.arange(len(survey.questions)), none, none)


def by_question(folds: Int[np.ndarray, "question"]) -> list[Split]:
    """The folds of `question_folds`: fold f is tested in split f, and validation is the next fold.

    Raises ValueError if there are fewer than three folds, which would leave nothing to train on.
    """
    count, splits = int(folds.max()) + 1, []
    if count < 3:
        raise ValueError(f"folds: {count} leave no questions to train on beside test and validation; take 3 or more")
    for fold in range(count):
        test, validation = folds == fold, folds == (fold + 1) % count
        parts = (np.flatnonzero(part) for part in (~test & ~validation, validation, test))
        splits.append(Split(f"fold {fold}", *parts))
    return splits


def fold_of(splits: Sequence[Split], questions: int) -> Int[np.ndarray, "question"]:
    """The number of the split that tests each question, -1 if none does."""
    numbers = np.full(questions, -1)
    for number, split in enumerate(splits):
        numbers[split.test] = number
    return numbers


def by_topic(survey: Survey, folds: int, seed: int) -> list[Split]:
    """Whole topics left out: topics are dealt to `folds` parts of like size, larger ones first.

    Questions that repeat a test question under another topic are left out of training and validation. ValueError if
    there are fewer topics than folds.
    """
    topics = np.array([question.topic for question in survey.questions])
    names, size = np.unique(topics, return_counts=True)
    if len(names) < folds:
        raise ValueError(f"folds is {folds}, but the survey {survey.name} has {len(names)} topics: {', '.join(names)}")
    rng, part, filled = np.random.default_rng(seed), np.empty(len(topics), np.int64), np.zeros(folds)
    shuffled = rng.permutation(len(names))
    for topic in shuffled[np.argsort(-size[shuffled], kind="stable")]:
        smallest = int(filled.argmin())
        part[topics == names[topic]] = smallest
        filled[smallest] += size[topic]
    apart = (_without_repeats(survey, split) for split in by_question(part))
    return [split._replace(name=f"topics {fold}") for fold, split in enumerate(apart)]


def by_survey(survey: Survey, folds: int, seed: int) -> list[Split]:
    """Fit on the other surveys, test on one, for each of them; one in `folds` of the former is for validation.

    Questions that repeat a test question are left out. ValueError unless two surveys are joined.
    """
    source = np.array([question.survey for question in survey.questions])
    names = list(dict.fromkeys(source.tolist()))
    if len(names) < 2:
        raise ValueError(f"{survey.name} is one survey; to fit on one and test on another, join two in a list")
    clusters, splits = question_clusters(survey), []
    for name in names:
        chosen = np.random.default_rng(seed).random(clusters.max() + 1) < 1 / folds  # clusters stay together
        test, validation = source == name, chosen[clusters]
        parts = (~test & ~validation, ~test & validation, test)
        split = Split(f"to {name}", *(np.flatnonzero(part) for part in parts))
        splits.append(_without_repeats(survey, split))
    return splits


def _without_repeats(survey: Survey, split: Split) -> Split:
    """Leave out whatever repeats a question that is reported on, or in training one that chooses."""
    cluster = question_clusters(survey)
    validation = split.validation[~np.isin(cluster[split.validation], cluster[split.test])]
    seen = np.concatenate([split.test, validation])
    train = split.train[~np.isin(cluster[split.train], cluster[seen])]
    if not len(train) or not len(validation):
        raise ValueError(f"split {split.name!r}: {len(train)} questions for training, {len(validation)} for validation")
    return split._replace(train=train, validation=validation)


def held_out(
    answers: AnswerPath, splits: Sequence[Split], fit: Callable[..., tuple[Offset, pd.DataFrame]], *given: Sequence
) -> HeldOut:
    """Fit by `fit(split)` and answer the split's test questions with the outcome, for one split after another.

    `fit` gives an offset and its history. Each of `given` has an entry for every split: `fit(split, *entries)`.
    """
    found, offsets, histories = [], [], []
    for number, (split, *mine) in enumerate(zip(progress(splits, "splits"), *given, strict=True)):
        offset, history = fit(split, *mine)
        offsets.append(offset)
        histories.append(history.assign(fold=number))
        found.append(answers.predict(offset, torch.from_numpy(split.test)).numpy())
    return HeldOut(assemble(found, splits, len(answers.questions)), offsets, pd.concat(histories, ignore_index=True))


def answer_with(
    answers: AnswerPath, splits: Sequence[Split], offsets: Sequence[Offset]
) -> Float[np.ndarray, "group question option"]:
    """log p of each split's test questions under the offset that goes with it; nothing is fitted."""
    return held_out(answers, splits, lambda split, offset: (offset, pd.DataFrame()), offsets).log_probs


def assemble(
    parts: Sequence[Float[np.ndarray, "group _ *option"]], splits: Sequence[Split], questions: int
) -> Float[np.ndarray, "group question *option"]:
    """One table of all questions from each split's answers to its test questions; NaN where there is no answer."""
    table = np.full((parts[0].shape[0], questions, *parts[0].shape[2:]), np.nan, np.float32)
    for split, part in zip(splits, parts, strict=True):
        table[:, split.test] = part
    return table


def fold_sizes(survey: Survey, splits: Sequence[Split]) -> pd.DataFrame:
    """Questions tested per split and survey."""
    names = [question.survey for question in survey.questions]
    table = pd.DataFrame({"fold": fold_of(splits, len(names)), "survey": names})
    return table.groupby(["fold", "survey"]).size().unstack(fill_value=0)


def group_rounds(survey: Survey) -> list[list[int]]:
    """Groups to leave out together: round r leaves out the r-th group of every attribute that has two or more."""
    of: dict[str, list[int]] = {attribute: [] for attribute in survey.attributes}
    for group, attribute in enumerate(survey.attributes):
        of[attribute].append(group)
    members = [groups for groups in of.values() if len(groups) > 1]
    if not members:
        raise ValueError(f"the survey {survey.name} has no attribute with two groups; a group left out has no siblings")
    most = max(len(groups) for groups in members)
    return [[groups[r] for groups in members if r < len(groups)] for r in range(most)]


def leave_groups_out(
    answers: AnswerPath,
    survey: Survey,
    splits: Sequence[Split],
    fit: Callable[[Survey, Split], tuple[Offset, pd.DataFrame]],
) -> dict[str, Float[np.ndarray, "group question option"]]:
    """Held-out answers for groups that took no part in the fit; neither did the questions.

    `fit(others, split)` fits offsets to the survey without one group of every attribute, once per round of
    `group_rounds` and split. A group left out is answered with Delta_shared alone ('left-out-shared') and with
    Delta_shared plus the mean D of its attribute's other groups ('left-out-sibling'). NaN for a group without siblings.
    """
    names = ("left-out-shared", "left-out-sibling")
    tables = {name: np.full(survey.shares.shape, np.nan, np.float32) for name in names}
    for out in progress(group_rounds(survey), "groups left out"):
        kept = [g for g in range(len(survey.groups)) if g not in out]
        siblings = [
            [i for i, g in enumerate(kept) if survey.attributes[g] == survey.attributes[group]] for group in out
        ]
        others = survey.select(groups=kept)
        fitted = [fit(others, split)[0] for split in splits]
        shared = [offset.shared_for([survey.groups[g] for g in out]) for offset in fitted]
        means = [torch.stack([offset.deviation[same].mean(0) for same in siblings]) for offset in fitted]
        sibling = [offset.with_parts(deviation=rows) for offset, rows in zip(shared, means, strict=True)]
        for table, offsets in zip(tables.values(), (shared, sibling), strict=True):
            table[out] = answer_with(answers, splits, offsets)
    return tables
