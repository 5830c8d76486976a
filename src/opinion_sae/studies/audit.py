"""Every latent that the reading offset with few latents writes, turned up and down: each runs the model anew, and there
are too many of them for the book itself."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd

from opinion_sae.artifacts import Item
from opinion_sae.delta.files import load_reading
from opinion_sae.delta.reading import ReadingDelta
from opinion_sae.effects import audit
from opinion_sae.effects.latent_table import Key, Used, groups_of
from opinion_sae.score.gaps import toplines_kl
from opinion_sae.studies import Given, Parts
from opinion_sae.survey import question_clusters
from opinion_sae.survey.naming import naming

TITLE = "each latent that the reading offset writes, turned up and down"
TIME = "two minutes of one core"
NUMBERS = [name for name in audit.CELLS if name != "role"]  # a part holds numbers only


def items(given: Given) -> dict[str, Item]:
    """The audit of each fold's offset. FileNotFoundError before chapter 17 has left them."""
    folds, targets = written(given)
    about = [given.sae.sha256(), repr(targets), audit.STRENGTHS, audit.TARGETS, audit.QUESTIONS["write"], given.seed]
    found = {}
    for fold, offset in enumerate(folds):
        with (given.work / f"reading-{fold}.safetensors").open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found[f"fold-{fold}"] = Item([*about, digest], partial(audited, given, fold, offset, targets))
    return found


def written(given: Given) -> tuple[list[ReadingDelta], dict[Key, list[int]]]:
    """The folds' offsets; and of each latent that the fit to all questions writes, the largest weights first, the
    groups that it is meant for."""
    *folds, whole = load_reading(given.work, len(given.splits), given.sae)
    used = Used(whole, folds)
    keys = [key for key in used.closely() if key[0] == "write"]
    return folds, groups_of(used, sorted(keys, key=lambda key: -abs(float(used.weights(key)[0]))))


def audited(
    given: Given, fold: int, offset: ReadingDelta, targets: Mapping[Key, Sequence[int]]
) -> dict[str, np.ndarray]:
    """Its cells (`audit.CELLS` without the role)."""
    one, allowed = [given.splits[fold]], ~naming(given.survey)
    cells = audit.audit(given.answers, given.survey, one, [offset], targets, allowed, given.seed)
    return {"cells": cells.assign(fold=fold)[NUMBERS].to_numpy(float)}


def tables(given: Given, parts: Parts) -> dict[str, pd.DataFrame]:
    """`written` and `means`: `audit_table` and `means_table` of the folds that are there, with the hash of the SAE."""
    cells = pd.DataFrame(np.concatenate([np.zeros((0, len(NUMBERS))), *(part["cells"] for part in parts.values())]))
    cells = cells.set_axis(NUMBERS, axis=1).astype({name: int for name in ("latent", "fold", "question")})
    cells.insert(0, "role", "write")
    clusters, bound = question_clusters(given.survey), toplines_kl(given.survey)
    table = audit.audit_table(cells, written(given)[1], given.survey.groups, clusters, bound, given.replicates)
    means = audit.means_table(cells, table, clusters, given.replicates)
    return {name: one.assign(sae_sha256=given.sae.sha256()) for name, one in (("written", table), ("means", means))}
