"""SHIFT (Marks et al. 2024) on the surveys: a probe for which way a question divides two groups, fitted where the topic
gives the answer away, and what is left of it once the latents that carry the topic are taken out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int

from opinion_sae.artifacts import Item
from opinion_sae.effects.firing import Corpus, read_corpus
from opinion_sae.effects.labels import Statistics, words_of
from opinion_sae.model.reading import Tokens, bag_of_latents, inverse_frequency, mean_stream, weighted_bag
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.score.gap_pairs import pair_to_show
from opinion_sae.score.gaps import actual_gaps
from opinion_sae.score.metrics import ENDS, as_cells
from opinion_sae.studies import Given, Parts
from opinion_sae.studies.seeded import Ground
from opinion_sae.studies.specialised import GENERAL, Saes, Variant

TITLE = "a probe whose training questions confound topic and party, mended by taking latents out"
TIME = "a minute after the study 'specialised', whose SAEs it reads"
DRAWS = 30
HELD_OUT = 1 / 3  # of the questions, in every draw
TAKEN = (16, 64, 256, 1024)  # latents taken out
ON_CARD = 3  # words of a card's label, and texts of its where the latent fires most strongly
LEAST = 0.03  # of the scale from 0 to 1: questions on which the two groups are nearer say nothing of a direction
RIDGE = 0.01  # beside a mean log loss, with features of length 1
FEATURES: Mapping[str, Variant | None] = {
    "stream": None,
    "general": GENERAL,
    "tuned": Variant("tuned", "dense"),
    "scratch": Variant("scratch", "dense"),
    "narrow": Variant("narrow", "full"),
}
TREATMENTS = ("confounded", "zeroed", "retrained", "zeroed-cards", "retrained-cards", "random", "balanced")


def logistic(
    x: Float[np.ndarray, "question feature"], y: Bool[np.ndarray, "question"], ridge: float = RIDGE, steps: int = 30
) -> tuple[Float[np.ndarray, "feature"], float]:
    """w and b of p(y) = 1 / (1 + exp(-(w . x + b))) that minimise log loss + ridge |w|^2 / 2, by Newton's method.

    The log loss is the mean over both kinds of y, each kind's the mean over its questions. w lies in the space that the
    questions span, so it is found there, by the singular vectors of X. With one kind of y only, w is 0 and b its side.
    ValueError for no questions.
    """
    if not len(y):
        raise ValueError("a probe needs questions to be fitted to")
    if y.all() or not y.any():
        return np.zeros(x.shape[1]), 1.0 if y.all() else -1.0
    u, s, v = np.linalg.svd(x, full_matrices=False)
    features = np.column_stack([u * s, np.ones(len(y))])
    penalty = np.append(np.full(len(s), ridge), 1e-9)
    share = np.where(y, 0.5 / y.sum(), 0.5 / (~y).sum())
    weights = np.zeros(len(penalty))
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(features @ weights, -30, 30)))
        gradient = features.T @ (share * (p - y)) + penalty * weights
        hessian = (features.T * (share * p * (1 - p))) @ features + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        weights -= step
        if np.abs(step).max() < 1e-9:
            break
    return v.T @ weights[:-1], float(weights[-1])


def topic_scores(
    x: Float[np.ndarray, "question feature"], theme: Bool[np.ndarray, "question"]
) -> Float[np.ndarray, "feature"]:
    """|mean in one theme - mean in the other| / sqrt(var + var), 0 for a feature that does not vary."""
    one, other = x[theme], x[~theme]
    spread = np.sqrt(one.var(0) + other.var(0))
    return np.divide(np.abs(one.mean(0) - other.mean(0)), spread, out=np.zeros(x.shape[1]), where=spread > 1e-12)


def accuracies(
    said: Bool[np.ndarray, "question"], y: Bool[np.ndarray, "question"], theme: Bool[np.ndarray, "question"]
) -> Float[np.ndarray, "2"]:
    """Mean over the four cells of direction and theme of the share that is right, and the least of them; cells without
    a question are left out."""
    cells = [(y == one) & (theme == other) for one in (True, False) for other in (True, False)]
    right = [(said == y)[cell].mean() for cell in cells if cell.any()]
    return np.array([np.mean(right), np.min(right)])


class Draw(NamedTuple):
    """Topics dealt to two themes, and questions: which may be fitted to, those of them where theme and direction are
    the same, as many with the four cells in equal numbers, and those to be judged by."""

    theme: Bool[np.ndarray, "question"]
    known: Int[np.ndarray, "known"]
    confounded: Int[np.ndarray, "confounded"]
    balanced: Int[np.ndarray, "balanced"]
    test: Int[np.ndarray, "test"]


def draw(topics: np.ndarray, y: Bool[np.ndarray, "question"], seed: int) -> Draw:
    """One draw. ValueError where there are fewer than two topics, or a cell has no question to fit to."""
    rng, names = np.random.default_rng(seed), np.unique(topics)
    if len(names) < 2:
        raise ValueError(f"the questions whose direction is clear have {len(names)} topic; two are needed")
    dealt = rng.permutation(names)
    theme = np.isin(topics, dealt[: len(dealt) // 2])
    return divided(theme, y, rng)


def divided(theme: Bool[np.ndarray, "question"], y: Bool[np.ndarray, "question"], rng: np.random.Generator) -> Draw:
    """A draw in which the themes are known. ValueError where a cell has no question to fit to."""
    order = rng.permutation(len(y))
    test, known = np.sort(order[: int(len(y) * HELD_OUT)]), np.sort(order[int(len(y) * HELD_OUT) :])
    cells = [known[(y[known] == one) & (theme[known] == other)] for one in (True, False) for other in (True, False)]
    confounded = known[y[known] == theme[known]]
    size = min(min(map(len, cells)), len(confounded) // 4)
    if size < 1:
        raise ValueError(f"of {len(known)} to fit to none is of one theme and one direction")
    balanced = np.concatenate([rng.permutation(cell)[:size] for cell in cells])
    return Draw(theme, known, confounded, np.sort(balanced), test)


class Cards(NamedTuple):
    """What stands on the cards of an SAE's latents, and which words each text holds.

    `words` are those of the latent's label, then those on which it fires most strongly, each in another text, by their
    numbers in the vocabulary (`effects.labels.words_of`); the number after the last stands for none.
    """

    words: Int[np.ndarray, "latent place"]
    holds: Bool[np.ndarray, "text word"]


def read_cards(corpus: Corpus) -> Cards:
    """The cards by a corpus, all of which the labels are written from; nobody's answers are in it."""
    parts = words_of(corpus, 0)
    parts = parts._replace(judged=torch.zeros_like(parts.judged))
    labeler, none = Statistics(corpus, parts, ON_CARD), len(parts.vocabulary)
    words = np.full((len(corpus.starts) - 1, 2 * ON_CARD), none)
    for latent in corpus.starts.diff().nonzero()[:, 0].tolist():
        where, values = corpus.of(latent)
        top = corpus.different(values.argsort(descending=True, stable=True).tolist(), where, ON_CARD)
        said = [labeler.number[word] for word in labeler.label(latent).split(", ") if word]
        said += parts.key[corpus.word[where[top]]].tolist()
        words[latent, : len(said)] = said
    holds = np.zeros((len(corpus.of_survey), none + 1), dtype=bool)
    holds[corpus.text.numpy(), parts.key[corpus.word].numpy()] = True
    return Cards(words, holds[:, :none])


