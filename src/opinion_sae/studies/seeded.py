"""What specialised SAEs are trained on and judged by: a seed set of questions, a pool of text, and what is held out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from opinion_sae.artifacts import Item, check_fields, made, read_json, recalled
from opinion_sae.methods.sentences import text_embeddings
from opinion_sae.model.activations import PROMPT_ENDS
from opinion_sae.model.texts import pool_texts
from opinion_sae.studies import Given
from opinion_sae.studies.pieces import Spliced, Streams, chunks, streams, texts_of
from opinion_sae.studies.selection import bm25, in_turn, loss_gradient, mean_by, tracin

STRATEGIES = ("dense", "random", "bm25", "tracin", "seed", "full")
CHOSEN, SHARE = 400, 5  # chunks that a strategy chooses: so many, or one in so many of a small pool
WHOLE = 800  # chunks, spread evenly, that stand for the whole pool; more than a training draws tokens from
SPLICED = 16  # held-out chunks of text, and as many questions, at which an SAE's output stands for the stream

Embed = Callable[[list[str]], Float[np.ndarray, "text d"]]


def spread(count: int, most: int) -> Int[np.ndarray, "some"]:
    """All of 0, 1, ..., count - 1, or `most` of them at even distances."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)


@dataclass(frozen=True, eq=False)
class Ground:
    """The seed set is the first split's training and validation questions; its test questions are held out.

    The pool is all text that the profile's `texts` name (the addresses of all years, or a folder of one's own, of which
    the book's SAE has seen a part) but what is held out, in chunks of 128 tokens.
    """

    given: Given
    embed: Embed = text_embeddings

    @cached_property
    def pool(self) -> list[list[int]]:
        """The chunks to choose from."""
        path = self.given.work / "texts.json"
        found = read_json(path)
        check_fields(found, {"training": list}, str(path), more=True)
        texts = pool_texts(self.given.texts, found["training"], self.given.seed)
        if not texts:
            raise ValueError(f"{path}: the SAE was trained on prompts alone, so there is no text to choose from")
        return chunks(self.given.lm, texts)

    @cached_property
    def about(self) -> str:
        """The hash of the pool."""
        return hashlib.sha256(
            np.concatenate([np.array([-1, *piece], dtype=np.int32) for piece in self.pool]).tobytes()
        ).hexdigest()

    @cached_property
    def seed_questions(self) -> Int[np.ndarray, "seed"]:
        """Their positions in the survey."""
        split = self.given.splits[0]
        return np.sort(np.concatenate([split.train, split.validation]))

    @cached_property
    def seed(self) -> Float[Tensor, "token d"]:
        """The stream at the tokens of the seed questions, which offsets read, and at their prompts' last, where they
        write: the latter as often as in the book's own training."""
        kept, orders = self.given.answers.kept, self.given.answers.orders
        own = torch.from_numpy(self.seed_questions)
        last = kept.last[torch.isin(torch.arange(len(kept.prompts)) // orders, own)]
        return torch.cat([kept.stream[torch.isin(kept.item // orders, own)].float(), last.repeat(PROMPT_ENDS, 1)])

    @cached_property
    def text(self) -> Streams:
        """The held-out text's."""
        return self._streams("held_out", chunks(self.given.lm, self.given.held_out))

    @cached_property
    def asked(self) -> Streams:
        """The tokens of the held-out questions."""
        answers = self.given.answers
        ids = [token for prompt in answers.prompts for token in prompt.tokens[slice(*prompt.asked)]]
        question = answers.kept.item // answers.orders
        there = torch.isin(question, torch.from_numpy(self.given.splits[0].test))
        return Streams(answers.kept.stream[there].half(), torch.tensor(ids)[there], question[there])

    @cached_property
    def last(self) -> Float[Tensor, "item d"]:
        """The last tokens of the held-out questions' prompts."""
        answers = self.given.answers
        there = torch.isin(
            torch.arange(len(answers.prompts)) // answers.orders, torch.from_numpy(self.given.splits[0].test)
        )
        return answers.residual[there]

    @cached_property
    def spliced(self) -> tuple[Spliced, Spliced]:
        """Held-out chunks of text, and held-out questions: all that is spliced of the latter is the question itself."""
        lm, layer, answers = self.given.lm, self.given.answers.hook_layer, self.given.answers
        every = chunks(lm, self.given.held_out)
        text = [every[number] for number in spread(len(every), SPLICED)]
        test = self.given.splits[0].test
        some = test[spread(len(test), SPLICED)] * answers.orders
        prompts = [answers.prompts[item] for item in some]
        spans = [prompt.asked for prompt in prompts]
        return Spliced.of(lm, text, layer), Spliced.of(lm, [list(one.tokens) for one in prompts], layer, spans)

    @cached_property
    def counts(self) -> Int[Tensor, "vocabulary"]:
        """How often each token stands in the pool."""
        embedding: Any = self.given.lm.model.get_input_embeddings()
        tokens = torch.tensor([token for piece in self.pool for token in piece])
        return torch.bincount(tokens, minlength=len(embedding.weight))

    @cached_property
    def chosen(self) -> dict[str, Int[Tensor, "chunk"]]:
        """By strategy the chunks of the pool that BM25, sentence embeddings and TracIn choose, by their numbers.

        The questions choose in turn (`in_turn`), by BM25 or by the cosine of embeddings; 'tracin' has the half of the
        latter's first choices, twice as many (`first`), on which a step would lower the seed set's loss most.
        """

        def make() -> dict[str, np.ndarray]:
            lm, count = self.given.lm, self.count
            texts = texts_of(lm, self.pool)
            questions = [self.given.survey.questions[number] for number in self.seed_questions]
            queries = [" ".join((question.text, *question.options)) for question in questions]
            nearest = self.embed(queries) @ self.embed(texts).T
            first = in_turn(nearest, min(2 * count, len(texts)))
            gradient, near = loss_gradient(self.given.sae, self.seed), self._of_pool("first", first)
            influence = torch.cat([tracin(self.given.sae, part.float(), gradient) for part in near.x.split(8192)])
            score = mean_by(influence, near.piece, len(first))
            best = first[score.argsort(descending=True, stable=True)[:count].numpy()]
            found = {"bm25": in_turn(bm25(queries, texts), count), "dense": first[:count], "tracin": best}
            return found | {"first": first}

        return self._kept("chosen", [self.given.sae.sha256(), self.seed_questions.tolist(), self.about, CHOSEN], make)

    @property
    def count(self) -> int:
        """How many chunks are chosen."""
        return max(1, min(CHOSEN, len(self.pool) // SHARE))

    def expansion(self, strategy: str, seed: int) -> Float[Tensor, "token d"] | None:
        """The stream at the tokens that a strategy adds to the seed set; None: none are added. 'random' draws anew for
        each seed. ValueError for a strategy that there is not."""
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy {strategy!r} is not one of {', '.join(STRATEGIES)}")
        if strategy == "seed":
            return None
        if strategy == "full":
            return self._of_pool("full", spread(len(self.pool), WHOLE)).x
        if strategy == "random":
            drawn = np.random.default_rng(seed).permutation(len(self.pool))[: self.count]
            return self._of_pool(f"random-{seed}", drawn).x
        if strategy == "bm25":
            return self._of_pool("bm25", self.chosen["bm25"].numpy()).x
        first = self.chosen["first"]
        near = self._of_pool("first", first.numpy())
        return near.x[torch.isin(first, self.chosen[strategy])[near.piece]]

    def _of_pool(self, name: str, numbers: Int[np.ndarray, "chunk"]) -> Streams:
        """Of some chunks of the pool, by their numbers."""
        return self._streams(name, [self.pool[number] for number in numbers])

    def _streams(self, name: str, pieces: list[list[int]]) -> Streams:
        """Of these chunks, kept in the study's folder."""

        def make() -> dict[str, np.ndarray]:
            found = streams(self.given.lm, pieces, self.given.answers.hook_layer)
            return {key: part.numpy() for key, part in found._asdict().items()}

        return Streams(**self._kept(name, pieces, make))

    def _kept(self, name: str, of: object, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, Tensor]:
        """What `make` gives, made once for the same model, layer and `of`."""
        lm, layer = self.given.lm, self.given.answers.hook_layer
        about = [lm.sha256, str(lm.dtype), layer, hashlib.sha256(repr(of).encode()).hexdigest()]
        path = self.given.folder / "ground" / f"{name}.safetensors"
        found = recalled(path, about)
        found = made(path, Item(about, make)) if found is None else found
        return {key: torch.from_numpy(table) for key, table in found.items()}
