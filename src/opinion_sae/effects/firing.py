"""Where every latent fires: over survey questions and plain text, by token, and by the words that tokens make up."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from typing import NamedTuple

import torch
import transformers
from jaxtyping import Bool, Float, Int
from torch import Tensor

from opinion_sae.model.activations import content, text_windows
from opinion_sae.model.answers import AnswerPath
from opinion_sae.progress import progress
from opinion_sae.sae.autoencoder import SparseAutoencoder

CHARACTERS = 120_000  # of plain text that are read
# letters and digits with apostrophes between them, or one other sign; parts of characters count as letters
WORD = re.compile(r"\s*(?:[\w\ufffd]+(?:['’][\w\ufffd]+)*|\S|$)")
AROUND = 12, 4  # words shown before the one at which a latent fires, and after it


class Context(NamedTuple):
    """A stretch of text with the word in it whose token fires, and how strongly it does."""

    before: str
    word: str
    after: str
    value: float


@dataclass(frozen=True, eq=False)
class Corpus:
    """Texts one after the other, and where each latent fires in them.

    `text` and `word` say whose each token is; a word is what stands between spaces and punctuation, so that a token of
    three letters shows as the word that it is part of. The firings of latent j are `where` (tokens) and `values` from
    starts[j] to starts[j + 1], in the order of the text.
    """

    tokenizer: transformers.PreTrainedTokenizerBase
    ids: Int[Tensor, "token"]
    text: Int[Tensor, "token"]
    word: Int[Tensor, "token"]
    words: tuple[str, ...]
    of_survey: Bool[Tensor, "text"]
    where: Int[Tensor, "entry"]
    values: Float[Tensor, "entry"]
    starts: Int[Tensor, "place"]

    def of(self, latent: int) -> tuple[Int[Tensor, "entry"], Float[Tensor, "entry"]]:
        """The tokens on which a latent fires, and how strongly."""
        part = slice(int(self.starts[latent]), int(self.starts[latent + 1]))
        return self.where[part], self.values[part]

    def rates(self, survey: bool | None = None) -> Float[Tensor, "latent"]:
        """Share of the tokens on which each latent fires: of all, of the survey's questions, or of plain text."""
        chosen = torch.ones(len(self.ids)) if survey is None else (self.of_survey[self.text] == survey).float()
        total = torch.cat([torch.zeros(1, dtype=torch.double), chosen[self.where].double().cumsum(0)])[self.starts]
        return (total.diff() / chosen.sum().clamp_min(1)).float()

    def contexts(self, latent: int, survey: bool, count: int = 3) -> tuple[list[Context], list[Context]]:
        """Where a latent fires most strongly in questions or in plain text, and where about as strongly as half of the
        time; a text is shown once, and so is a stretch that several texts have."""
        where, values = self.of(latent)
        there = self.of_survey[self.text[where]] == survey
        where, values = where[there], values[there]
        order = values.argsort(descending=True, stable=True).tolist()
        texts, said = set[int](), set[tuple[str, str, str]]()

        def first(entries: Iterable[int], most: int) -> list[Context]:
            found: list[Context] = []
            for entry in entries:
                if len(found) == most:
                    break
                if (text := int(self.text[where[entry]])) not in texts:
                    context = self._context(int(where[entry]), float(values[entry]))
                    if context[:3] not in said:
                        found.append(context)
                        texts.add(text)
                        said.add(context[:3])
            return found

        middle = sorted(range(len(order)), key=lambda rank: abs(rank - len(order) // 2))
        return first(order, count), first((order[rank] for rank in middle), count - 1)

    def say(self, words: Sequence[int], marked: Collection[int] = ()) -> str:
        """Words that follow each other as text, those `marked` in << >>."""
        ends = torch.searchsorted(self.word, torch.tensor([*words, words[-1] + 1])).tolist()
        said = ""
        for word, place in zip(words, pairwise(ends), strict=True):
            text = str(self.tokenizer.decode(self.ids[slice(*place)], clean_up_tokenization_spaces=False))
            space = text[: len(text) - len(text.lstrip())]
            said += f"{space}<<{text.lstrip()}>>" if word in marked else text
        return said.strip()

    def different(self, order: Sequence[int], where: Int[Tensor, "entry"], count: int) -> list[int]:
        """The first of some firings in as many texts."""
        first: dict[int, int] = {}
        for entry in order:
            if len(first) == count:
                break
            first.setdefault(int(self.text[where[entry]]), entry)
        return list(first.values())

    def _context(self, token: int, value: float) -> Context:
        word, text = int(self.word[token]), self.text[token]
        ends = torch.searchsorted(self.text, torch.stack([text, text + 1])).tolist()  # texts stand in order
        first, last = int(self.word[ends[0]]), int(self.word[ends[1] - 1])
        before, after = max(first, word - AROUND[0]), min(last, word + AROUND[1])
        place = torch.searchsorted(self.word, torch.tensor([before, word, word + 1, after + 1])).tolist()
        said = [
            str(self.tokenizer.decode(self.ids[a:b], clean_up_tokenization_spaces=False)) for a, b in pairwise(place)
        ]
        space = said[1][: len(said[1]) - len(said[1].lstrip())]
        return Context(said[0] + space, said[1].lstrip(), said[2], round(value, 2))


def plain_texts(texts: Mapping[str, Sequence[str]]) -> list[str]:
    """The first of a run's texts that are no prompts of the survey, each once, about CHARACTERS of them; those that the
    SAE was judged on come first."""
    known, found, left = set(texts["prompts"]), [], CHARACTERS
    for text in dict.fromkeys([*texts["held_out"], *texts["training"]]):
        if text not in known and left > 0:
            found.append(text[:left])
            left -= len(text)
    return found


Read = tuple[list[int], Float[Tensor, "_ d"], Bool[Tensor, "_"]]  # tokens of a text, stream, which of them count


def read_corpus(answers: AnswerPath, sae: SparseAutoencoder, texts: Sequence[str]) -> Corpus:
    """The questions of the survey, as they stand in their prompts, and plain text.

    The questions' stream is that which the prompts' one pass kept; the texts are read up to the hook layer. Attention
    sinks count as tokens on which nothing fires.
    """
    rows = [*_questions(answers), *_plain(answers, texts)]
    return corpus_of(rows, sae, answers.lm.tokenizer, len(answers.questions))


@torch.no_grad()
def corpus_of(
    rows: Sequence[Read], sae: SparseAutoencoder, tokenizer: transformers.PreTrainedTokenizerBase, questions: int = 0
) -> Corpus:
    """Where the latents of an SAE fire in texts that were read, of which so many, the first, are a survey's."""
    ids, streams, real = zip(*rows, strict=True)
    text = torch.arange(len(ids)).repeat_interleave(torch.tensor([len(part) for part in ids]))
    flat = torch.tensor([token for part in ids for token in part])
    entries = []
    stream, counts = torch.cat(streams).float(), torch.cat(real)
    for chunk in progress(counts.nonzero()[:, 0].split(2048), "latents of texts"):
        values, latents = (part.cpu() for part in sae.encode_sparse(stream[chunk]))
        row, place = (values > 0).nonzero(as_tuple=True)
        entries.append((chunk[row], latents[row, place], values[row, place]))
    where, latent, values = (torch.cat(part) for part in zip(*entries, strict=True))
    order = latent.argsort(stable=True)
    starts = torch.searchsorted(latent[order], torch.arange(sae.width + 1))
    word, words = _words(tokenizer, flat, text)
    of_survey = torch.arange(len(ids)) < questions
    return Corpus(tokenizer, flat, text, word, words, of_survey, where[order], values[order], starts)


def _questions(answers: AnswerPath) -> Iterator[Read]:
    """Each question in the first order of its options."""
    for item in range(0, len(answers.prompts), answers.orders):
        prompt, start = answers.prompts[item], int(answers.kept.starts[item])
        ids = list(prompt.tokens[slice(*prompt.asked)]) if prompt.asked else []
        yield ids, answers.kept.stream[start : start + len(ids)], torch.ones(len(ids), dtype=torch.bool)


def _plain(answers: AnswerPath, texts: Sequence[str]) -> Iterator[Read]:
    lm = answers.lm
    for tokens, there in progress(text_windows(lm, texts) if texts else [], "plain text"):
        residual = lm.residual(tokens, answers.hook_layer).cpu()
        counts = content(residual, there)
        for row, some in enumerate(there):
            first = int(tokens[row, 0] == lm.tokenizer.bos_token_id)  # not shown
            some = some.nonzero()[first:, 0]
            yield tokens[row, some].tolist(), residual[row, some], counts[row, some]


def token_texts(tokenizer: transformers.PreTrainedTokenizerBase, ids: Int[Tensor, "token"]) -> list[str]:
    """Each token as text, with the space in front of it."""
    some = int(ids[0])  # in front of each, since some tokenizers drop the space in front of the first
    head = len(tokenizer.decode([some], clean_up_tokenization_spaces=False))
    unique, which = ids.unique(return_inverse=True)
    known = [tokenizer.decode([some, one], clean_up_tokenization_spaces=False)[head:] for one in unique.tolist()]
    return [known[n] for n in which.tolist()]


def _words(
    tokenizer: transformers.PreTrainedTokenizerBase, ids: Int[Tensor, "token"], text: Int[Tensor, "token"]
) -> tuple[Int[Tensor, "token"], tuple[str, ...]]:
    """Which word each token begins in, and the words, without the spaces before them."""
    pieces = token_texts(tokenizer, ids)
    words: list[str] = []
    of_token: list[int] = []
    for _, tokens in groupby(range(len(pieces)), key=text.tolist().__getitem__):
        own = [pieces[token] for token in tokens]
        spans = list(WORD.finditer("".join(own) + "\n"))
        ends = [span.end() for span in spans]
        spaces = [len(piece) - len(piece.lstrip()) if piece.strip() else 0 for piece in own]
        starts = accumulate((len(piece) for piece in own[:-1]), initial=0)
        of_token += [len(words) + bisect_right(ends, sum(pair)) for pair in zip(starts, spaces, strict=True)]
        words += [span.group().strip() for span in spans]
    used, word = torch.tensor(of_token).unique(return_inverse=True)
    return word, tuple(words[n] for n in used.tolist())
