"""At which layer and place of the prompts group differences can be read, and where a persona prompt enters.

Every prompt is run once, and from the stream after each layer at three places (`studies.layers`) the groups' tilts are
read by the ridge of `direct-dense` (`methods.kernel_ridge`), its penalty chosen on training and validation questions:
the last token's cell at the book's hook layer is `direct-dense-last`; `direct-dense` chooses its tokens besides. Then
two groups of each attribute are named by a persona (`studies.named`), before `ASKED` questions of each fold.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from opinion_sae.artifacts import Item, made, recalled
from opinion_sae.methods.from_features import Candidates, dense, word_candidates
from opinion_sae.methods.kernel_ridge import kernel_ridge
from opinion_sae.methods.personas import persona
from opinion_sae.model.answers import letter_table
from opinion_sae.model.prompts import build_prompts
from opinion_sae.model.reading import PLACES
from opinion_sae.score.gap_replicates import PooledGaps, interval, pooled_correlations, question_weights
from opinion_sae.score.metrics import as_cells, option_positions
from opinion_sae.studies import Given, Parts
from opinion_sae.studies.layers import place_streams
from opinion_sae.studies.named import Pairs, asked_of, far_pairs, named_shares, pair_gaps_of, pair_read_out
from opinion_sae.survey import question_clusters

TITLE = "where group differences can be read, layer by layer at three places, and where a persona prompt enters"
TIME = "three and a half minutes of one core"
STYLE = "portray"  # of the personas, `methods.personas`
ASKED = 20  # questions of each fold that are asked under a persona


@dataclass(frozen=True, eq=False)
class Ground:
    """What the items share."""

    given: Given

    @cached_property
    def weights(self) -> Float[np.ndarray, "replicate question"]:
        """The bootstrap's, of questions."""
        return question_weights(question_clusters(self.given.survey), self.given.replicates, self.given.seed)

    @cached_property
    def pairs(self) -> Pairs:
        """The groups that personas name."""
        return far_pairs(self.given.survey)

    @cached_property
    def asked(self) -> Int[np.ndarray, "asked"]:
        """The questions that are asked under them."""
        return asked_of(self.given.survey, self.given.splits, self.pairs, ASKED)

    @cached_property
    def streams(self) -> Float[np.ndarray, "place layer question d"]:
        """Of all prompts without a persona, kept in the study's folder."""
        lm, questions = self.given.lm, self.given.survey.questions
        prompts = build_prompts(lm.tokenizer, questions, 1)
        item = Item(
            [lm.sha256, str(lm.dtype), [prompt.tokens for prompt in prompts]],
            lambda: {"streams": place_streams(lm, prompts).numpy()},
        )
        path = self.given.folder / "streams.safetensors"
        return (recalled(path, item.about) or made(path, item))["streams"]

    def gap_r(self, candidates: Candidates) -> Float[np.ndarray, "replicate"]:
        """gap_r of all groups from toplines, on held-out questions, and after it that of every replicate."""
        table, _ = kernel_ridge(self.given.survey, self.given.splits, candidates)
        return PooledGaps(self.given.survey, self.weights)(table)[0]


def items(given: Given) -> dict[str, Item]:
    """Words, each place, then each attribute's personas."""
    ground, split = Ground(given), [part.tolist() for of in given.splits for part in of[1:]]
    about = [given.replicates, given.seed, split]
    found = {"words": Item(about, lambda: {"gap_r": ground.gap_r(word_candidates(given.survey))})}
    found |= {place: Item(about, partial(_place, ground, place)) for place in PLACES}
    for attribute, pair in ground.pairs.items():
        texts = [persona(STYLE, given.survey, group) for group in pair]
        found[f"persona-{attribute}"] = Item([texts, ground.asked.tolist()], partial(_personas, ground, pair))
    return found


def _place(ground: Ground, place: str) -> dict[str, np.ndarray]:
    """gap_r after every layer, the embedding first."""
    layers = ground.streams[PLACES.index(place)].astype(float)
    return {"gap_r": np.stack([ground.gap_r({place: dense(x)}) for x in layers])}


