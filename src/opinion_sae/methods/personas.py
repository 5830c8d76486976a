"""Persona prompts: the model is told whose answer to give. One full run of all prompts per group and style."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from jaxtyping import Float, Int

from opinion_sae.artifacts import keep_part, read_part
from opinion_sae.delta.held_out import Split, assemble
from opinion_sae.model.language_model import LanguageModel
from opinion_sae.model.prompts import LETTERS, build_prompts, chat, describe, question_text
from opinion_sae.model.whole_pass import Told, read_answers
from opinion_sae.progress import progress
from opinion_sae.survey import Survey
from opinion_sae.survey.naming import naming

STYLES = ("qa", "bio", "portray")
# What a group is asked about itself, and how a sentence about itself goes on. {} is the group's name.
SELF = {
    "sex": ("What is your sex?", "My sex is {}."),
    "age": ("How old are you?", "My age is {}."),
    "race": ("What is your race or ethnic group?", "My race or ethnic group is {}."),
    "education": ("How far did you go in education?", "My education: {}."),
    "income": ("What is the yearly income of your household?", "The yearly income of my household: {}."),
    "party": ("Which political party do you feel close to?", "My political party: {}."),
    "ideology": ("Where do you stand in politics?", "In politics I am {}."),
    "religion": ("What is your religion?", "My religion: {}."),
    "religious attendance": ("How often do you go to religious services?", "How often I go to services: {}."),
    "region": ("Which part of the country do you live in?", "I live in the {}."),
}


def persona(style: str, survey: Survey, group: int) -> str:
    """Text that goes before a question, in one of three styles of Santurkar et al. 2023, in our own words.

    'qa': a multiple-choice question about the attribute with its answer given; 'bio': a sentence that the respondent
    says of itself; 'portray': an instruction to answer as such a person would.
    """
    attribute, name = survey.attributes[group], survey.groups[group]
    ask, say = SELF.get(attribute, (f"What is your {attribute}?", f"My {attribute}: {{}}."))
    if style == "qa":
        others = [g for g, a in zip(survey.groups, survey.attributes, strict=True) if a == attribute]
        if len(others) > len(LETTERS):
            raise ValueError(f"attribute {attribute!r}: {len(others)} groups; a question takes {len(LETTERS)} options")
        lines = [f"{letter}. {other}" for letter, other in zip(LETTERS, others, strict=False)]
        return "\n".join([f"Question: {ask}", *lines, f"Answer: {LETTERS[others.index(name)]}"])
    if style == "bio":
        return f'Somebody who takes part in a survey writes: "{say.format(name)}" Give this person\'s answer.'
    if style == "portray":
        person = describe(attribute, name)
        return f"Put yourself in the place of {person} in the United States. Answer as this person would."
    raise ValueError(f"persona style {style!r} is not one of {', '.join(STYLES)}")


def in_turn(tokenizer: transformers.PreTrainedTokenizerBase, text: str) -> str:
    """A chat model's user turn, or for a base model plain text that ends where the answer begins."""
    return chat(tokenizer, text) if tokenizer.chat_template else f"Question: {text}\nAnswer:"


def persona_answers(
    lm: LanguageModel,
    survey: Survey,
    orders: int,
    style: str,
    folder: Path,
    questions: Sequence[int] | None = None,
) -> Told:
    """Answers under each group's persona; to all questions if `questions` is None.

    A group's part is written to `<folder>/<style>-<group number>.safetensors` as soon as it is done and read from there
    if it is to the same prompts of the same model, so that a run that was stopped goes on where it was.
    """
    asked = list(range(len(survey.questions))) if questions is None else list(questions)
    parts = []
    for group in progress(range(len(survey.groups)), f"persona {style}"):
        path = folder / f"{style}-{group}.safetensors"
        parts.append(ask_once(path, lm, survey, asked, orders, persona(style, survey, group)))
    return Told(*map(np.stack, zip(*parts, strict=True)))


def examples(survey: Survey, group: int, questions: Sequence[int]) -> str:
    """Questions with the option that most of the group chose, as text before another question."""
    parts = ["Here is how one person answered some other questions."]
    for question in questions:
        options = survey.questions[question].options
        chosen = int(survey.counts[group, question].argmax())
        parts.append(question_text(survey.questions[question], range(len(options))) + f"\nAnswer: {LETTERS[chosen]}")
    return "\n\n".join([*parts, "Now the same person is asked:"])


