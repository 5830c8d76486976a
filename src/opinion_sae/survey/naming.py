"""Which questions name a group: what an offset does there may only repeat a word of the question."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Bool

from opinion_sae.survey.core import Question, Survey
from opinion_sae.survey.groups import GROUPS

NAMED = ("party", "ideology", "race", "sex")  # attributes whose groups have names that a question would use
# of those names, the ones that stand for something else as often
GENERIC = frozenset({"other", "mixed", "something else", "in some other way", "m", "f", "middle of the road"})


def names_of(groups: Iterable[str]) -> frozenset[str]:
    """The names that count, in lower case: those of `groups`, and every name and spelling of a party, an ideology, a
    race or a sex that `survey.groups` knows, but `GENERIC` ones."""
    known = [name for attribute in NAMED for group, others in GROUPS[attribute].items() for name in (group, *others)]
    parts = [part for group in groups for part in group.split(" & ")]
    return frozenset(name.casefold() for name in (*known, *parts)) - GENERIC


@lru_cache(maxsize=8)
def _pattern(names: frozenset[str]) -> re.Pattern[str]:
    longest_first = "|".join(re.escape(name) for name in sorted(names, key=lambda name: (-len(name), name)))
    return re.compile(rf"(?<!\w)(?:{longest_first})s?(?!\w)")


def names_a_group(question: Question, groups: Sequence[str]) -> bool:
    """Whether the question's text or one of its options has one of `names_of` the groups in it: as whole words, in
    upper or lower case, with or without an s at the end."""
    text = "\n".join([question.text, *question.options]).casefold()
    return _pattern(names_of(groups)).search(text) is not None


def naming(survey: Survey) -> Bool[np.ndarray, "question"]:
    """`names_a_group` of each question of a survey, for its own groups."""
    return np.array([names_a_group(question, survey.groups) for question in survey.questions])
