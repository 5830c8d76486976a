"""Answers that need no steering: what any method has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from opinion_sae.delta.held_out import Split, assemble
from opinion_sae.score.metrics import by_group, kl, mean
from opinion_sae.survey import Survey


def uniform(survey: Survey) -> Float[np.ndarray, "1 question option"]:
    """log(1/N) for each of a question's N options."""
    log_probs = np.full((1, *survey.everyone.shape), -np.inf)
    for row, question in zip(log_probs[0], survey.questions, strict=True):
        row[: len(question.options)] = -np.log(len(question.options))
    return log_probs


def position_prior(survey: Survey, splits: Sequence[Split]) -> Float[np.ndarray, "group question option"]:
    """Each group's mean answer to training questions with as many options, place by place; the model is not asked.

    One uniform answer is added to each mean, so that no option has probability 0 and a group that answered no such
    question gets 1/N.
    """
    options = np.array([len(question.options) for question in survey.questions])
    shares, parts = survey.shares, []
    for split in splits:
        part = np.full((len(survey.groups), len(split.test), shares.shape[-1]), -np.inf)
        for count in np.unique(options[split.test]):
            seen = shares[:, split.train[options[split.train] == count], :count]
            answered = ~np.isnan(seen).any(-1, keepdims=True)
            total = np.where(answered, seen, 0).sum(1) + 1 / count
            prior = np.log(total / (answered.sum(1) + 1))
            part[:, options[split.test] == count, :count] = prior[:, None]
        parts.append(part)
    return assemble(parts, splits, len(survey.questions))


def validation_kl(
    survey: Survey, log_probs: Float[np.ndarray, "_ chosen option"], questions: Int[np.ndarray, "chosen"]
) -> float:
    """Mean KL over groups, then over `questions`, of the answers to those; one row of `log_probs` may stand for all
    groups. The one number by which anything is chosen."""
    cells = kl(survey.shares[:, questions], np.exp(log_probs.astype(float)))
    return mean(by_group(survey, cells)["all"])


def choose(
    survey: Survey, candidates: dict[str, Float[np.ndarray, "group question option"]], splits: Sequence[Split]
) -> tuple[Float[np.ndarray, "group question option"], list[str]]:
    """For each split the candidate with the lowest KL on its validation questions: test answers, and which it was.

    The candidates answer all questions and must not have been fitted to any.
    """
    names, parts = [], []
    for split in splits:
        seen = split.validation
        costs = {name: validation_kl(survey, table[:, seen], seen) for name, table in candidates.items()}
        names.append(min(costs, key=costs.__getitem__))
        parts.append(candidates[names[-1]][:, split.test])
    return assemble(parts, splits, len(survey.questions)), names
