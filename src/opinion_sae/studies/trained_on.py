"""Does training through the model better an offset that reads? Started from the direct read-out, as the book leaves it.

L = KL given the toplines (`delta.fit_reading.task_loss`) + l1 (|a|_1 + |b|_1 + |c|_1 + |D|_1), by Adam with a proximal
step (`delta.fit_reading.tune`), over a split's training questions; epoch, l1 and learning rate are chosen on its
validation questions. Only latents that are read at the start may be read.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd
import torch

from opinion_sae.artifacts import Item
from opinion_sae.delta.files import load_deltas
from opinion_sae.delta.fit_reading import Tuning, task_loss, tune
from opinion_sae.delta.held_out import Split, assemble
from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.delta.reading import ReadingOffset
from opinion_sae.methods.reading import Base, fit_reading, reading
from opinion_sae.score.gaps_table import gaps_table
from opinion_sae.studies import Given, Parts
from opinion_sae.survey import question_clusters

TITLE = "training offsets that read through the model, from where the book leaves them"
TIME = "an hour and a quarter on two busy cores"
LATENTS = 64  # read by an axis
L1 = (0.0, 0.1, 1.0)  # in nats for all of a part's |.|_1 at the start
RATES = (0.03, 0.003)  # Adam's, in a part's mean size at the start
EPOCHS, BATCH = 3, 16
ROUNDS = 5  # of timing


def items(given: Given) -> dict[str, Item]:
    """Each split with each rate and l1, and the time that a step takes."""
    found = {
        name: Item([l1, EPOCHS, BATCH, rate], partial(trained, given, number, l1, rate))
        for (number, rate, l1), name in names(given).items()
    }
    return found | {"steps": Item([BATCH, ROUNDS], partial(steps, given))}


def names(given: Given) -> dict[tuple[int, float, float], str]:
    """Of items, by split, rate and l1; the first rate is not said."""
    said = {rate: f"-rate-{rate}" if number else "" for number, rate in enumerate(RATES)}
    every = [(number, rate, l1) for rate in RATES for l1 in L1 for number in range(len(given.splits))]
    return {(number, rate, l1): f"split-{number}-l1-{l1}{said[rate]}" for number, rate, l1 in every}


def begun(given: Given, number: int) -> tuple[Split, ReadingOffset]:
    """A split and the offset fitted to its training questions, validation questions left out."""
    split, shared = given.splits[number], load_deltas(given.work, len(given.splits), given.sae, "shared")[number]
    base = Base.of(given.answers, split, shared)
    read_out = reading(given.answers, given.sae, given.survey, LATENTS)
    offset, _ = fit_reading(read_out, split, base.effects, refit=False, shared=shared.shared.detach())
    return split, offset


def trained(given: Given, number: int, l1: float, rate: float) -> dict[str, np.ndarray]:
    """The history of one fit; held-out log p before it and after."""
    split, offset = begun(given, number)
    train, validation, test = (torch.from_numpy(part) for part in (split.train, split.validation, split.test))
    before = given.answers.predict(offset, test).numpy()
    own = offset.copy().requires_grad_(True)
    settings = Tuning(EPOCHS, BATCH, rate, l1, l1, l1, l1, patience=1, seed=given.seed)
    history = tune(given.answers, own, task_loss(given.survey), train, validation, settings)
    after = given.answers.predict(own, test).numpy()
    columns = {str(name): history[name].to_numpy(float) for name in history}
    return {"before": before, "after": after} | columns


def steps(given: Given) -> dict[str, np.ndarray]:
    """Seconds of a step forth and back of one batch, the constant offset's and the reading one's in turn."""
    _, offset = begun(given, 0)
    constant = GroupDelta(given.survey.groups, given.sae)
    loss, chunk = task_loss(given.survey), torch.arange(min(BATCH, len(given.survey.questions)))
    found = np.zeros((2, ROUNDS + 1))
    for round_ in range(ROUNDS + 1):
        for row, one in enumerate((constant, offset.copy())):
            one.requires_grad_(True)
            start = time.perf_counter()
            loss(given.answers.log_probs(one, chunk), chunk).backward()
            found[row, round_] = time.perf_counter() - start
    return {"constant": found[0, 1:], "reading": found[1, 1:]}  # the first warms up


def tables(given: Given, parts: Parts) -> dict[str, pd.DataFrame]:
    """`splits`, a row per split, rate and l1; `gaps`, before and after, all groups, once all are there; `steps`."""
    all_names = names(given)
    there = {key: parts[name] for key, name in all_names.items() if name in parts}
    rows = pd.DataFrame([_row(*key, part) for key, part in there.items()])
    found = {"splits": rows.assign(chosen=False)} if len(rows) else {}
    if len(there) == len(all_names):
        chosen = rows.loc[rows.groupby("split")["validation_kl"].idxmin()]
        found["splits"] = rows.assign(chosen=rows.index.isin(chosen.index))
        picked = [there[key] for key in zip(chosen["split"], chosen["rate"], chosen["l1"], strict=True)]
        splits, questions = list(given.splits), len(given.survey.questions)
        of = {when: [assemble([part[when] for part in picked], splits, questions)] for when in ("before", "after")}
        gaps = gaps_table(given.survey, of, question_clusters(given.survey), given.replicates, given.seed)
        found["gaps"] = gaps[(gaps["group"] == "all") & (gaps["method"] != "toplines")].reset_index(drop=True)
    if "steps" in parts:
        of_kind = {kind: float(np.median(parts["steps"][kind])) for kind in ("constant", "reading")}
        ratio = parts["steps"]["reading"] / parts["steps"]["constant"]
        each = {"ratio": float(np.median(ratio)), "least": float(ratio.min()), "most": float(ratio.max())}
        found["steps"] = pd.DataFrame([{f"seconds_{kind}": value for kind, value in of_kind.items()} | each])
    return found


def _row(number: int, rate: float, l1: float, part: Mapping[str, np.ndarray]) -> dict[str, int | float]:
    """What a fit kept: epoch 0 is the start."""
    kept = int(np.argmin(part["validation_kl"]))
    about = {"split": number, "rate": rate, "l1": l1, "epoch": kept, "validation_kl_start": part["validation_kl"][0]}
    about["train_kl_last"], about["validation_kl_last"] = part["train_kl"][-1], part["validation_kl"][-1]
    entries = {f"entries_{name}": int(part[f"entries_{name}"][kept]) for name in ("a", "b", "c", "deviation")}
    return {**about, "validation_kl": part["validation_kl"][kept], **entries}
