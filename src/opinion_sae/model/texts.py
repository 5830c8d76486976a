"""Text to train an SAE on: written by the model itself about the surveys, or the user's own."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import torch

from opinion_sae.artifacts import read_text
from opinion_sae.model.language_model import LanguageModel
from opinion_sae.model.prompts import build_prompts, chat, describe
from opinion_sae.progress import progress
from opinion_sae.survey import Survey

TASKS = (
    "Write a short letter to a newspaper about {topic}, as {person} might write it.",
    "In a few sentences, explain why {person} cares about {topic}.",
    "Write a short conversation between {person} and a neighbour about {topic}.",
    "List some arguments about {topic} that {person} has heard.",
)


def load_texts(source: str, lm: LanguageModel, survey: Survey, tokens: int, seed: int) -> list[str]:
    """Texts by a profile's `texts`: 'self', a folder of .txt files, or 'hf:<dataset>' (its `text` column).

    'self' adds the survey's prompts (never anybody's answers), since those are what the SAE will be used on.
    """
    if source == "self":
        return [*write_texts(lm, survey, tokens, seed), *prompt_texts(lm, survey)]
    if source.startswith("hf:"):
        return hub_texts(source.removeprefix("hf:"), characters=4 * tokens)
    folder = Path(source).expanduser()
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise FileNotFoundError(f"texts {source!r}: no folder with .txt files; else use 'self' or 'hf:<dataset>'")
    return [read_text(file) for file in files]


def prompt_texts(lm: LanguageModel, survey: Survey) -> list[str]:
    """The survey prompts as text, each in two orders of its options."""
    return [lm.tokenizer.decode(prompt.tokens) for prompt in build_prompts(lm.tokenizer, survey.questions, 2)]


def writing_tasks(survey: Survey, tasks: int, seed: int) -> list[str]:
    """Different requests to write about a topic as a member of a group, drawn evenly."""
    topics = sorted({question.topic for question in survey.questions})
    people = [describe(*pair) for pair in zip(survey.attributes, survey.groups, strict=True)]
    every = [
        task.format(topic=topic, person=person) for task, topic, person in itertools.product(TASKS, topics, people)
    ]
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))
    return [every[order[i % len(every)]] for i in range(tasks)]


@torch.no_grad()
def write_texts(
    lm: LanguageModel, survey: Survey, tokens: int, seed: int, length: int = 120, batch: int = 128
) -> list[str]:
    """About `tokens` tokens of text sampled from the model itself, without the requests: pieces of at most `length`.

    At least eight pieces, shorter ones if `tokens` are few. A base model, which follows no requests, goes on from the
    request's own words.
    """
    tokenizer, length = lm.tokenizer, min(length, -(-tokens // 8))
    if tokenizer.pad_token is None:  # as in Llama 3, Mistral or Pythia
        tokenizer.pad_token = tokenizer.eos_token
    requests = writing_tasks(survey, -(-tokens // length), seed)
    rendered = [chat(tokenizer, request) if tokenizer.chat_template else request for request in requests]
    torch.manual_seed(seed)
    texts = []
    for start in progress(range(0, len(rendered), batch), "texts"):
        rows = tokenizer(
            rendered[start : start + batch],
            add_special_tokens=not tokenizer.chat_template,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        ).to(lm.device)
        written = lm.model.generate(
            **rows,
            max_new_tokens=length,
            do_sample=True,
            temperature=0.8,
            top_k=50,  # nucleus sampling would sort the whole vocabulary at every token
            top_p=1.0,
            pad_token_id=tokenizer.pad_token_id,
        )
        texts += tokenizer.batch_decode(written[:, rows["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def hub_texts(dataset: str, characters: int) -> list[str]:
    """The first documents of a Hugging Face dataset, up to about so many characters, streamed."""
    from datasets import load_dataset  # slow to import, and used here only

    found: list[str] = []
    rows = load_dataset(dataset, split="train", streaming=True)
    for row in rows:
        if "text" not in row:
            raise ValueError(f"dataset {dataset!r} has no column 'text'; its columns are {sorted(row)}")
        found.append(row["text"])
        characters -= len(row["text"])
        if characters <= 0:
            break
    return found


def split_texts(texts: Sequence[str], held_out: float, seed: int) -> tuple[list[str], list[str]]:
    """Texts to train on and texts to judge the SAE on; `held_out` is the share of the latter, at least one text.

    Raises ValueError if that leaves nothing to train on.
    """
    if len(texts) < 2:
        raise ValueError(f"{len(texts)} text is too few to train an SAE and judge it on others; give at least two")
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
    cut = max(1, round(held_out * len(texts)))
    return [texts[i] for i in order[cut:]], [texts[i] for i in order[:cut]]