def card_order(
    cards: Cards, known: Int[np.ndarray, "known"], theme: Bool[np.ndarray, "text"]
) -> Int[np.ndarray, "latent"]:
    """Latents in the order in which somebody who reads cards, and sees no activations, takes them out.

    Words are ranked by how well they tell the themes apart over the texts that are `known`:

        |p - q| / sqrt(p (1 - p) + q (1 - q)),  p = (texts of the theme that hold the word + 1/2) / (its texts + 1)

    and q the same of the other theme: as `topic_scores`, with half a text added. From the first word down, every latent
    that has the word on its card, in its label or as one on which it fires most strongly, is taken out, until there are
    enough; cards whose words are in no text come last.
    """
    p, q = ((cards.holds[known][of].sum(0) + 0.5) / (of.sum() + 1) for of in (theme[known], ~theme[known]))
    scores = np.abs(p - q) / np.sqrt(p * (1 - p) + q * (1 - q))
    return np.argsort(-np.append(scores, 0.0)[cards.words].max(1), kind="stable")


def treated(
    x: Float[np.ndarray, "question feature"],
    y: Bool[np.ndarray, "question"],
    one: Draw,
    seed: int,
    cards: Cards | None = None,
) -> dict[tuple[str, int], Float[np.ndarray, "2"]]:
    """`accuracies` on the draw's test questions by treatment and number of features taken out.

    'confounded': the probe as it comes; 'zeroed': the features of the largest `topic_scores` are 0 when it is asked;
    'retrained': and when it is fitted; 'zeroed-cards' and 'retrained-cards': the same with the first of `card_order`,
    where the features are latents, which have cards; 'random': as many drawn from those that vary; 'balanced': the
    oracle, fitted to `balanced`. Topics are known of all the draw's questions to fit to, directions only of the
    confounded ones.
    """
    scores, rng = topic_scores(x[one.known], one.theme[one.known]), np.random.default_rng(seed)
    orders = {"": np.argsort(-scores, kind="stable")}
    if cards is not None:
        orders["-cards"] = card_order(cards, one.known, one.theme)
    varying = rng.permutation(np.flatnonzero(x[one.known].std(0) > 0))

    def judged(probe: tuple[Float[np.ndarray, "feature"], float]) -> Float[np.ndarray, "2"]:
        w, b = probe
        return accuracies(x[one.test] @ w + b > 0, y[one.test], one.theme[one.test])

    def without(out: Int[np.ndarray, "out"]) -> tuple[Float[np.ndarray, "feature"], float]:
        left = x[one.confounded]
        left[:, out] = 0.0  # of a feature that is always 0 the weight is 0
        return logistic(left, y[one.confounded])

    w, b = plain = without(varying[:0])
    found = {("confounded", 0): judged(plain), ("balanced", 0): judged(logistic(x[one.balanced], y[one.balanced]))}
    for count in [count for count in TAKEN if count < x.shape[1]]:
        for name, order in orders.items():
            found[f"zeroed{name}", count] = judged((np.where(np.isin(np.arange(len(w)), order[:count]), 0.0, w), b))
            found[f"retrained{name}", count] = judged(without(order[:count]))
        found["random", count] = judged(without(varying[:count]))
    return found


