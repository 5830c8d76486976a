"""What else a constant offset can be: fitted to the worst-off group, added up, of another kind, trained with its SAE.

All is held out and fitted as in the book, from its fits of Delta_shared, so that t = 0 of the tilted loss is its Delta.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from opinion_sae.artifacts import Item
from opinion_sae.delta.few_latents import compose, composition_table, fit_crossed, tilt_sweep, tilt_table
from opinion_sae.delta.files import load_answers, load_deltas
from opinion_sae.delta.held_out import HeldOut
from opinion_sae.delta.joint import joint_table, joint_variants, scratch_alone
from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.delta.selection import compare_kinds
from opinion_sae.sae.autoencoder import load_sae
from opinion_sae.studies import Given, Parts
from opinion_sae.survey import question_clusters

TITLE = "constant offsets: a tilted loss, intersections of groups, kinds of offsets, SAEs trained along from scratch"
TIME = "six minutes of one core"
Tables = dict[str, pd.DataFrame]


def items(given: Given) -> dict[str, Item]:
    """Each makes a table, or two; intersections only where the profile has some."""
    of, sae = given.constant, given.sae.sha256()
    found: dict[str, tuple[Callable[[Given], Tables], object]] = {
        "tilt": (tilted, of.tilts),
        "joint": (trained_along, (of.joint, of.scratch_steps)),
        "kinds": (kinds, of.kind_epochs),
    }
    if of.crossed is not None:
        found["crossed"] = (crossed, of.crossed.groups)
    about = [sae, repr(given.settings), given.replicates]
    return {name: Item([*about, repr(own)], partial(_packed, make, given)) for name, (make, own) in found.items()}


def tilted(given: Given) -> Tables:
    """Mean and worst-off group under the loss tilted over groups, and under Delta as it is."""
    wanted = [tilt for tilt in given.constant.tilts if tilt]
    shared = load_deltas(given.work, len(given.splits), given.sae, "shared")
    plain = {0.0: load_answers(given.work)["delta"]}
    steep = tilt_sweep(given.answers, given.survey, given.splits, shared, wanted, given.settings)
    clusters = question_clusters(given.survey)
    return {"tilt": tilt_table(given.survey, plain | steep, clusters, given.replicates, given.seed)}


def crossed(given: Given) -> Tables:
    """Offsets of two groups added up, beside one fitted to the people who are in both."""
    both = given.constant.crossed
    assert both is not None
    shared, deltas = (load_deltas(given.work, len(given.splits), given.sae, name) for name in ("shared", "delta"))
    direct = fit_crossed(given.answers, both, given.splits, shared, given.settings)
    scores = compose(given.answers, given.splits, deltas, both, direct)
    table = composition_table(both, scores, question_clusters(both), given.replicates, given.seed)
    return {"composition": table.assign(intersections=len(both.groups))}


def kinds(given: Given) -> Tables:
    """Every kind of constant offset on the first split."""
    few = replace(given.settings, epochs=given.constant.kind_epochs)
    return {"kinds": compare_kinds(given.answers, given.sae, given.survey, given.splits[0], few)}


def trained_along(given: Given) -> Tables:
    """Joint training on the first split: the book's, its variants, and what each SAE does to the model. As `scratch`
    the history of the one from scratch that keeps e."""
    answers, split, settings = given.answers, given.splits[0], given.constant.joint
    start = load_deltas(given.work, len(given.splits), given.sae, "shared")[0]
    steps = given.constant.scratch_steps
    variants = joint_variants(answers, given.survey, split, given.activations, start, settings, steps)
    saes = {"given": given.sae, "alone": scratch_alone(given.activations, given.sae, split, settings, steps)}
    table = joint_table(
        answers, given.survey, split, given.held_out, load_answers(given.work), _of_the_book(given), variants, saes
    )
    return {"joint": table.reset_index(), "scratch": variants["from scratch, e kept"].history}


def _of_the_book(given: Given) -> HeldOut:
    """Chapter 05's joint training, of which the first split's SAE and Delta are kept."""
    folder = given.work / "joint"
    own = GroupDelta.load(folder / "delta.safetensors", load_sae(folder / "sae"))
    log_probs = load_answers(given.work, "answers-joint.safetensors")["delta-joint"]
    return HeldOut(log_probs, [own], pd.DataFrame())


def _packed(make: Callable[[Given], Tables], given: Given) -> dict[str, np.ndarray]:
    """Tables as the bytes of their CSV, since a part holds numbers only."""
    return {name: np.frombuffer(table.to_csv(index=False).encode(), np.uint8) for name, table in make(given).items()}


def tables(given: Given, parts: Parts) -> Tables:
    """`tilt`, `composition`, `kinds`, `joint` and `scratch`, as far as they are there."""
    packed = {name: text for part in parts.values() for name, text in part.items()}
    return {name: pd.read_csv(io.BytesIO(text.tobytes())) for name, text in packed.items()}
