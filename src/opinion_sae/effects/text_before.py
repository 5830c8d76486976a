"""Methods that set a text before the question (persona prompts, examples, LoRA): held-out answers and side effects.

Elsewhere, too, the text stands before whatever is read: the method as its user would leave it switched on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from opinion_sae.artifacts import Item
from opinion_sae.delta.held_out import Split
from opinion_sae.effects.facts import Facts, fact_prompts
from opinion_sae.effects.readers import LENGTH, SHARE, Cells, Passage, fact_cells, text_cells
from opinion_sae.effects.side_effects import answer_cells
from opinion_sae.methods.baselines import choose
from opinion_sae.methods.lora import LORA, GroupPrompts, fit_lora
from opinion_sae.methods.personas import STYLES, assemble_told, few_shot, persona, persona_answers, shown_examples
from opinion_sae.model.answers import AnswerPath
from opinion_sae.model.language_model import LanguageModel
from opinion_sae.model.whole_pass import Told, read_prompts
from opinion_sae.survey import Survey

Tables = dict[str, Float[np.ndarray, "_ question *option"]]
SHOTS = 3  # examples in a few-shot prompt


class TextReader:
    """The model after a text of each group's."""

    def __init__(self, lm: LanguageModel, texts: Sequence[str], facts: Facts):
        self.lm, self.texts, self.facts, self.groups = lm, texts, facts, len(texts)

    def choose(self, items: Int[np.ndarray, "item"], which: slice) -> Int[np.ndarray, "row item"]:
        asked, chosen = Facts(tuple(self.facts.questions[i] for i in items), self.facts.right[items]), []
        for text in self.texts[which]:
            known, prompts = fact_prompts(self.lm.tokenizer, asked, text)
            if len(known.questions) != len(asked.questions):
                raise ValueError(f"after {text[:40]!r} some options of factual questions start with the same token")
            chosen.append(read_prompts(self.lm, prompts)[0].argmax(-1).numpy())
        return np.stack(chosen)

    def next_logits(self, passage: Passage, which: slice) -> Iterable[Float[Tensor, "token vocabulary"]]:
        tokens, bos = passage.tokens, [self.lm.tokenizer.bos_token_id]
        body = tokens[1:] if tokens[:1].tolist() == bos else tokens
        for text in self.texts[which]:
            before = self.lm.tokenizer(f"{text}\n\n", add_special_tokens=False)["input_ids"]
            whole = torch.tensor([*tokens[: len(tokens) - len(body)].tolist(), *before, *body.tolist()])
            stream = self.lm.residual(whole[None], len(self.lm.layers) - 1)[0]
            yield self.lm.logits(stream[-len(tokens) : -1])


class Elsewhere:
    """Factual questions and plain passages, to be read after texts."""

    def __init__(self, lm: LanguageModel, facts: Facts, texts: Sequence[str], length: int = LENGTH, share: int = SHARE):
        self.lm, self.share = lm, share
        self.facts = fact_prompts(lm.tokenizer, facts)[0]
        self.passages = [Passage(lm, text, len(lm.layers) - 1, length) for text in texts]
        questions = [(q.text, q.options) for q in self.facts.questions]
        read = [questions, self.facts.right.tolist(), list(texts), length, share]
        self.key = hashlib.sha256(json.dumps(read).encode()).hexdigest()  # of all that is read

    def cells(self, texts: Sequence[str], number: int = 0, of: int = 1) -> Cells:
        """accuracy, text_loss and next_token_kl after each group's text, the `number`-th of `of` sets of texts.

        Facts and passages of the other sets are NaN. Of its own each is read by every `share`-th group.
        """
        readers: list[TextReader | None] = [None] * of
        readers[number] = TextReader(self.lm, texts, self.facts)
        accuracy = fact_cells(readers, self.facts, len(texts), self.share)
        return accuracy | text_cells({"": readers}, self.passages, len(texts), self.share)[""]