def few_shot(
    lm: LanguageModel, survey: Survey, splits: Sequence[Split], orders: int, folder: Path, shots: int = 4
) -> Told:
    """Answers to each split's test questions after `shots` of its training questions with the group's answers.

    The examples are spread evenly over the training questions that the group answered. Nothing says which group it is.
    Resumable like `persona_answers`, a file per split and group.
    """
    parts = []
    for number, split in enumerate(progress(splits, "few-shot")):
        rows = []
        for group, text in enumerate(shown_examples(survey, split, shots)):
            path = folder / f"few-shot-{number}-{group}.safetensors"
            rows.append(ask_once(path, lm, survey, split.test.tolist(), orders, text))
        parts.append(Told(*map(np.stack, zip(*rows, strict=True))))
    return assemble_told(parts, splits, len(survey.questions))


def shown_examples(survey: Survey, split: Split, shots: int) -> list[str]:
    """For each group `shots` of the split's training questions with its answers."""
    texts = []
    for group in range(len(survey.groups)):
        answered = split.train[survey.respondents[group, split.train] > 0]
        texts.append(examples(survey, group, spread(answered, shots).tolist()))
    return texts


def assemble_told(parts: Sequence[Told], splits: Sequence[Split], questions: int) -> Told:
    """`assemble` for everything that was told."""
    return Told(*(assemble(found, splits, questions) for found in zip(*parts, strict=True)))


def ask_once(path: Path, lm: LanguageModel, survey: Survey, asked: Sequence[int], orders: int, text: str) -> Told:
    """`ask_group`, or what it left in `path` for the same prompts to the same model."""
    key = prompt_key(lm, survey, asked, orders, text)
    tensors = read_part(path, key)
    if tensors is None:
        tensors = ask_group(lm, survey, asked, orders, text)._asdict()
        keep_part(path, key, tensors)
    return Told(**tensors)


@torch.no_grad()
def persona_residuals(
    lm: LanguageModel, survey: Survey, hook_layer: int, style: str, asked: Int[np.ndarray, "asked"]
) -> Float[np.ndarray, "group asked d"]:
    """The stream after `hook_layer` at the last token of `asked` questions, options as given; the layers above do not
    run, and nothing is kept."""
    questions, found = [survey.questions[q] for q in asked], []
    for group in progress(range(len(survey.groups)), f"persona {style}"):
        prompts = build_prompts(lm.tokenizer, questions, 1, persona(style, survey, group))
        lengths = torch.tensor([len(prompt.tokens) for prompt in prompts])
        rows = torch.nn.utils.rnn.pad_sequence([torch.tensor(prompt.tokens) for prompt in prompts], batch_first=True)
        hidden = lm.residual(rows, hook_layer)
        found.append(hidden[torch.arange(len(rows)), lengths - 1].float().cpu().numpy())
    return np.stack(found)


def ask_group(lm: LanguageModel, survey: Survey, asked: Sequence[int], orders: int, text: str) -> Told:
    """Answers after one text."""
    prompts = build_prompts(lm.tokenizer, [survey.questions[q] for q in asked], orders, text)
    return read_answers(lm, prompts, orders, survey.counts.shape[-1])


def prompt_key(lm: LanguageModel, survey: Survey, asked: Sequence[int], orders: int, text: str) -> str:
    """Hash of all that a group's answers depend on."""
    questions = [(survey.questions[q].text, survey.questions[q].options) for q in asked]
    about = [Told._fields, lm.name, lm.sha256, str(lm.dtype), orders, text, survey.counts.shape[-1], questions]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def spread(questions: Int[np.ndarray, "some"], count: int) -> Int[np.ndarray, "asked"]:
    """`count` of the questions spread evenly, or all if there are fewer."""
    return questions[np.unique(np.linspace(0, len(questions) - 1, min(count, len(questions))).astype(int))]


def some_held_out(survey: Survey, splits: Sequence[Split], count: int) -> Int[np.ndarray, "asked"]:
    """`count` of each split's test questions that name no group, spread evenly; in the survey's order."""
    free = ~naming(survey)
    return np.sort(np.concatenate([spread(split.test[free[split.test]], count) for split in splits]))
