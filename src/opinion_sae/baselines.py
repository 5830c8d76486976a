"""Answers that need no steering: what any method has to beat."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from opinion_sae.survey import Survey


def uniform(survey: Survey) -> Float[np.ndarray, "1 question option"]:
    """log(1/N) for each of a question's N options."""
    log_probs = np.full((1, *survey.everyone.shape), -np.inf)
    for row, question in zip(log_probs[0], survey.questions, strict=True):
        row[: len(question.options)] = -np.log(len(question.options))
    return log_probs


def everyone(survey: Survey) -> Float[np.ndarray, "1 question option"]:
    """All respondents' answers to the same question, whatever their group: a ceiling for any shared offset.

    Half a respondent is added to each option, so that an option nobody chose has some probability.
    """
    people = survey.everyone_shares * survey.everyone_effective[:, None]
    log_probs = np.full((1, *people.shape), -np.inf)
    for row, counts, question in zip(log_probs[0], people, survey.questions, strict=True):
        options = len(question.options)
        row[:options] = np.log((counts[:options] + 0.5) / (counts[:options].sum() + options / 2))
    return log_probs