def prompt_items(
    answers: AnswerPath, survey: Survey, splits: Sequence[Split], folder: Path, elsewhere: Elsewhere
) -> dict[str, Item]:
    """Persona prompts of the three styles, and few-shot prompts: held-out log p, and cells."""
    lm, orders = answers.lm, answers.orders

    def of_style(style: str) -> Tables:
        texts = [persona(style, survey, group) for group in range(len(survey.groups))]
        return persona_answers(lm, survey, orders, style, folder)._asdict() | elsewhere.cells(texts)

    def of_examples() -> Tables:
        parts = [
            elsewhere.cells(shown_examples(survey, split, SHOTS), number, len(splits))
            for number, split in enumerate(splits)
        ]
        return few_shot(lm, survey, splits, orders, folder, SHOTS)._asdict() | joined(parts)

    items = {f"prompt-{style}": Item([elsewhere.key], partial(of_style, style)) for style in STYLES}
    return items | {"few-shot": Item([SHOTS, elsewhere.key], of_examples)}


def prompts(survey: Survey, splits: Sequence[Split], parts: Mapping[str, Tables]) -> tuple[Tables, dict[str, Cells]]:
    """Of those `prompt_items` that are there: held-out log p, for each split also of the style that is best on
    validation where all are there, and the cells of all but the best, which is one of the styles."""
    found = {name: part for name, part in parts.items() if name == "few-shot" or name.startswith("prompt-")}
    tables = {name: part["log_probs"] for name, part in found.items()}
    styles = {name: tables[name] for name in (f"prompt-{style}" for style in STYLES) if name in tables}
    if len(styles) == len(STYLES):
        tables["prompt-best"] = choose(survey, styles, splits)[0]
    return tables, {name: cells_of(survey, part) for name, part in found.items()}


def lora_items(
    answers: AnswerPath, survey: Survey, splits: Sequence[Split], seed: int, elsewhere: Elsewhere
) -> dict[str, Item]:
    """An adapter per split: answers to its test questions, and cells."""

    def make(number: int, split: Split) -> Tables:
        asked = GroupPrompts(answers.lm, survey, answers.orders)
        texts = [persona(asked.style, survey, group) for group in range(len(survey.groups))]
        with fit_lora(asked, split, seed=seed, **LORA):
            return asked.predict(split.test)._asdict() | elsewhere.cells(texts, number, len(splits))

    about = [sorted(LORA.items()), elsewhere.key]
    return {f"lora-{number}": Item(about, partial(make, number, split)) for number, split in enumerate(splits)}


def lora(survey: Survey, splits: Sequence[Split], parts: Mapping[str, Tables]) -> tuple[Tables, dict[str, Cells]]:
    """Held-out answers of the adapters and their cells, once every split's is there."""
    found = [parts[name] for name in (f"lora-{number}" for number in range(len(splits))) if name in parts]
    if len(found) < len(splits):
        return {}, {}
    answered = assemble_told(
        [Told(**{name: part[name] for name in Told._fields}) for part in found], splits, len(survey.questions)
    )
    others = [{name: part[name] for name in part if name not in Told._fields} for part in found]
    whole = answered._asdict() | joined(others)
    return {"lora": answered.log_probs}, {"lora": cells_of(survey, whole)}


def joined(parts: Sequence[Cells]) -> Cells:
    """Cells that were measured in parts, each NaN where the others have something."""
    whole = {name: values.copy() for name, values in parts[0].items()}
    for part in parts[1:]:
        for name, values in part.items():
            np.copyto(whole[name], values, where=~np.isnan(values))
    return whole


def cells_of(survey: Survey, found: Tables) -> Cells:
    """All cells of a method: those of its answers, and what was measured beside them."""
    measured = {name: values for name, values in found.items() if name != "log_probs"}
    if np.isnan(measured["order_tv"]).all():  # one order of the options
        del measured["order_tv"]
    return answer_cells(survey, np.exp(found["log_probs"].astype(float))) | measured
