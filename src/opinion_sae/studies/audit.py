"""Every latent that the reading offset with few latents writes, turned up and down: each runs the model anew, and there
are too many of them for the book itself."""

from __future__ import annotations

import hashlib
from functools import partial

import numpy as np
import pandas as pd

from opinion_sae.artifacts import Item
from opinion_sae.delta.files import load_reading
from opinion_sae.effects import audit
from opinion_sae.effects.latent_table import Used
from opinion_sae.score.gaps import toplines_kl
from opinion_sae.studies import Given, Parts
from opinion_sae.survey import question_clusters
from opinion_sae.survey.naming import naming

TITLE = "each latent that the reading offset writes, turned up and down"
TIME = "about ten minutes of one core"
NUMBERS = [name for name in audit.CELLS if name != "role"]  # a part holds numbers only


def items(given: Given) -> dict[str, Item]:
    """The audit of each fold's offset. FileNotFoundError before chapter 17 has left them."""
    latents = written(given)
    about = [given.sae.sha256(), latents, audit.STRENGTHS, audit.TARGETS, audit.QUESTIONS["write"], given.seed]
    found = {}
    for fold in range(len(given.splits)):
        with (given.work / f"reading-{fold}.safetensors").open("rb") as file:
            offset = hashlib.file_digest(file, "sha256").hexdigest()
        found[f"fold-{fold}"] = Item([*about, offset], partial(audited, given, fold, latents))
    return found


def written(given: Given) -> list[int]:
    """The latents with cards that are written, the largest weights first."""
    *folds, whole = load_reading(given.work, len(given.splits), given.sae)
    used = Used(whole, folds)
    keys = [key for key in used.with_cards() if key[0] == "write"]
    return [key[1] for key in sorted(keys, key=lambda key: -abs(float(used.weights(key)[0])))]


def audited(given: Given, fold: int, latents: list[int]) -> dict[str, np.ndarray]:
    """Its cells (`audit.CELLS` without the role), and by latent the groups that it is meant for."""
    *folds, _ = load_reading(given.work, len(given.splits), given.sae)
    one, keys = slice(fold, fold + 1), [("write", latent) for latent in latents]
    cells, targets = audit.audit(
        given.answers, given.survey, given.splits[one], folds[one], keys, ~naming(given.survey), given.seed
    )
    numbers = cells.assign(fold=fold)[NUMBERS].to_numpy(float)
    meant = np.array(list(targets.values()), dtype=int).reshape(len(targets), -1)
    return {"cells": numbers, "latents": np.array([key[1] for key in targets], dtype=int), "targets": meant}


def tables(given: Given, parts: Parts) -> dict[str, pd.DataFrame]:
    """`written` and `means`: `audit_table` and `means_table` of the folds that are there, with the hash of the SAE."""
    cells = pd.DataFrame(np.concatenate([np.zeros((0, len(NUMBERS))), *(part["cells"] for part in parts.values())]))
    cells = cells.set_axis(NUMBERS, axis=1).astype({name: int for name in ("latent", "fold", "question")})
    cells.insert(0, "role", "write")
    meant = {}
    for part in parts.values():
        meant |= dict(zip(part["latents"].tolist(), part["targets"].tolist(), strict=True))
    targets = {("write", latent): meant[latent] for latent in written(given) if latent in meant}
    clusters, bound = question_clusters(given.survey), toplines_kl(given.survey)
    table = audit.audit_table(cells, targets, given.survey.groups, clusters, bound, given.replicates)
    means = audit.means_table(cells, table, clusters, given.replicates)
    return {name: one.assign(sae_sha256=given.sae.sha256()) for name, one in (("written", table), ("means", means))}
