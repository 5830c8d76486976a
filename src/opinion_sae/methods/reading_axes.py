"""The few axes of a direct read-out: what is read, where each group stands, which places of options it moves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from opinion_sae.delta.held_out import Split
from opinion_sae.methods.kernel_ridge import DEGREES, Features, KernelRidge, choose
from opinion_sae.methods.place import place_basis
from opinion_sae.survey import Survey


@dataclass(frozen=True, eq=False)
class ReadingAxes:
    r"""t_g(q) = constant_g + sum_k codes_gk (read_k . x_q) profile_k,  p_g(o) \propto h_all(o) exp(t_g(q) . phi(o)).

    x_q are the features that were read, `read` (axis, feature) their weights, `codes` (group, axis) where the groups
    stand, with norm 1 over groups; `profile` (axis, degree), of norm 1, is what an axis writes, in the polynomials phi
    of `place_basis`, and `constant` (group, degree) what a group has whatever the question. In nats.
    """

    read: Float[np.ndarray, "axis feature"]
    codes: Float[np.ndarray, "group axis"]
    profile: Float[np.ndarray, "axis degree"]
    constant: Float[np.ndarray, "group degree"]

    def tilts(self, features: Float[np.ndarray, "question feature"]) -> Float[np.ndarray, "group question degree"]:
        read = features @ self.read.T
        return np.einsum("gk,qk,kb->gqb", self.codes, read, self.profile) + self.constant[:, None]

    def written(self, survey: Survey) -> Float[np.ndarray, "axis question option"]:
        """What one unit read by each axis adds to an option's log probability, for a group of code 1."""
        return np.einsum("kb,qbo->kqo", self.profile, place_basis(survey.questions, self.profile.shape[1]))


def reading_axes(
    survey: Survey, split: Split, features: Features, axes: int, degrees: int = DEGREES, refit: bool = False
) -> tuple[ReadingAxes, Float[np.ndarray, "question feature"]]:
    """The first `axes` axes of the ridge read-out chosen on the split, and the features of all questions they read.

    Fitted to training questions alone, so that what starts from the axes may still be judged on validation questions;
    with `refit` to both. The features are weighted by the questions fitted to.
    """
    _, fitted = choose(survey, split, {"": features}, degrees, refit=refit)
    x = features(fitted.train)
    return cut_to_axes(fitted, x, axes), x


def cut_to_axes(
    fitted: KernelRidge, features: Float[np.ndarray, "question feature"], axes: int, rounds: int = 50
) -> ReadingAxes:
    """The axes that explain most of what the read-out says of its own training questions, one after the other.

    Each is the best c_g p_b s_q for what those before it have left of the predicted tilts (power iteration from the
    singular vectors). s_q = a . x_q exactly, with a = sum_gb c_g p_b W_gb of the read-out's coefficients W.
    """
    groups = len(fitted.mean)
    if not 1 <= axes <= groups:
        raise ValueError(f"cut_to_axes: {axes} axes; {groups} groups have 1 to {groups}")
    left = fitted.coefficients(features)
    read, codes, profiles = [], [], []
    for _ in range(axes):
        said = left @ features[fitted.train].T
        c = np.linalg.svd(said.reshape(groups, -1), full_matrices=False)[0][:, 0]
        for _ in range(rounds):
            p = np.linalg.svd(np.einsum("g,gbi->bi", c, said), full_matrices=False)[0][:, 0]
            c = np.linalg.svd(np.einsum("b,gbi->gi", p, said), full_matrices=False)[0][:, 0]
        p = p * (np.sign(p[np.abs(p).argmax()]) or 1.0)
        c = c * (np.sign(c[np.abs(c).argmax()]) or 1.0)
        a = np.einsum("g,b,gbj->j", c, p, left)
        left = left - np.einsum("g,b,j->gbj", c, p, a)
        read.append(a)
        codes.append(c)
        profiles.append(p)
    return ReadingAxes(np.stack(read), np.stack(codes, 1), np.stack(profiles), fitted.mean)
