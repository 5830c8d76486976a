"""What the rest of the project means by a survey: questions, groups and weighted answer counts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Question:
    """One closed question.

    `ordinal` says whether the options run along a scale, in their order. `positions` are the
    options' places on that scale where a source says that the steps are uneven (a "neither" that
    lies half a step from its neighbours); empty means even steps, 0, 1, 2, ...
    Questions of one survey with the same `cluster` ask the same thing in other words.
    """

    key: str
    text: str
    options: tuple[str, ...]
    ordinal: bool
    topic: str
    survey: str
    positions: tuple[float, ...] = ()
    cluster: str = ""


@dataclass(frozen=True)
class DroppedCell:
    """A group's answers to one question that were left out because too few people gave one."""

    group: str
    question: str
    respondents: int


@dataclass(frozen=True, eq=False)
class Survey:
    """Weighted answer counts of groups of people; refusals are never counted.

    Options are padded to the most options of any question; a count is 0 where the option does not
    exist or where the cell (group, question) is missing. `effective` is Kish's effective sample
    size (Σw)² / Σw² of the people behind a cell (Kish 1965, Survey Sampling, section 11.7).
    """

    name: str
    questions: tuple[Question, ...]
    groups: tuple[str, ...]
    attributes: tuple[str, ...]
    counts: Float[np.ndarray, "group question option"]
    respondents: Int[np.ndarray, "group question"]
    effective: Float[np.ndarray, "group question"]
    everyone: Float[np.ndarray, "question option"]
    everyone_effective: Float[np.ndarray, "question"]
    dropped: tuple[DroppedCell, ...] = ()
    provenance: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    @property
    def shares(self) -> Float[np.ndarray, "group question option"]:
        """counts / Σ_option counts: NaN in every option of a missing cell, 0 for padding."""
        total = self.counts.sum(-1, keepdims=True)
        return np.divide(self.counts, total, out=np.full_like(self.counts, np.nan), where=total > 0)

    @property
    def everyone_shares(self) -> Float[np.ndarray, "question option"]:
        """The shares of all respondents taken together; 0 for padding."""
        return self.everyone / self.everyone.sum(-1, keepdims=True)

    def select(self, questions: Sequence[int] | None = None, groups: Sequence[int] | None = None) -> Survey:
        """The same survey with only these questions and groups (positions, in the order given).

        The option axis is cut to the most options of any question that remains. `dropped` keeps
        the entries that concern what remains.
        """
        q = _positions(questions, len(self.questions), "question")
        g = _positions(groups, len(self.groups), "group")
        kept = tuple(self.questions[i] for i in q)
        names = tuple(self.groups[i] for i in g)
        width = max((len(question.options) for question in kept), default=0)
        keys = {question.key for question in kept}
        return replace(
            self,
            questions=kept,
            groups=names,
            attributes=tuple(self.attributes[i] for i in g),
            counts=self.counts[np.ix_(g, q)][:, :, :width],
            respondents=self.respondents[np.ix_(g, q)],
            effective=self.effective[np.ix_(g, q)],
            everyone=self.everyone[q][:, :width],
            everyone_effective=self.everyone_effective[q],
            dropped=tuple(c for c in self.dropped if c.question in keys and c.group in names),
        )


def _positions(wanted: Sequence[int] | None, size: int, what: str) -> np.ndarray:
    if wanted is None:
        return np.arange(size)
    positions = np.asarray(wanted)
    if positions.dtype == bool:
        raise ValueError(f"select takes {what} positions, not a mask; np.flatnonzero(mask) makes them")
    for position in positions:
        if not 0 <= position < size:
            raise ValueError(f"select: there is no {what} {position}; there are {size}, from 0")
    return positions.astype(int)


def survey_hash(survey: Survey) -> str:
    """SHA-256 over the questions, the group names and the counts (to 1e-6), as a hex string."""
    # the cluster says how questions are divided for a fit, not what was asked
    questions = [astuple(question)[:-1] for question in survey.questions]
    head = json.dumps([questions, survey.groups, survey.attributes])
    digest = hashlib.sha256(head.encode())
    for array in (survey.counts, survey.everyone):
        # + 0.0 turns -0.0 into 0.0, which has other bytes
        digest.update((np.round(array, 6) + 0.0).astype("<f8").tobytes())
    return digest.hexdigest()
