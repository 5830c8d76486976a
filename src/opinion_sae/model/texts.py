"""Text to train an SAE on: public speeches, survey prompts, the model's own about the surveys, or the user's."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from opinion_sae.artifacts import check_numbers, keep_part, read_part, read_text
from opinion_sae.model.activations import PROMPT_ENDS, Activations, Shard, stream, text_windows
from opinion_sae.model.addresses import addresses
from opinion_sae.model.language_model import LanguageModel
from opinion_sae.model.prompts import build_prompts, chat, describe
from opinion_sae.model.sources import BUILT_IN, parse_sources
from opinion_sae.progress import progress
from opinion_sae.survey import Survey

TASKS = (
    "Write a short letter to a newspaper about {topic}, as {person} might write it.",
    "In a few sentences, explain why {person} cares about {topic}.",
    "Write a short conversation between {person} and a neighbour about {topic}.",
    "List some arguments about {topic} that {person} has heard.",
)


HELD_OUT = 30  # one token is held out for so many to train on
HELD_OUT_YEAR = 5  # addresses of the years that end in it are


class Texts(NamedTuple):
    """Texts to train an SAE on, prompts likewise, and others to judge it on."""

    training: list[str]
    prompts: list[str]
    held_out: list[str]


PARTS = {"training": 1, "prompts": PROMPT_ENDS, "held_out": 1}  # of Texts: how often a window's last token comes


def load_texts(texts: str | list[str], lm: LanguageModel, survey: Survey, tokens: int, seed: int) -> Texts:
    """About `tokens` tokens by a profile's `texts`, a mixture as `parse_sources` reads it, and a few held out.

    'addresses' (other years held out), 'prompts' (the survey's, all questions, never anybody's answers; none held out),
    'self' (written by the model), a folder of .txt files, or 'hf:<dataset>' (its `text` column). A source that has less
    than its share gives what it has. Raises ValueError where nothing would be held out.
    """
    found = Texts([], [], [])
    for source, share in parse_sources(texts).items():
        for part, own in zip(found, from_source(source, lm, survey, round(share * tokens), seed), strict=True):
            part.extend(own)
    if not found.held_out:
        raise ValueError(f"texts {texts!r}: no text is left to judge the SAE on; add another source to the prompts")
    return found


def from_source(source: str, lm: LanguageModel, survey: Survey, tokens: int, seed: int) -> Texts:
    """About `tokens` tokens of one source, and at least 100 others held out."""
    judged = max(100, tokens // HELD_OUT)
    if source == "prompts":
        return Texts([], prompt_texts(lm, survey, tokens), [])
    if source == "addresses":
        return split_addresses(lm, addresses(), tokens, judged)
    if source == "self":
        written = write_texts(lm, survey, tokens, seed)
    elif source.startswith("hf:"):
        written = hub_texts(source.removeprefix("hf:"), characters=4 * (tokens + judged))
    else:
        written = folder_texts(source)
    training, held_out = split_texts(written, 0.1, seed)
    return Texts(first_tokens(lm, training, tokens), [], first_tokens(lm, held_out, judged))


def first_tokens(lm: LanguageModel, texts: Sequence[str], tokens: int) -> list[str]:
    """The first of the texts, up to so many tokens; the last of them is cut there."""
    kept: list[str] = []
    for text in texts:
        ids = lm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        kept.append(text if len(ids) <= tokens else lm.tokenizer.decode(ids[:tokens]))
        tokens -= len(ids)
        if tokens <= 0:
            break
    return kept


def split_addresses(lm: LanguageModel, found: Sequence[tuple[int, str]], tokens: int, judged: int) -> Texts:
    """The latest addresses, and the beginnings of those of the years ending in 5, which are held out, in that time."""
    kept, other = ([pair for pair in found if (pair[0] % 10 == HELD_OUT_YEAR) is last] for last in (False, True))
    training = first_tokens(lm, [text for _, text in kept], tokens)
    since = kept[len(training) - 1][0]
    held_out = [text for year, text in other if year >= since] or [other[0][1]]
    beginnings = [part for text in held_out for part in first_tokens(lm, [text], judged // len(held_out))]
    return Texts(training, [], beginnings)


def pool_texts(texts: str | list[str], training: Sequence[str], seed: int) -> list[str]:
    """All text that a profile's `texts` name but what `load_texts` holds out: the addresses of every year that does not
    end in 5, all of a folder, and of sources without an end, which are read or written anew, what is in `training`."""
    found: list[str] = []
    for source in parse_sources(texts):
        if source == "addresses":
            found += [text for year, text in addresses() if year % 10 != HELD_OUT_YEAR]
        elif source not in BUILT_IN and not source.startswith("hf:"):
            found += split_texts(folder_texts(source), 0.1, seed)[0]
        elif source != "prompts":
            found += [text for text in training if text not in found]
    return found


def shard_streams(
    lm: LanguageModel, texts: Texts, hook_layer: int, shard: Shard
) -> dict[str, Float[Tensor, "token d"]]:
    """The stream after `hook_layer` at a shard of each part of the texts, float32; prompts' ends count more often."""
    lm.check_layer(hook_layer)
    found = {}
    for name, ends in PARTS.items():
        given = getattr(texts, name)
        batches = text_windows(lm, given, tokens_per_batch=lm.tokens_per_batch) if given else []
        found[name] = stream(lm, shard.part(batches), hook_layer, ends)
    return found


