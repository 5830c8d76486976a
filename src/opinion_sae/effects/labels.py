"""Labels of latents, and how well they tell on other texts where a latent fires, whoever writes and judges them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from opinion_sae.effects.firing import Corpus

WINDOW = 12  # words of a stretch that is judged
VOCABULARY = 3000  # words considered for labels, the most frequent ones
LETTERS = 3  # that a word of a label has at least


class Label(NamedTuple):
    """A label, and balanced accuracies of what its judge says of texts that it was not written from.

    detection: of 'the latent fires in this stretch of text'; fuzzing: of 'the latent fires on this word', among the
    words of stretches in which it fires; after Paulo et al. 2024 (Automatically Interpreting Millions of Features in
    Large Language Models). 0.5 is chance; NaN without a label, or where the latent does not fire in both halves of the
    texts. contexts, marks: stretches and words that were judged.
    """

    text: str
    detection: float
    fuzzing: float
    contexts: int = 0
    marks: int = 0


@runtime_checkable
class Labeler(Protocol):
    """Who writes a label, from the half of the texts that is not judged, and what judges it: 1 for yes, 0 for no, NaN
    for no answer."""

    def label(self, latent: int) -> str: ...

    def in_stretches(self, label: str, stretches: Int[Tensor, "case"]) -> Float[Tensor, "case"]: ...

    def on_words(self, label: str, words: Int[Tensor, "case"]) -> Float[Tensor, "case"]: ...


class Words(NamedTuple):
    """The corpus by words: the stretch of WINDOW words that each is in, its number in the vocabulary (that of no word
    if it is not in it), and whether labels are chosen on its text or judged on it, half of the texts each; and the
    stretches that are judged."""

    stretch: Int[Tensor, "word"]
    key: Int[Tensor, "word"]
    vocabulary: tuple[str, ...]
    judged: Bool[Tensor, "word"]
    stretches: Int[Tensor, "case"]

    def holding(self, words: Bool[Tensor, "word"]) -> Bool[Tensor, "stretch"]:
        """Which stretches hold one of these words."""
        found = torch.zeros(int(self.stretch[-1]) + 1, dtype=torch.bool)
        found[self.stretch[words]] = True
        return found


def words_of(corpus: Corpus, seed: int) -> Words:
    """Words count by their letters, in lower case."""
    first = torch.cat([torch.ones(1, dtype=torch.bool), corpus.word[1:] != corpus.word[:-1]]).nonzero()[:, 0]
    text = corpus.text[first]
    place = torch.arange(len(first)) - torch.searchsorted(text, text)
    _, stretch = (text * (1 + int(place.max()) // WINDOW) + place // WINDOW).unique(return_inverse=True)
    keys = [word.lower() for word in corpus.words]
    counts = Counter(key for key in keys if len(key) >= LETTERS and key.isalpha())
    vocabulary = tuple(key for key, _ in counts.most_common(VOCABULARY))
    number = {key: n for n, key in enumerate(vocabulary)}
    key = torch.tensor([number.get(key, len(vocabulary)) for key in keys])
    half = torch.rand(len(corpus.of_survey), generator=torch.Generator().manual_seed(seed)) < 0.5
    return Words(stretch, key, vocabulary, half[text], stretch[half[text]].unique())


def firings(corpus: Corpus, latent: int) -> Float[Tensor, "word"]:
    """How strongly a latent fires on each word: the most on any of its tokens."""
    where, values = corpus.of(latent)
    return torch.zeros(len(corpus.words)).scatter_reduce(0, corpus.word[where], values.float(), "amax")


class Statistics:
    """The words that go most with a latent's firing, by their correlation; what holds one of them is judged a yes.

    With `weighted`, the correlation is with how strongly it fires, not with whether it does.
    """

    def __init__(self, corpus: Corpus, parts: Words, words: int = 3, weighted: bool = False):
        self.corpus, self.parts, self.words, self.weighted = corpus, parts, words, weighted
        self.number = {word: n for n, word in enumerate(parts.vocabulary)}
        self.chosen, size = ~parts.judged, len(parts.vocabulary)
        self.often = torch.bincount(parts.key[self.chosen], minlength=size + 1)[:size] / self.chosen.sum()

    def label(self, latent: int) -> str:
        value = firings(self.corpus, latent)[self.chosen]
        value = value if self.weighted else (value > 0).float()
        both = torch.bincount(self.parts.key[self.chosen], weights=value, minlength=len(self.often) + 1)
        apart = both[: len(self.often)] / self.chosen.sum() - value.mean() * self.often
        together = apart / (self.often * (1 - self.often)).clamp_min(1e-9).sqrt()  # times what is one's own
        best = together.topk(min(self.words, len(together))).indices.tolist()
        return ", ".join(self.parts.vocabulary[i] for i in best if together[i] > 0)

    def in_stretches(self, label: str, stretches: Int[Tensor, "case"]) -> Float[Tensor, "case"]:
        return self.parts.holding(self._says(label))[stretches].float()

    def on_words(self, label: str, words: Int[Tensor, "case"]) -> Float[Tensor, "case"]:
        return self._says(label)[words].float()

    def _says(self, label: str) -> Bool[Tensor, "word"]:
        said = torch.zeros(len(self.parts.vocabulary) + 1, dtype=torch.bool)
        said[[self.number[word] for word in label.split(", ")]] = True
        return said[self.parts.key]


def scored(corpus: Corpus, parts: Words, labeler: Labeler, latent: int, cases: int | None = None) -> Label:
    """A latent's label with its scores, on all cases or on at most so many of either kind: the same for any labeler."""
    fires, judged = firings(corpus, latent) > 0, parts.stretches
    fired = parts.holding(fires)
    active, near = fired[judged], (parts.judged & fired[parts.stretch]).nonzero()[:, 0]
    text = labeler.label(latent) if active.any() else ""
    if not text:
        return Label("", float("nan"), float("nan"))
    generator = torch.Generator().manual_seed(latent)
    some = [_drawn(true, cases, generator) for true in (active, fires[near])]
    said = labeler.in_stretches(text, judged[some[0]]), labeler.on_words(text, near[some[1]])
    known = [~one.isnan() for one in said]
    true = active[some[0]], fires[near][some[1]]
    detection, fuzzing = [balanced_accuracy(one[k] > 0, t[k]) for one, k, t in zip(said, known, true, strict=True)]
    return Label(text, detection, fuzzing, int(known[0].sum()), int(known[1].sum()))


