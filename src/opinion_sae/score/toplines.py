"""The task *from toplines*: everybody's answers to a question are known, the groups' are asked for."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float

from opinion_sae.survey import Survey


def options_there(survey: Survey) -> Bool[np.ndarray, "question option"]:
    """Which options a question has; the rest is padding."""
    count = np.array([len(question.options) for question in survey.questions])
    return np.arange(survey.everyone.shape[-1]) < count[:, None]


@lru_cache(maxsize=8)
def everyone(survey: Survey) -> Float[np.ndarray, "1 question option"]:
    """log h_all, all respondents' answers to the same question, whatever their group: the toplines.

    Half a respondent is added to each option, so that an option nobody chose has some probability. Found once for a
    survey, and not to be written to.
    """
    people = survey.everyone_shares * survey.everyone_effective[:, None]
    log_probs = np.full((1, *people.shape), -np.inf)
    for row, counts, question in zip(log_probs[0], people, survey.questions, strict=True):
        options = len(question.options)
        row[:options] = np.log((counts[:options] + 0.5) / (counts[:options].sum() + options / 2))
    return log_probs


def group_weights(survey: Survey) -> Float[np.ndarray, "group"]:
    """Each group's mean weighted number of people per question, as a share of its attribute; all add up to 1."""
    size, attribute = survey.counts.sum(-1), np.array(survey.attributes)
    people = size.sum(1) / np.maximum((size > 0).sum(1), 1)
    of_attribute = np.array([people[attribute == name].sum() for name in attribute])
    return people / of_attribute / len(set(survey.attributes))


def from_toplines(
    survey: Survey, log_probs: Float[np.ndarray, "some_groups question option"]
) -> Float[np.ndarray, "some_groups question option"]:
    """What a method says of the groups, put on top of what is known of everybody, as log p in float64:

        p_g <- h_all p_g / p̄, made to add up to 1        log p̄ = sum_g w_g log p_g

    h_all is that of `everyone`, and w the `group_weights`: p̄ stands for what the method says of everybody, so a large
    group must count for more in it (with equal weights even people's own answers, put in for p_g, come out wrong). All
    groups that the method answers for enter p̄, whether or not people of that group answered: a prediction must not
    change with who happened to be asked, and is then the one that is made for a question that nobody answered yet.
    NaN (no answer) for a group stays NaN and does not enter. A method that says the same of all groups gives the
    toplines; one row for all gives them bit by bit.

    ValueError if a method gives some groups, and not all, a probability of 0: p̄ would be 0 there.
    """
    known = everyone(survey)
    if log_probs.shape[0] == 1:
        return np.where(np.isnan(log_probs), np.nan, known)
    there, said = options_there(survey), ~np.isnan(log_probs).any(-1)
    logs = np.where(there & said[..., None], log_probs, 0.0).astype(float)
    logs = _without_impossible(survey, logs, said)
    weights = group_weights(survey)[:, None] * said
    weights /= np.maximum(weights.sum(0), 1e-300)
    mean = (weights[..., None] * logs).sum(0)
    tilted = np.where(there, known + logs - mean, -np.inf)
    most = tilted.max(-1, keepdims=True)
    tilted -= most + np.log(np.exp(tilted - most).sum(-1, keepdims=True))
    return np.where(said[..., None], tilted, np.nan)


def _without_impossible(
    survey: Survey, logs: Float[np.ndarray, "group question option"], said: Bool[np.ndarray, "group question"]
) -> Float[np.ndarray, "group question option"]:
    """0 in place of -inf where every group that is answered for has it: there the groups do not differ."""
    never = np.isneginf(logs)
    if (never.any(0) & (never.sum(0) < said.sum(0)[:, None])).any():
        question, option = np.argwhere(never.any(0) & (never.sum(0) < said.sum(0)[:, None]))[0]
        asked = survey.questions[question]
        raise ValueError(
            f"question {asked.key!r}, option {asked.options[option]!r}: some groups have probability 0 and others do "
            "not, so the groups' geometric mean is 0; give every option some probability"
        )
    return np.where(never, 0.0, logs)
