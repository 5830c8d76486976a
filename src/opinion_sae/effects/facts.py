"""Questions with one right answer, and plain passages: what an offset for opinions should leave alone.

Both were written for this project and have its licence. The questions are easy ones, since small models are to be above
chance; in each subject the right option stands equally often at each place. The passages (stories, recipes, letters,
instructions) have nothing to do with surveys.

Small models that know an answer often cannot name its letter, and one that guesses has nothing to lose. So the options
are not shown but scored by their own text, as is usual for such models: the likeliest first token wins.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import transformers
from jaxtyping import Int

from opinion_sae.artifacts import read_text
from opinion_sae.model.prompts import Prompt
from opinion_sae.survey import Question
from opinion_sae.survey.checks import check_question, read_table

DATA = Path(__file__).parents[1] / "data"
PLACES = ("a", "b", "c", "d")


class Facts(NamedTuple):
    """Multiple-choice questions and the position of each one's right option."""

    questions: tuple[Question, ...]
    right: Int[np.ndarray, "question"]


def load_facts(max_questions: int = 0, path: Path = DATA / "facts.csv") -> Facts:
    """The factual questions: all of them, or `max_questions` evenly spread over the file; topic is the subject.

    Columns of the file: subject, question, the options a to d, and right, the letter of the right one. Raises
    ValueError that names file and row for a letter other than A to D, a question that is there twice, or what
    `check_question` refuses.
    """
    questions, right, seen = [], [], {}
    for row, item in read_table(path, ("subject", "question", *PLACES, "right")).iterrows():
        if item["right"].lower() not in PLACES:
            raise ValueError(f"{path}: row {row}, column 'right': {item['right']!r} is not one of A, B, C, D")
        if item["question"] in seen:
            raise ValueError(f"{path}: row {row}: the question of row {seen[item['question']]} once more")
        seen[item["question"]] = row
        options = tuple(item[place] for place in PLACES)
        question = Question(f"fact-{row}", item["question"], options, False, item["subject"], "facts")
        check_question(question, f"{path}: row {row}")
        questions.append(question)
        right.append(PLACES.index(item["right"].lower()))
    count = min(max_questions or len(questions), len(questions))
    kept = [i * len(questions) // count for i in range(count)]
    return Facts(tuple(questions[i] for i in kept), np.array(right)[kept])


def fact_prompts(
    tokenizer: transformers.PreTrainedTokenizerBase, facts: Facts, before: str = ""
) -> tuple[Facts, list[Prompt]]:
    """'Question: ... Answer:' for each question, with each option's first token in place of letters.

    The same plain text for chat and base models, after BOS where the tokenizer has one; `before` is text set before the
    question. All of it but BOS may be read. Questions with two options that start with the same token cannot be told
    apart so and are left out; ValueError if none remain.
    """
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    prompts, kept = [], []
    for index, question in enumerate(facts.questions):
        text = (f"{before}\n\n" if before else "") + f"Question: {question.text}\nAnswer:"
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        longer = [tokenizer(f"{text} {o}", add_special_tokens=False)["input_ids"] for o in question.options]
        first = tuple(ids[len(tokens)] for ids in longer)
        if len(set(first)) == len(first) and all(ids[: len(tokens)] == tokens for ids in longer):
            whole = (len(bos), len(bos) + len(tokens))
            prompts.append(Prompt(len(kept), tuple(range(len(first))), (*bos, *tokens), first, whole))
            kept.append(index)
    if not kept:
        raise ValueError(
            f"none of the {len(facts.questions)} factual questions has options with different first tokens"
        )
    return Facts(tuple(facts.questions[i] for i in kept), facts.right[kept]), prompts


def load_passages(max_passages: int = 0, path: Path = DATA / "passages.txt") -> list[str]:
    """The plain passages, or the first `max_passages` of them; in the file a blank line stands between two."""
    passages = [passage.strip() for passage in read_text(path).split("\n\n") if passage.strip()]
    if not passages:
        raise ValueError(f"{path}: no passage in it")
    return passages[: max_passages or None]
