r"""How a group's answers to a question lean away from everybody's: a tilt along the places of the options.

A group's answers are written as  h_g(o) \propto h_all(o) exp(sum_b t_b phi_b(o)):  phi_1 rises along the scale, phi_2
sets the middle against the ends, and so on. One row of tilts t stands for questions with any number of options.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from opinion_sae.survey import Question, Survey


def place_basis(questions: Sequence[Question], degrees: int) -> Float[np.ndarray, "question degree option"]:
    """Polynomials phi_1 ... phi_degrees of an option's place, of mean 0 and mean square 1 over a question's options.

    The place is the option's position on its scale, or its index where the question names none. A question of N options
    has N - 1 of them; the others, and places beyond the last option, are 0. ValueError for fewer than one degree.
    """
    if degrees < 1:
        raise ValueError(f"place_basis: degrees must be at least 1, got {degrees}")
    return _place_basis(tuple(questions), degrees).copy()


@lru_cache(maxsize=8)  # a run asks for that of the same questions some hundred times
def _place_basis(questions: tuple[Question, ...], degrees: int) -> Float[np.ndarray, "question degree option"]:
    basis = np.zeros((len(questions), degrees, max(len(question.options) for question in questions)))
    for row, question in zip(basis, questions, strict=True):
        count = len(question.options)
        places = np.array(question.positions or range(count), float)
        powers = np.vander(places - places.mean(), min(degrees + 1, count), increasing=True)
        orthonormal, triangle = np.linalg.qr(powers)
        found = (orthonormal * np.sign(np.diag(triangle)) * np.sqrt(count)).T[1:]  # each rises at the scale's end
        row[: len(found), :count] = found
    return basis


def observed_tilts(
    survey: Survey, basis: Float[np.ndarray, "question degree option"], damping: float
) -> Float[np.ndarray, "group question degree"]:
    """The tilt of each cell: a damped Newton step from 0 down KL(h_g || h_all exp(t . phi) / Z),

        t = (C + damping I)^-1 (E_g[phi] - E_all[phi]),   C = Cov_all[phi].

    It needs no logarithm of a share, so that options that few people chose add little noise. NaN in cells without
    answers, 0 in degrees that a question lacks.
    """
    everyone = survey.everyone_shares
    mean = np.einsum("qo,qbo->qb", everyone, basis)
    covariance = np.einsum("qo,qbo,qco->qbc", everyone, basis, basis) - mean[:, :, None] * mean[:, None]
    gradient = np.einsum("gqo,qbo->gqb", survey.shares - everyone, basis)
    damped = covariance + damping * np.eye(basis.shape[1])
    return np.linalg.solve(damped, np.moveaxis(gradient, 0, -1)).transpose(2, 0, 1)


def tilted(
    log_base: Float[np.ndarray, "#group question option"],
    basis: Float[np.ndarray, "question degree option"],
    tilts: Float[np.ndarray, "group question degree"],
) -> Float[np.ndarray, "group question option"]:
    """log p_g(o) = log_base(o) + t_g . phi(o) - log Z; -inf stays -inf."""
    logits = log_base + np.einsum("gqb,qbo->gqo", tilts, basis)
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