def shard_file(folder: Path, shard: Shard) -> Path:
    return folder / f"shard-{shard.number}.safetensors"


def shard_key(lm: LanguageModel, texts: Texts, hook_layer: int, shard: Shard) -> str:
    """A hash of all that a shard's numbers depend on."""
    return lm.key(hook_layer, lm.device.type, lm.tokens_per_batch, texts, shard)


def keep_shard(folder: Path, lm: LanguageModel, texts: Texts, hook_layer: int, shard: Shard) -> Path:
    """Extract a shard and write it for `text_activations` to find."""
    path, streams = shard_file(folder, shard), shard_streams(lm, texts, hook_layer, shard)
    keep_part(path, shard_key(lm, texts, hook_layer, shard), {name: x.numpy() for name, x in streams.items()})
    return path


def read_shard(path: Path, key: str, width: int) -> dict[str, Float[Tensor, "token d"]] | None:
    """What `keep_shard` wrote under this key; None if it did not. ValueError for a broken file."""
    part = read_part(path, key)
    if part is None:
        return None
    found = {name: torch.from_numpy(table) for name, table in part.items()}
    check_numbers(path, found)
    shapes = {name: (str(x.dtype), *x.shape) for name, x in sorted(found.items())}
    if set(found) != set(PARTS) or any(x.dtype != torch.float32 or x.shape[1:] != (width,) for x in found.values()):
        needed = f"{', '.join(PARTS)} in float32, {width} numbers a token"
        raise ValueError(f"{path}: expected {needed}, found {shapes}; delete it and run again")
    return found


def text_activations(
    lm: LanguageModel, texts: Texts, hook_layer: int, folder: Path | None = None, of: int = 1
) -> Activations:
    """The stream after `hook_layer` at what an SAE is trained on and judged by, joined from `of` shards.

    Those that `folder` holds for this model and these texts are read, the others extracted here: the numbers are the
    same for any `of`.
    """
    found = []
    for shard in (Shard(number, of) for number in range(of)):
        key = shard_key(lm, texts, hook_layer, shard)
        kept = None if folder is None else read_shard(shard_file(folder, shard), key, lm.width)
        found.append(kept or shard_streams(lm, texts, hook_layer, shard))
    parts = {name: [one[name] for one in found] for name in PARTS}
    return Activations(torch.cat(parts["training"] + parts["prompts"]), torch.cat(parts["held_out"]))


def folder_texts(source: str) -> list[str]:
    files = sorted(Path(source).expanduser().glob("*.txt"))
    if not files:
        raise FileNotFoundError(
            f"texts {source!r}: no folder with .txt files; else use {', '.join(BUILT_IN)} or hf:<dataset>"
        )
    return [read_text(file) for file in files]


def prompt_texts(lm: LanguageModel, survey: Survey, tokens: int) -> list[str]:
    """The survey prompts as text, in as many orders of their options as come closest to `tokens`, at least one."""
    one = sum(len(prompt.tokens) for prompt in build_prompts(lm.tokenizer, survey.questions, 1))
    orders = max(1, round(tokens / one))
    return [lm.tokenizer.decode(prompt.tokens) for prompt in build_prompts(lm.tokenizer, survey.questions, orders)]


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
