"""Axes in words: the questions at either end of an axis, what these are about, and the groups that it divides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from opinion_sae.delta.reading import ReadingDelta
from opinion_sae.model.answers import AnswerPath
from opinion_sae.survey import Question

ENDS = 10  # questions shown at either end of an axis
ABOUT = 2  # topics named of an end
STANDING = 3  # groups named on either side


@torch.no_grad()
def question_scores(
    answers: AnswerPath, offset: ReadingDelta, order: Sequence[tuple[int, float]]
) -> Float[np.ndarray, "axis question"]:
    """a_k . r along the scale, of every question in the first order of its options; axes in `order`, with its signs."""
    items = torch.arange(len(answers.questions)) * answers.orders
    scores = offset.scores(answers.read(offset.sae, offset.reads, items).to(offset.a.device))[..., 0].cpu()
    return torch.stack([sign * scores[:, max(column, 0)] for column, sign in order]).double().numpy()


def ends(scores: Float[np.ndarray, "question"], count: int = ENDS) -> tuple[list[int], list[int]]:
    """The questions with the highest scores above 0, and those with the lowest below."""
    order = np.argsort(-scores, kind="stable")
    up, down = (some[: min(count, len(order) // 2)] for some in (order, order[::-1]))
    return [int(q) for q in up if scores[q] > 0], [int(q) for q in down if scores[q] < 0]


def about(questions: Sequence[Question], chosen: Sequence[int]) -> list[str]:
    """The topics that `chosen` questions have beyond their share of all, two of them at least, most first; the topic of
    the first where there is none such."""
    often, here = Counter(question.topic for question in questions), Counter(questions[q].topic for q in chosen)
    excess = {topic: n - len(chosen) * often[topic] / len(questions) for topic, n in here.items() if n > 1}
    best = sorted((topic for topic in excess if excess[topic] > 0), key=lambda topic: (-excess[topic], topic))
    return best or [questions[q].topic for q in chosen[:1]]


def topics_of(
    questions: Sequence[Question], at: tuple[Sequence[int], Sequence[int]], count: int = ABOUT
) -> tuple[list[str] | None, list[str] | None]:
    """What the questions at either end are about that those at the other are not; None for an end without questions."""
    one, other = (about(questions, end) for end in at)
    own = [topic for topic in one if topic not in other][:count], [topic for topic in other if topic not in one][:count]
    return own[0] if at[0] else None, own[1] if at[1] else None


def sides(codes: pd.DataFrame, axis: int, count: int = STANDING) -> tuple[list[str], list[str]]:
    """The groups with the largest codes above 0 on an axis, and the lowest below, of a table as `codes_table`'s."""
    part = codes[codes["axis"] == axis].sort_values("c", ascending=False, kind="stable")
    above, below = part[part["c"] > 0], part[part["c"] < 0].iloc[::-1]
    return above["group"].head(count).tolist(), below["group"].head(count).tolist()


def sentence(
    axis: int,
    topics: tuple[Sequence[str] | None, Sequence[str] | None],
    groups: tuple[Sequence[str], Sequence[str]],
) -> str:
    """What an axis divides, by the topics of the questions at its ends (`topics_of`) and the groups on its sides."""
    if not (groups[0] or groups[1]) or topics == (None, None):
        return f"Axis {axis} reads nothing that divides the groups."
    here, there = topics
    one, other = (listed(side) or "no group" for side in groups)
    if not here and (there or here is None):  # turned, so that the topics that there are come first
        here, there, one, other = there, here, other, one
    said = f"Axis {axis}: {on(here or [])} divide {one} (moved up the scale) from {other} (down)"
    return f"{said}." if there is None else f"{said}; on {on(there)} it is the other way round."


def on(topics: Sequence[str]) -> str:
    return f"questions about {listed(topics)}" if topics else "questions with no topic of their own"


def listed(words: Sequence[str]) -> str:
    """'a, b and c', or 'a, b and c, and d' where one of them is called 'b and c'."""
    last = ", and " if any(" and " in word for word in words) else " and "
    return last.join(part for part in (", ".join(words[:-1]), "".join(words[-1:])) if part)


def axis_facts(
    answers: AnswerPath, offset: ReadingDelta, order: Sequence[tuple[int, float]], codes: pd.DataFrame
) -> list[dict[str, object]]:
    """Per axis its sentence, the groups with their codes, and the questions at either end: plain data for JSON."""
    questions, found = answers.questions, []
    for axis, scores in enumerate(question_scores(answers, offset, order), 1):
        at = ends(scores)
        up, down = ([(questions[q].text, questions[q].topic, float(scores[q])) for q in end] for end in at)
        groups = codes[codes["axis"] == axis].sort_values("c", ascending=False, kind="stable")
        found.append(
            {
                **{
                    "axis": axis,
                    "sentence": sentence(axis, topics_of(questions, at), sides(codes, axis)),
                    "up": up,
                    "down": down,
                },
                "groups": groups[["group", "c", "low", "high"]].to_numpy(object).tolist(),
            }
        )
    return found
