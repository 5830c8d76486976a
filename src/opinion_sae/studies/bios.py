"""SHIFT on Bias in Bios, as Marks et al. 2024 have it: a probe for the profession, professor or nurse, fitted to male
professors and female nurses alone, and what is left of it once the latents that carry the gender are taken out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property, partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float

from opinion_sae.artifacts import Item
from opinion_sae.effects.firing import Read, corpus_of
from opinion_sae.model.language_model import LanguageModel
from opinion_sae.model.reading import Tokens
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.studies import Given, Parts
from opinion_sae.studies.biographies import load_biographies, some_of_each
from opinion_sae.studies.pieces import LENGTH, Streams, streams
from opinion_sae.studies.shift import (
    DRAWS,
    FEATURES,
    HELD_OUT,
    ON_CARD,
    RIDGE,
    TAKEN,
    Cards,
    divided,
    features,
    over_draws,
    read_cards,
    table,
)
from opinion_sae.studies.specialised import GENERAL, settings_of, trained

TITLE = "a probe for the profession whose training biographies confound it with gender (Bias in Bios, by path)"
TIME = "not timed: the data is the user's"
EACH = 300  # biographies of each profession and gender, at most


class Biographies:
    """As many of each profession and gender, and the model's stream at their first tokens.

    y is whether somebody is a professor, the theme whether a man: where both are the same, training is confounded.
    """

    def __init__(self, given: Given):
        if given.data is None:
            raise ValueError("study bios: no path of Bias in Bios is given")
        self.given, self.found = given, some_of_each(load_biographies(given.data), EACH, given.seed)

    @property
    def sha256(self) -> str:
        """Of the texts, professions and genders."""
        return hashlib.sha256(self.found.to_csv(index=False).encode()).hexdigest()

    @cached_property
    def y(self) -> Bool[np.ndarray, "biography"]:
        return self.found["professor"].to_numpy(bool)

    @cached_property
    def theme(self) -> Bool[np.ndarray, "biography"]:
        return self.found["male"].to_numpy(bool)

    @cached_property
    def streams(self) -> Streams:
        """Of the first `LENGTH` tokens of each, in their order."""
        return first_tokens(self.given.lm, self.found["text"].tolist(), self.given.answers.hook_layer)

    def sae(self, name: str) -> SparseAutoencoder | None:
        """The book's SAE, or one trained on these biographies' tokens, which knows no professions and no genders."""
        one = FEATURES[name]
        if one is None or one == GENERAL:
            return None if one is None else self.given.sae
        return trained(self.given.sae, one, settings_of(self.given), self.streams.x.float(), None, self.given.seed)

    def __call__(self, name: str) -> tuple[Float[np.ndarray, "biography feature"], Cards | None]:
        """The features of a kind, and the cards of its latents by the biographies."""
        sae, (x, token, piece), count = self.sae(name), self.streams, len(self.found)
        found = features(sae, Tokens(x, piece, torch.ones(len(piece))), count)
        if sae is None:
            return found, None
        ends = torch.searchsorted(piece, torch.arange(1, count)).tolist()
        rows: list[Read] = [
            (ids.tolist(), part, torch.ones(len(ids), dtype=torch.bool))
            for ids, part in zip(token.tensor_split(ends), x.tensor_split(ends), strict=True)
        ]
        return found, read_cards(corpus_of(rows, sae, self.given.lm.tokenizer))


def first_tokens(lm: LanguageModel, texts: Sequence[str], hook_layer: int, length: int = LENGTH) -> Streams:
    """`streams` of the first tokens of each text, without BOS, in the order of the texts."""
    bos = lm.tokenizer.bos_token_id
    before = [] if bos is None else [bos]
    pieces = [
        before + lm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][: length - len(before)]
        for text in texts
    ]
    found = streams(lm, pieces, hook_layer)
    order = found.piece.argsort(stable=True)
    order = order[found.token[order] != bos] if before else order
    return Streams(*(part[order] for part in found))


def items(given: Given) -> dict[str, Item]:
    """Per kind of features the accuracies in every draw; those of the stream and the book's SAE alone where that one
    is not of the kind top-k, from which no other is trained."""
    own, top_k = Biographies(given), given.sae.k is not None
    about = [given.sae.sha256(), own.sha256, DRAWS, HELD_OUT, TAKEN, RIDGE, ON_CARD, LENGTH]
    about += [settings_of(given)] if top_k else []
    return {
        name: Item(about, partial(measured, own, name)) for name in FEATURES if top_k or name in ("stream", "general")
    }


def measured(own: Biographies, name: str) -> dict[str, np.ndarray]:
    """`over_draws`, each of which holds other biographies out."""
    x, cards = own(name)
    seeds = range(own.given.seed, own.given.seed + DRAWS)
    draws = ((seed, divided(own.theme, own.y, np.random.default_rng(seed))) for seed in seeds)
    return over_draws(x, own.y, draws, cards)


def tables(given: Given, parts: Parts) -> dict[str, pd.DataFrame]:
    """`shift.table`, of biographies in place of questions, as accuracy.csv; a cell is one profession and one gender."""
    return {"accuracy": table(parts).rename(columns={"questions": "biographies"})}
