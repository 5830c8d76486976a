"""The command `opinion-sae label`: labels by statistics, the run's model or an endpoint, with their scores beside those
of random latents, in `labels.csv`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from opinion_sae.artifacts import cache_dir, write_csv
from opinion_sae.book.cards import COLUMNS, FILE, LABELS, SCORES, read_cards, read_labels
from opinion_sae.book.chapter import Chapter
from opinion_sae.book.profile import Profile
from opinion_sae.book.recorded import read_texts
from opinion_sae.effects.firing import Corpus, plain_texts, read_corpus
from opinion_sae.effects.labels import Labeler, Statistics, Words, of_equal_rate, scored, words_of
from opinion_sae.progress import progress
from opinion_sae.use.endpoint import Endpoint
from opinion_sae.use.labelers import ByWriter, Local

CASES = 10  # of either kind that a label is judged on, in detection and in fuzzing
BY = ("statistics", "weighted", "model")  # and the URL of an endpoint


class Asked(NamedTuple):
    """What the command was told of an endpoint: the model there, the environment variable with its key, the price of a
    million tokens in and out, and whether to send without asking."""

    model: str = ""
    key_from: str = "OPENAI_API_KEY"
    price: Sequence[float] | None = None
    yes: bool = False


NOTHING = Asked()


def label(profile: Profile, by: str = BY[0], latents: int = 20, asked: Asked = NOTHING) -> Path:
    """Write `labels.csv` in the results folder: labels of `latents` latents, what is read first, by weight.

    Rows that are there stay, and a latent of this SAE that this labeler has labelled is not labelled again; the table
    is written after each latent, so that what was stopped goes on. Raises FileNotFoundError without a finished book,
    ValueError for bad arguments, and what `Endpoint` raises; before anything is sent, its cost is printed and a yes
    needed.
    """
    if latents < 1:
        raise ValueError(f"--latents {latents}: at least one is needed")
    if by not in BY and "://" not in by:
        raise ValueError(f"--by {by}: expected {', '.join(BY)}, or the base URL of an endpoint")
    endpoint = None if by in BY else endpoint_at(by, asked)  # so that a bad argument is told at once
    chapter, cards = finished(profile)
    results, corpus = chapter.run.results, corpus_of(chapter)
    parts, rates = words_of(corpus, profile.seed), corpus.rates()
    pairs: dict[int, int] = {}  # with the random latent beside each
    for role in ("read", "write"):
        own = [one for one in cards if one["role"] == role and one["latent"] not in pairs]
        own = [card["latent"] for card in sorted(own, key=lambda card: -abs(card["weight"]))]
        pairs |= dict(zip(own, of_equal_rate(rates, own, profile.seed), strict=True))
    chosen = list(pairs.items())[:latents]
    name, judge = by, "the label's words"
    if endpoint is not None:
        tokenizer = chapter.lm.tokenizer
        endpoint.count = lambda text: len(tokenizer(text, verbose=False)["input_ids"])
        labeler, name, judge = ByWriter(corpus, parts, endpoint), endpoint.name, endpoint.name
        for pair in chosen:
            row_of(corpus, parts, labeler, pair)  # counts, and sends nothing
        agree(endpoint, asked)
        endpoint.sends = True
    elif by == "model":
        labeler, name, judge = ByWriter(corpus, parts, Local(chapter.lm)), profile.model, profile.model
    else:
        labeler = Statistics(corpus, parts, weighted=by == "weighted")
    table, about = read_labels(results), {"by": name, "judge": judge, "sae": chapter.sae.sha256()}
    table = table[(table["by"] != name) | (table["sae"] == about["sae"])]
    known = set(table.loc[table["by"] == name, "latent"])
    for pair in progress([pair for pair in chosen if pair[0] not in known], "labels"):
        row = pd.DataFrame([row_of(corpus, parts, labeler, pair) | about])[[*COLUMNS]]
        table = pd.concat([table, row], ignore_index=True) if len(table) else row
        write_csv(results / LABELS, table)
    print(means(table[table["by"] == name]))
    return results / LABELS


def finished(profile: Profile) -> tuple[Chapter, list[dict[str, Any]]]:
    """A run whose chapter 09 is there, and its cards. Raises FileNotFoundError that says what to run."""
    chapter = Chapter(asdict(profile))
    run = chapter.run
    for path in (run.results / FILE, run.work / "texts.json", run.work / "sae" / "cfg.json"):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: not there; run `opinion-sae book` for this profile first")
    cards = read_cards(run.results / FILE)["cards"]
    if not cards:
        raise ValueError(f"{run.results / FILE}: this run reads no latents, so there is nothing to show")
    return chapter, cards


def corpus_of(chapter: Chapter) -> Corpus:
    """The texts that chapter 09 looks at, and where the SAE's latents fire in them."""
    texts = read_texts(chapter.run.work / "texts.json")
    return read_corpus(chapter.answers, chapter.sae, plain_texts(texts))


def row_of(corpus: Corpus, parts: Words, labeler: Labeler, pair: tuple[int, int]) -> dict[str, Any]:
    """The row of a latent, with the scores of a random one, which has a label of its own, beside it."""
    own, random = (scored(corpus, parts, labeler, one, CASES) for one in pair)
    row: dict[str, Any] = {"latent": pair[0], "label": own.text, "contexts": own.contexts, "marks": own.marks}
    row |= {"detection": own.detection, "random_detection": random.detection}
    return row | {"fuzzing": own.fuzzing, "random_fuzzing": random.fuzzing}


def endpoint_at(url: str, asked: Asked) -> Endpoint:
    """The endpoint, with the key from the environment and the replies that are kept in the user's cache."""
    key = os.environ.get(asked.key_from, "")
    return Endpoint(url, asked.model, cache_dir() / "replies", len, key, asked.key_from)


def agree(endpoint: Endpoint, asked: Asked) -> None:
    """Print what would be sent, and at what price. ValueError unless nothing is to be sent, or that is agreed to."""
    requests = len(endpoint.unsent)
    if not requests:
        print(f"all replies of {endpoint.name} are kept, so nothing is sent")
        return
    given, taken = (sum(pair[n] for pair in endpoint.unsent.values()) for n in (0, 1))
    price = "price unknown (--price IN OUT, of a million tokens)"
    if asked.price is not None:
        price = f"at most {(given * asked.price[0] + taken * asked.price[1]) / 1e6:.4f} in the currency of the price"
    said = f"up to {requests} requests, about {given} tokens, and at most {taken} back; {price}"
    print(f"to send to {endpoint.name}: {said}")
    sys.stdout.flush()
    if asked.yes:
        return
    if not sys.stdin.isatty() or input("send? [y/N] ").strip().lower() not in ("y", "yes"):
        raise ValueError("nothing was sent; say yes, or give --yes")


def means(table: pd.DataFrame) -> str:
    """Mean scores in a sentence."""
    one = table.iloc[0]
    mean = {name: table[name].mean() for name in SCORES}
    return (
        f"{len(table)} labels by {one['by']}, judged by {one['judge']}, 0.50 being chance: detection "
        f"{mean['detection']:.2f} (random latents {mean['random_detection']:.2f}), fuzzing {mean['fuzzing']:.2f} "
        f"({mean['random_fuzzing']:.2f})"
    )
