"""Labels for latents by the words that go with them, and how well a label tells where its latent fires."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from opinion_sae.effects.firing import Corpus

WINDOW = 12  # words of a stretch that is judged
VOCABULARY = 3000  # words considered for labels, the most frequent ones
LETTERS = 3  # that a word of a label has at least


class Label(NamedTuple):
    """Words, and balanced accuracies of 'one of the words is there' on texts that they were not chosen on.

    detection: for 'the latent fires in this stretch of text'; fuzzing: for 'the latent fires on this word', among the
    words of stretches in which it fires. 0.5 is chance; NaN where the latent does not fire in both halves of the texts.
    """

    words: tuple[str, ...]
    detection: float
    fuzzing: float


class Words(NamedTuple):
    """The corpus by words: the stretch of WINDOW words that each is in, its number in the vocabulary (that of no word
    if it is not in it), and whether labels are chosen on its text or judged on it, half of the texts each."""

    stretch: Int[Tensor, "word"]
    key: Int[Tensor, "word"]
    vocabulary: tuple[str, ...]
    judged: Bool[Tensor, "word"]


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
    return Words(stretch, key, vocabulary, half[text])


def labels(corpus: Corpus, latents: Sequence[int], seed: int = 0, words: int = 3) -> list[Label]:
    """A label for each latent: the `words` words that go most with its firing on a word, by their correlation over the
    words of half of the texts; scored on the other half."""
    parts, found = words_of(corpus, seed), []
    chosen, size = ~parts.judged, len(parts.vocabulary)
    often = torch.bincount(parts.key[chosen], minlength=size + 1)[:size] / chosen.sum()
    stretches, judged = int(parts.stretch.max()) + 1, parts.stretch[parts.judged].unique()
    for latent in latents:
        fires = torch.zeros(len(corpus.words), dtype=torch.bool)
        fires[corpus.word[corpus.of(latent)[0]]] = True
        share = fires[chosen].float().mean()
        both = torch.bincount(parts.key[chosen & fires], minlength=size + 1)[:size] / chosen.sum()
        together = (both - share * often) / (often * (1 - often)).clamp_min(1e-9).sqrt()  # times what is one's own
        best = [i for i in together.topk(min(words, size)).indices.tolist() if together[i] > 0]
        if not best or not fires[parts.judged].any():
            found.append(Label((), float("nan"), float("nan")))
            continue
        says = torch.isin(parts.key, torch.tensor(best))
        holds, active = (torch.zeros(stretches, dtype=torch.bool) for _ in range(2))
        holds[parts.stretch[says]], active[parts.stretch[fires]] = True, True
        near = parts.judged & active[parts.stretch]
        scores = balanced_accuracy(holds[judged], active[judged]), balanced_accuracy(says[near], fires[near])
        found.append(Label(tuple(parts.vocabulary[i] for i in best), *scores))
    return found


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