def _drawn(true: Bool[Tensor, "case"], cases: int | None, generator: torch.Generator) -> Int[Tensor, "some"]:
    """All cases, or some of the true and some of the false ones, mixed."""
    if cases is None:
        return torch.arange(len(true))
    mixed = torch.randperm(len(true), generator=generator)
    kept = [mixed[true[mixed] == kind][:cases] for kind in (True, False)]
    return mixed[torch.isin(mixed, torch.cat(kept))]


def labels(corpus: Corpus, latents: Sequence[int], seed: int = 0) -> list[Label]:
    """The labels of `Statistics`, chosen on half of the texts and scored on all of the other half."""
    parts = words_of(corpus, seed)
    labeler = Statistics(corpus, parts)
    return [scored(corpus, parts, labeler, latent) for latent in latents]


def balanced_accuracy(said: Bool[Tensor, "case"], true: Bool[Tensor, "case"]) -> float:
    """Mean of the shares of true cases and of false ones that are called so; NaN without both."""
    if not true.any() or true.all():
        return float("nan")
    return float((said[true].float().mean() + (~said[~true]).float().mean()) / 2)


def of_equal_rate(rates: Float[Tensor, "latent"], latents: Sequence[int], seed: int = 0) -> list[int]:
    """For each latent another that is not among them and fires nearly as often, drawn from the ten nearest.

    Where all latents are among them, others of these.
    """
    generator, own = torch.Generator().manual_seed(seed), torch.tensor(sorted(set(latents)), dtype=torch.long)
    free = rates.clone()
    if len(own) < len(rates):
        free[own] = torch.inf
    found = []
    for latent in latents:
        distance = (free - rates[latent]).abs()
        distance[latent] = torch.inf
        near = distance.topk(min(10, int(distance.isfinite().sum())), largest=False).indices
        found.append(int(near[torch.randint(len(near), (1,), generator=generator)]))
    return found
