r"""Prompts on the bench: the model is told whose answer to give, and each group and question costs a pass of its own.

    p_g(o) = softmax over the letters' logits after  [text of g]  [question]

    prompt-qa, prompt-bio, prompt-portray   the group, in three styles (Santurkar et al. 2023; `personas.py`)
    prompt-best                             for each split the style with the lowest KL on its validation questions
    prompt-toplines                         the portrayed group, and how everybody answered the very question
    few-shot                                the group's likeliest answers to training questions (Hwang et al. 2023)
    lora                                    prompt-portray, an adapter trained to answer it (Suh et al. 2025; `lora.py`)

Only `ASKED` test questions of each split are asked; the rest is NaN. `opinion-sae evaluate` asks all of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from opinion_sae.artifacts import keep_part, read_part
from opinion_sae.methods.baselines import choose
from opinion_sae.methods.contract import Bench, Outcome
from opinion_sae.methods.lora import LORA, GroupPrompts, fit_lora
from opinion_sae.methods.personas import (
    STYLES,
    few_shot,
    persona,
    persona_answers,
    prompt_key,
    shown_examples,
    some_held_out,
)
from opinion_sae.model.prompts import build_prompts
from opinion_sae.model.whole_pass import read_answers
from opinion_sae.progress import progress
from opinion_sae.survey import Survey

ASKED = 10
SHOTS = 3


def asked_of(bench: Bench) -> Int[np.ndarray, "asked"]:
    """The questions that are asked."""
    return some_held_out(bench.survey, bench.splits, ASKED)


def whole_table(
    bench: Bench, asked: Int[np.ndarray, "asked"], log_probs: Float[np.ndarray, "group asked option"]
) -> Float[np.ndarray, "group question option"]:
    """A table of all questions; NaN where none was asked."""
    table = np.full(bench.survey.shares.shape, np.nan, np.float32)
    table[:, asked] = log_probs
    return table


def styled(style: str) -> Callable[[Bench], Outcome]:
    """A persona in one of the styles."""

    def method(bench: Bench) -> Outcome:
        lm, survey, asked = bench.answers.lm, bench.survey, asked_of(bench)
        told = persona_answers(
            lm, survey, bench.answers.orders, style, bench.folder.parent / "personas", asked.tolist()
        )
        table = whole_table(bench, asked, told.log_probs)
        return Outcome(table, texts=portraits(bench, style), option_mass=told.option_mass)

    return method


def best_style(bench: Bench) -> Outcome:
    """The styles' answers come from the parts that `styled` keeps; a split without validation questions that were asked
    does not occur, since some of every split's test questions are."""
    styles = {style: styled(style)(bench) for style in STYLES}
    asked, tables = asked_of(bench), {style: found.log_probs for style, found in styles.items()}
    chosen, names = choose(bench.survey, tables, bench.splits)
    masses = []
    for split, name in zip(bench.splits, names, strict=True):
        mass = styles[name].option_mass
        assert mass is not None
        masses.append(mass[:, np.isin(asked, split.test)])
    return Outcome(chosen, option_mass=np.concatenate(masses, axis=1))


def examples_shown(bench: Bench) -> Outcome:
    """Few-shot prompts; nothing in them says which group it is."""
    asked = asked_of(bench)
    splits = [split._replace(test=split.test[np.isin(split.test, asked)]) for split in bench.splits]
    folder, survey = bench.folder.parent / "personas", bench.survey
    told = few_shot(bench.answers.lm, survey, splits, bench.answers.orders, folder, SHOTS)
    texts = [shown_examples(survey, split, SHOTS) for split in splits]
    return Outcome(told.log_probs, texts=texts, option_mass=told.option_mass[:, asked])


def toplines_told(survey: Survey, group: int, question: int) -> str:
    """The portrayed group, and everybody's answers in whole per cent."""
    shares, options = survey.everyone_shares[question], survey.questions[question].options
    said = ", ".join(f"{100 * share:.0f}% {option!r}" for share, option in zip(shares, options, strict=False))
    return f"{persona('portray', survey, group)} Of everybody who was asked, these shares gave each answer: {said}."


def with_toplines(bench: Bench) -> Outcome:
    """Kept group by group, as personas are."""
    lm, survey, asked, orders = bench.answers.lm, bench.survey, asked_of(bench), bench.answers.orders
    rows, masses = [], []
    for group in progress(range(len(survey.groups)), "prompts with toplines"):
        texts = [toplines_told(survey, group, q) for q in asked.tolist()]
        key = prompt_key(lm, survey, asked.tolist(), orders, "\n".join(texts))
        path = bench.folder.parent / "personas" / f"toplines-{group}.safetensors"
        part = read_part(path, key)
        if part is None:
            prompts = [
                prompt
                for q, text in zip(asked, texts, strict=True)
                for prompt in build_prompts(lm.tokenizer, [survey.questions[q]], orders, text)
            ]
            part = read_answers(lm, prompts, orders, survey.counts.shape[-1])._asdict()
            keep_part(path, key, part)
        rows.append(part["log_probs"])
        masses.append(part["option_mass"])
    return Outcome(whole_table(bench, asked, np.stack(rows)), option_mass=np.stack(masses))


def adapted(bench: Bench) -> Outcome:
    """An adapter per split. What it does elsewhere is measured by `evaluate` alone, which asks it everything."""
    asked, survey, size = asked_of(bench), bench.survey, 0
    prompts = GroupPrompts(bench.answers.lm, survey, bench.answers.orders)
    table, masses = np.full(survey.shares.shape, np.nan, np.float32), []
    for split in bench.splits:
        questions = split.test[np.isin(split.test, asked)]
        with fit_lora(prompts, split, seed=bench.settings.seed, **LORA):
            told = prompts.predict(questions)
            table[:, questions] = told.log_probs
            masses.append(told.option_mass)
            size = sum(part.numel() for part in bench.answers.lm.model.parameters() if part.requires_grad)
    return Outcome(table, parameters=size, option_mass=np.concatenate(masses, axis=1))


def portraits(bench: Bench, style: str) -> list[list[str]]:
    """The same texts for every split."""
    return [[persona(style, bench.survey, group) for group in range(len(bench.survey.groups))]] * len(bench.splits)