def _personas(ground: Ground, pair: tuple[int, int]) -> dict[str, np.ndarray]:
    """d and the Gram matrix of m (`studies.named`), and how far apart the model itself answers for the two groups."""
    given = ground.given
    lm, questions = given.lm, [given.survey.questions[q] for q in ground.asked]
    both, places = [], []
    positions = option_positions(tuple(questions), given.survey.counts.shape[-1])
    for group in pair:
        prompts = build_prompts(lm.tokenizer, questions, 1, persona(STYLE, given.survey, group))
        both.append(place_streams(lm, prompts))
        letters, has_option = letter_table(prompts)
        logits = lm.logits(both[-1][PLACES.index("last"), -1].to(lm.device), letters).cpu().double()
        shares = logits.masked_fill(~has_option, -torch.inf).softmax(-1).numpy()
        places.append((shares * positions[:, : shares.shape[1]]).sum(1))
    middle = (both[0] + both[1]).double() / 2
    middle -= middle[:, :, :1].clone()  # an origin that leaves exactly 0 where the questions do not differ
    gram = torch.einsum("plqd,plrd->plqr", middle, middle)
    return {"apart": (both[0] - both[1]).numpy(), "gram": gram.numpy(), "said": places[0] - places[1]}


def tables(given: Given, parts: Parts) -> dict[str, pd.DataFrame]:
    """`places`: a row per place and layer (-1: the embedding), and one for words. Once every persona is there,
    `personas`: a row per place and layer, and one for the model's own answers; `pairs`: the groups that are named."""
    ground = Ground(given)
    rows = _decoded(ground, parts)
    found = {"places": pd.DataFrame(rows)} if rows else {}
    of_pairs = [parts.get(f"persona-{attribute}") for attribute in ground.pairs]
    whole = [part for part in of_pairs if part is not None]
    if len(whole) == len(of_pairs):
        found["personas"] = pd.DataFrame(_entering(ground, {name: [part[name] for part in whole] for name in whole[0]}))
        groups = given.survey.groups
        pairs = [(attribute, groups[g], groups[h]) for attribute, (g, h) in ground.pairs.items()]
        found["pairs"] = pd.DataFrame(pairs, columns=["attribute", "group", "other"])
    return found


def _decoded(ground: Ground, parts: Parts) -> list[dict[str, object]]:
    """`behind_low` and `behind_high`: the interval of how far a layer is behind the best of its place (for words, of
    how far words are behind the best layer of any place), both in the same replicates. `over_words`: a cell less words,
    likewise."""
    survey, rows = ground.given.survey, []
    counts = {"n_questions": len(survey.questions), "n_groups": len(survey.groups)}
    there = {place: parts[place]["gap_r"] for place in PLACES if place in parts}
    words = parts["words"]["gap_r"] if "words" in parts else None
    for place, layers in there.items():
        best = layers[layers[:, 0].argmax()]
        for layer, r in enumerate(layers):
            row = {"place": place, "layer": layer - 1, **counts, **_with("gap_r", r), **_behind(best - r)}
            rows.append(row if words is None else row | _with("over_words", r - words))
    if words is not None and there:
        every = np.concatenate(list(there.values()))
        behind = _behind(every[every[:, 0].argmax()] - words)
        rows.append({"place": "words", "layer": None, **counts, **_with("gap_r", words), **behind})
    return rows


def _entering(ground: Ground, of: dict[str, list[np.ndarray]]) -> list[dict[str, object]]:
    """From what each attribute's personas left."""
    given, asked, weights = ground.given, ground.asked, ground.weights[:, ground.asked]
    actual = pair_gaps_of(given.survey, ground.pairs)[:, asked]
    splits = [(np.isin(asked, s.train), np.isin(asked, s.validation), np.isin(asked, s.test)) for s in given.splits]
    apart, gram = np.stack(of["apart"]), np.sum(of["gram"], axis=0)
    counts, rows = {"n_questions": len(asked), "n_pairs": len(actual)}, []
    for number, place in enumerate(PLACES):
        for layer in range(apart.shape[2]):
            d = apart[:, number, layer].astype(float)
            named, same = named_shares(d, gram[number, layer], weights)
            r = pooled_correlations(actual, pair_read_out(d, actual, splits), weights)
            of_both = {**_with("named", named), **_with("same", same), **_with("pair_r", r)}
            rows.append({"place": place, "layer": layer - 1, **counts, **of_both})
    said = pooled_correlations(actual, np.stack(of["said"]), weights)
    return [*rows, {"place": "answers", "layer": None, **counts, **_with("pair_r", said)}]


def _with(name: str, replicates: Float[np.ndarray, "replicate"]) -> dict[str, float]:
    """The value itself, then its 95 % interval."""
    return as_cells(name, replicates[0], *interval(replicates[1:]))


def _behind(difference: Float[np.ndarray, "replicate"]) -> dict[str, object]:
    low, high = interval(difference[1:])
    return {"behind_low": low, "behind_high": high}
