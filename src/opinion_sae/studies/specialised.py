"""Specialised SAEs (Muhamed et al. 2024): the book's SAE trained on, or one from scratch, on a seed set of questions
and the text that is most like it, by the mean of the tokens' losses or tilted towards the largest."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from opinion_sae.artifacts import Item
from opinion_sae.effects.firing import read_corpus
from opinion_sae.effects.labels import labels
from opinion_sae.progress import progress
from opinion_sae.sae.autoencoder import SparseAutoencoder, load_sae
from opinion_sae.sae.train import TopKTraining, check_finite, unexplained, unscaled, untrained_sae
from opinion_sae.studies import Given, Parts, specialised_tables
from opinion_sae.studies.dictionary import (
    covered,
    entropies,
    error_by_rank,
    firing,
    nearest_rows,
    plane,
    quantiles,
    ranks,
)
from opinion_sae.studies.ground import gaps
from opinion_sae.studies.seeded import CHOSEN, SHARE, SPLICED, STRATEGIES, WHOLE, Ground, spread
from opinion_sae.studies.seeds import SEEDS

TITLE = "specialised SAEs: text chosen by the questions, trained on or from scratch, mean or tilted loss"
TIME = "two hours of one core, of which the first seed takes one"
TILTS = (500.0, 1e9)
LATENTS = (16, 32, 64)  # active on a token when an SAE is held against the model; all are trained with the book's k
FEW = 64  # latents that an axis of an offset may read
NEEDED = (8, 16, 32, 128, 256)  # likewise, of the SAEs of which it is asked how many an offset needs
LABELLED = 100  # latents of each SAE whose labels are scored
SHOWN = 400  # decoder rows of each SAE in the map
MAPPED = ("general-0", "tuned-dense-0", "tuned-dense-t500-0", "scratch-dense-0")


class Variant(NamedTuple):
    """One SAE: 'general' (the book's), 'tuned' (trained on from it) or 'scratch'; on what; tilt of the loss; seed."""

    start: str
    strategy: str = ""
    tilt: float = 0.0
    seed: int = 0

    @property
    def name(self) -> str:
        """As in the names of items: 'tuned-dense-t500-0'."""
        tilt = f"t{self.tilt:.0f}" if self.tilt else ""
        return "-".join(part for part in (self.start, self.strategy, tilt, str(self.seed)) if part)


GENERAL = Variant("general")


def variants(seed: int) -> list[Variant]:
    """Those of a seed, in order of worth."""
    tuned = [Variant("tuned", strategy, 0.0, seed) for strategy in STRATEGIES]
    tilted = [Variant("tuned", "dense", tilt, seed) for tilt in TILTS]
    return tuned + tilted[:1] + [Variant("scratch", strategy, 0.0, seed) for strategy in STRATEGIES] + tilted[1:]


class Saes:
    """The SAEs of the study, each trained when first asked for, and kept: an eighth of the book's steps at half its
    batch; at its learning rate from scratch, at a third of it from the book's SAE."""

    def __init__(self, given: Given, ground: Ground):
        self.given, self.ground, self.settings = given, ground, settings_of(given)

    def __call__(self, one: Variant) -> SparseAutoencoder:
        if one.start == "general":
            return self.given.sae
        about = [self.given.sae.sha256(), self.settings, self.ground.about, CHOSEN, SHARE, WHOLE, self.given.seed]
        key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]
        folder = self.given.folder / "saes" / f"{one.name}-{key}"
        if not (folder / "cfg.json").is_file():
            self._train(one).save(folder)
        return load_sae(folder)

    def _train(self, one: Variant) -> SparseAutoencoder:
        seed = self.given.seed + one.seed
        added = self.ground.expansion(one.strategy, seed)
        return trained(self.given.sae, one, self.settings, self.ground.seed, added, seed)