def features(sae: SparseAutoencoder | None, tokens: Tokens, items: int) -> Float[np.ndarray, "item feature"]:
    """r of a reading offset (a weighted bag of the latents that fire on an item's tokens), or without an SAE the mean
    stream there, standardised; both of length 1 on average. Weights and scales are of all items; they know no answer.
    """
    if sae is None:
        x = mean_stream(tokens, items)
        return ((x - x.mean(0)) / x.std(0).clamp_min(1e-12) / x.shape[1] ** 0.5).double().numpy()
    encoder: Any = sae
    x = bag_of_latents(encoder, tokens, items).rows(torch.arange(items))
    return weighted_bag(x, inverse_frequency(x)).double().numpy()


def over_draws(
    x: Float[np.ndarray, "question feature"],
    y: Bool[np.ndarray, "question"],
    draws: Iterable[tuple[int, Draw]],
    cards: Cards | None,
) -> dict[str, np.ndarray]:
    """By '<treatment>-<taken out>': `treated` in every draw, each with its seed; and how many questions there are, and
    how many of one direction."""
    found: dict[str, list[np.ndarray]] = {}
    for seed, one in draws:
        for (treatment, count), values in treated(x, y, one, seed, cards).items():
            found.setdefault(f"{treatment}-{count}", []).append(values)
    return {key: np.stack(values) for key, values in found.items()} | {"questions": np.array([len(y), int(y.sum())])}