def settings_of(given: Given) -> dict[str, Any]:
    """How specialised SAEs are trained. ValueError where the book's is not of the kind top-k."""
    if given.sae.k is None:
        raise ValueError("the study trains top-k SAEs on from the book's, which is none; take a profile with one")
    size = given.training
    return {
        "steps": max(1, int(size["steps"]) // 8),
        "batch": max(2, int(size["batch"]) // 2),
        "lr": {"tuned": size["lr"] / 3, "scratch": size["lr"]},
    }


def trained(
    general: SparseAutoencoder,
    one: Variant,
    settings: Mapping[str, Any],
    seed_set: Float[Tensor, "seed_token d"],
    added: Float[Tensor, "token d"] | None,
    seed: int,
) -> SparseAutoencoder:
    """`train_on` from the general SAE ('tuned'), or from one of its width ('scratch') or an eighth of it ('narrow')
    that knows nothing yet."""
    start = general
    if one.start != "tuned":
        x = seed_set if added is None else torch.cat([seed_set, added[: len(seed_set)].float()])
        width = general.width // 8 if one.start == "narrow" else general.width
        start = untrained_sae(x, width, min(general.k or 1, width), seed, general.metadata)
    lr = settings["lr"].get(one.start, settings["lr"]["scratch"])
    return train_on(start, seed_set, added, seed=seed, tilt=one.tilt, **{**settings, "lr": lr})


def train_on(
    start: SparseAutoencoder,
    seed_set: Float[Tensor, "seed_token d"],
    added: Float[Tensor, "token d"] | None,
    *,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    tilt: float = 0.0,
) -> SparseAutoencoder:
    """A top-k SAE after further steps; half of every batch are tokens of the seed set, the rest of what was added.

    As in `train_sae`, on activations centred and scaled to unit variance, with 50 steps of warm-up and a linear end.
    The loss is the mean of the tokens' |x - x_hat|^2 / (d variance), or with `tilt` t (1/t) log mean exp(t l) of them
    (TERM; Li et al. 2021), which for t of 500 and more is nearly the largest.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = [seed_set] if added is None else [seed_set, added]
    some = torch.cat([part[torch.randint(len(part), (8192,), generator=generator)].float() for part in parts])
    mean, scale = some.mean(0), 1 / some.var(0, correction=0).mean().sqrt()
    training = TopKTraining(start.W_dec.detach(), start.k or 1, lr=lr, variance=float(start.d_in), tilt=tilt)
    with torch.no_grad():
        training.W_enc.copy_(start.W_enc.T)
        training.b_enc.copy_(start.b_enc * scale)
        training.b_dec.copy_((start.b_dec - mean) * scale)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        training.optimiser, lambda step: min(1.0, (step + 1) / 50, 0.05 + (steps - step) / (0.2 * steps))
    )
    for _ in progress(range(steps), "SAE"):
        drawn = [part[torch.randint(len(part), (batch // len(parts),), generator=generator)].float() for part in parts]
        loss = training.step((torch.cat(drawn) - mean) * scale).loss
        schedule.step()
    check_finite(loss, f"SAE training, step {steps}")
    return unscaled(training, mean, scale, start.metadata)


def items(given: Given) -> dict[str, Item]:
    """Per SAE its measures; offsets that read its latents; the map of decoder rows."""
    ground = Ground(given)
    saes = Saes(given, ground)
    about = [given.sae.sha256(), saes.settings, ground.about, [CHOSEN, SHARE, WHOLE, SPLICED], LATENTS]

    def measure(*some: Variant) -> dict[str, Item]:
        return {one.name: Item(about, partial(measured, ground, saes, one)) for one in some}

    def offsets_of(*some: Variant, needed: Sequence[int] = ()) -> dict[str, Item]:
        kind, counts = ("needed", needed) if needed else ("gaps", (0, FEW))
        return {f"{kind}-{one.name}": Item([*about, counts], partial(offsets, saes, one, counts)) for one in some}

    def labels_of(*some: Variant) -> dict[str, Item]:
        return {f"labels-{one.name}": Item([*about, LABELLED], partial(labelled, ground, saes, one)) for one in some}

    dense, scratch = Variant("tuned", "dense"), Variant("scratch", "dense")
    shown = (dense, dense._replace(tilt=TILTS[0]), scratch)
    found = measure(GENERAL, dense, Variant("tuned", "random"), scratch, dense._replace(tilt=TILTS[0]))
    found |= offsets_of(GENERAL, dense, scratch) | measure(*variants(0)) | {"map": Item(about, lambda: mapped(saes))}
    found |= labels_of(GENERAL, *shown) | offsets_of(GENERAL, dense, scratch, needed=NEEDED) | offsets_of(*variants(0))
    for seed in range(1, SEEDS):
        found |= measure(*variants(seed)) | labels_of(*(one._replace(seed=seed) for one in shown))
        found |= offsets_of(dense._replace(seed=seed), scratch._replace(seed=seed))
    for seed in range(1, SEEDS):
        found |= offsets_of(*variants(seed))
    return found


def measured(ground: Ground, saes: Saes, one: Variant) -> dict[str, np.ndarray]:
    """What the dictionary is like on held-out tokens, and the model's perplexity with it spliced in."""
    sae, given = saes(one), ground.given
    held = [ground.text, ground.asked]
    x, ids = torch.cat([part.x for part in held]), torch.cat([part.token for part in held])
    found = firing(sae, x, ids)
    entropy, most = entropies(found)
    live = found.latent.unique()
    fvu = [unexplained(sae, part) for part in (ground.text.x.float(), ground.asked.x.float(), ground.last)]
    tables = {
        "fvu": torch.tensor([*fvu, len(live) / sae.width]),
        "covered": covered(found, ids, ground.counts),
        "error": error_by_rank(found, x, ids, ranks(ground.counts)),
        "entropy": quantiles(entropy),
        "maximum": quantiles(most),
        "cosine": quantiles(nearest_rows(sae.W_dec[live], given.sae.W_dec)),
        "splice": torch.tensor([[*spliced(ground, at_k(sae, k), part)] for k in LATENTS for part in (0, 1)]),
    }
    if one.start == "tuned":
        tables["own"] = quantiles((normalize(sae.W_dec[live]) * normalize(given.sae.W_dec[live])).sum(1))
    if one.start == "general":
        tables["plain"] = torch.tensor([spliced(ground, None, part)[1] for part in (0, 1)])
    return {name: part.float().numpy() for name, part in tables.items()}


def at_k(sae: SparseAutoencoder, k: int) -> SparseAutoencoder:
    """The same weights with k latents active on a token."""
    part = copy.copy(sae)
    part.k = min(k, sae.width)
    return part


def spliced(ground: Ground, sae: SparseAutoencoder | None, part: int) -> tuple[float, float]:
    """Latents per token, and perplexity with the SAE's output in place of the stream; part 0: text, 1: questions."""
    chosen, layer = ground.spliced[part], ground.given.answers.hook_layer
    edit = sae if sae is not None else (lambda x: x)
    l0 = 0.0 if sae is None else (sae.encode_sparse(chosen.hidden[chosen.at]).values > 0).sum(1).float().mean().item()
    return l0, float(np.exp(chosen.loss(ground.given.lm, layer, edit)))


def mapped(saes: Saes) -> dict[str, np.ndarray]:
    """Decoder rows of `MAPPED` on the plane of the book's SAE: of every SAE the same numbers of rows, drawn."""
    general = saes(GENERAL).W_dec
    drawn = torch.randperm(len(general), generator=torch.Generator().manual_seed(saes.given.seed))[:SHOWN].sort().values
    found = {name: saes(one) for one in [GENERAL, *variants(0)] if (name := one.name) in MAPPED}
    tables = {name: plane(sae.W_dec[drawn], general) for name, sae in found.items()}
    places = {name: place.numpy() for name, (place, _) in tables.items()}
    return places | {"row": drawn.numpy(), "explained": tables[GENERAL.name][1].numpy()}


def offsets(saes: Saes, one: Variant, counts: Sequence[int]) -> dict[str, np.ndarray]:
    """`gaps` with the SAE's latents by the number that may be read, 0 for all: both measures, first of all questions,
    then in every replicate."""
    given, sae = saes.given, saes(one)
    found = {str(count): np.stack([*gaps(given, sae, count or None).values()]) for count in counts}
    given.answers.forget()
    return found


def labelled(ground: Ground, saes: Saes, one: Variant) -> dict[str, np.ndarray]:
    """Detection scores (`effects.labels`) of latents that fire on twenty of the questions' tokens or more, evenly
    spread over their numbers: labels from half of the questions, judged on the other half."""
    corpus = read_corpus(ground.given.answers, saes(one), [])
    enough = (corpus.starts.diff() >= 20).nonzero()[:, 0]
    some = enough[spread(len(enough), LABELLED)].tolist()
    scores = [label.detection for label in labels(corpus, some, ground.given.seed)]
    return {"detection": np.array([score for score in scores if not np.isnan(score)])}


def tables(given: Given, parts: Parts) -> dict[str, pd.DataFrame]:
    """`quality`, `unexplained`, `dictionary`, `gaps`, `labels` and `map`, by the name of the file."""
    of, every = specialised_tables, [GENERAL, *(one for seed in range(SEEDS) for one in variants(seed))]
    kinds = {one.name: (one.start, one.strategy, one.tilt) for one in every}
    saes, read, needed = (
        of.by_kind(parts, {f"{item}{name}": kind for name, kind in kinds.items()}) for item in ("", "gaps-", "needed-")
    )
    found = {
        "quality": of.quality(saes, LATENTS),
        "unexplained": of.unexplained(saes),
        "dictionary": of.dictionary(saes),
    }
    found["gaps"] = of.gaps([read, needed], given.seed)
    found["labels"] = of.labels(of.by_kind(parts, {f"labels-{name}": kind for name, kind in kinds.items()}))
    return found | ({"map": of.places(parts["map"])} if "map" in parts else {})