class Probes:
    """The questions whose direction is clear, and their features."""

    def __init__(self, given: Given):
        at_home = replace(given, folder=given.work / "study-specialised")  # its SAEs are these
        self.given, self.saes = given, Saes(at_home, Ground(at_home))

    @cached_property
    def gap(self) -> Float[np.ndarray, "question"]:
        """place(first group) - place(second group), NaN where there is none."""
        survey = self.given.survey
        one, other = (survey.groups.index(group) for group in pair_to_show(survey))
        gaps = actual_gaps(survey)[0]
        return gaps[one] - gaps[other]

    @cached_property
    def clear(self) -> Int[np.ndarray, "clear"]:
        """Positions of the questions on which the two groups are at least `LEAST` apart."""
        return np.flatnonzero(np.abs(np.nan_to_num(self.gap)) >= LEAST)

    def __call__(self, name: str) -> tuple[Float[np.ndarray, "clear feature"], Cards | None]:
        """The features of a kind, the mean over the orders of the options, and the cards of its latents."""
        answers, one = self.given.answers, FEATURES[name]
        sae = None if one is None else self.saes(one)
        x = features(sae, answers.kept.tokens("question"), len(answers.prompts))
        x = x.reshape(-1, answers.orders, x.shape[1]).mean(1)[self.clear]
        if sae is None:
            return x, None
        cards = read_cards(read_corpus(answers, sae, []))
        return x, cards._replace(holds=cards.holds[self.clear])


def items(given: Given) -> dict[str, Item]:
    """Per kind of features the accuracies in every draw."""
    probes = Probes(given)
    about = [given.sae.sha256(), probes.saes.settings, DRAWS, HELD_OUT, TAKEN, LEAST, RIDGE, ON_CARD]
    return {name: Item(about, partial(measured, probes, name)) for name in FEATURES}


def measured(probes: Probes, name: str) -> dict[str, np.ndarray]:
    """`over_draws`, each of which deals the topics anew."""
    (x, cards), y = probes(name), probes.gap[probes.clear] > 0
    topics = np.array([probes.given.survey.questions[number].topic for number in probes.clear])
    seeds = range(probes.given.seed, probes.given.seed + DRAWS)
    return over_draws(x, y, ((seed, draw(topics, y, seed)) for seed in seeds), cards)


def tables(given: Given, parts: Parts) -> dict[str, pd.DataFrame]:
    """`table`, as accuracy.csv."""
    return {"accuracy": table(parts)}


def table(parts: Parts) -> pd.DataFrame:
    """Per features, treatment and number taken out, mean over draws of the mean accuracy and of the worst
    cell's with 95 % intervals of that mean, and the latter's gain over the same features' confounded probe, paired."""
    rows = []
    for name, part in parts.items():
        base = part["confounded-0"]
        for key, values in part.items():
            treatment, _, count = key.rpartition("-")
            if treatment in TREATMENTS:
                cells = {"features": name, "treatment": treatment, "taken": int(count), "draws": len(values)}
                cells |= {"questions": int(part["questions"][0])}
                cells |= _mean("accuracy", values[:, 0]) | _mean("worst", values[:, 1])
                rows.append(cells | _mean("gain", values[:, 1] - base[:, 1]))
    ends = [f"{name}{end}" for name in ("accuracy", "worst", "gain") for end in ENDS]
    rows.sort(key=lambda row: (list(FEATURES).index(row["features"]), TREATMENTS.index(row["treatment"]), row["taken"]))
    return pd.DataFrame(rows, columns=["features", "treatment", "taken", "draws", "questions", *ends])


def _mean(name: str, values: Float[np.ndarray, "draw"]) -> dict[str, float]:
    """Over draws, which are not independent of each other, with 1.96 standard errors to either side."""
    error = 1.96 * values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return as_cells(name, values.mean(), values.mean() - error, values.mean() + error)
