"""Width: what more latents buy at the same sparsity and the same tokens."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from opinion_sae.artifacts import Item
from opinion_sae.sae.architectures import Sizes, train_architecture
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.studies import Given, Parts
from opinion_sae.studies.ground import Ground, folder_of, gaps_with, kept_sae, reconstructed, sizes
from opinion_sae.studies.seeds import SEEDS, over_questions, over_seeds

TITLE = "widths of a top-k SAE from 1,024 to 65,536 at the same sparsity and tokens"
TIME = "fifty minutes of one core"
WIDTHS = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
SEEDED = 8192  # width up to which offsets read with the SAEs of all seeds; with wider ones of one, which takes minutes
MEASURES = ("fvu", "fvu_at_answers", "l0", "dead", "seconds", "processor", "split", "kept")
SAME = 0.5  # correlation from which a wide latent counts as a part of a narrow one
OFTEN = 8  # held-out tokens on which both have to fire at least


class Name(NamedTuple):
    """What an item is about; 'gaps-' before it where it is the offset that reads with that SAE."""

    width: int
    seed: int

    def __str__(self) -> str:
        return f"{self.width}-{self.seed}"


def items(given: Given) -> dict[str, Item]:
    """Every width trained and measured, the narrowest first, seed by seed, and the offset that reads with each."""
    ground, found = Ground(given), {}
    names = [Name(width, seed) for seed in range(SEEDS) for width in WIDTHS]
    for kind in ("", "gaps-"):
        for name in names if not kind else (one for one in names if one.seed == 0 or one.width <= SEEDED):
            about = [repr(_sizes(given, name)), *ground.item.about]
            make = partial(gaps_with, given, partial(kept_sae, given, name))
            found[f"{kind}{name}"] = Item(about, make if kind else partial(_quality, ground, name))
    return found


def _sizes(given: Given, name: Name) -> Sizes:
    """Each width starts from a decoder of its own, lest narrow rows be in the wide one."""
    return sizes(given, name.width, int(given.training["k"]), name.width + name.seed)


def _quality(ground: Ground, name: Name) -> dict[str, np.ndarray]:
    given = ground.given
    trained = train_architecture("topk", given.activations.tokens, _sizes(given, name))
    trained.sae.save(folder_of(given, name))
    fvu, l0, fires = reconstructed(trained.sae, ground.tokens, 512)
    fvu_at, _, _ = reconstructed(trained.sae, given.answers.residual, 512)
    found = {"fvu": fvu, "fvu_at_answers": fvu_at, "l0": l0, "dead": 1 - fires.float().mean().item()}
    found |= {"seconds": trained.seconds, "processor": trained.processor}
    if name.width > WIDTHS[0]:
        narrow = kept_sae(given, name._replace(width=WIDTHS[0]))
        found["split"], found["kept"] = split(*(fired(sae, ground.tokens) for sae in (narrow, trained.sae)))
    return {measure: np.array(value, dtype=float) for measure, value in found.items()}


@torch.no_grad()
def fired(sae: SparseAutoencoder, x: Float[Tensor, "token d"]) -> Float[Tensor, "token latent"]:
    """Activations of the latents that fire on `OFTEN` tokens or more."""
    z = torch.cat([sae.encode(part) for part in x.split(1024)])
    return z[:, (z > 0).sum(0) >= OFTEN]


def split(narrow: Float[Tensor, "token m"], wide: Float[Tensor, "token n"]) -> tuple[float, float]:
    """How many wide latents a narrow one becomes, by their activations on the same tokens: each wide latent goes to the
    narrow one with which it correlates most, if that is by `SAME` or more; the mean over the narrow latents that have
    any, and the share of narrow latents that do."""
    a, b = (torch.nn.functional.normalize(part - part.mean(0), dim=0) for part in (narrow, wide))
    counts = torch.zeros(a.shape[1])
    for part in b.split(2048, dim=1):
        correlation, which = (part.T @ a).max(1)
        counts += torch.bincount(which[correlation >= SAME], minlength=len(counts))
    some = counts > 0
    return (counts[some].mean().item() if some.any() else float("nan")), some.float().mean().item()


def tables(given: Given, parts: Parts) -> dict[str, pd.DataFrame]:
    """`size`: a row per width, means over seeds with 95 % intervals: of Student's t, or for gaps of the bootstrap over
    questions and seeds. `exponents`: of each measure b in measure ~ width^b, by least squares of logarithms in every
    seed, mean and interval over seeds."""
    rows = []
    for width in WIDTHS:
        of, fitted = (_of_width(parts, kind, width) for kind in ("", "gaps-"))
        if not of:
            continue
        row: dict[str, float] = {"width": width, "n_seeds": len(of), "n_seeds_gaps": len(fitted)}
        for measure in MEASURES:
            if measure in of[0]:
                row |= over_seeds(measure, np.array([part[measure].item() for part in of]))
        for measure in ("gap_r", "group_kl_closed") if fitted else ():
            row |= over_questions(measure, np.stack([part[measure] for part in fitted]), given.seed)
        rows.append(row)
    fits = []
    for measure in ("fvu", "fvu_at_answers", "processor"):
        slopes = [one for seed in range(SEEDS) if (one := _fit(parts, measure, seed)) is not None]
        found = np.array(slopes, dtype=float)
        if len(found):
            fits.append({"measure": measure, "n_seeds": len(found)} | over_seeds("exponent", found[:, 0]))
            fits[-1] |= {"constant": found[:, 1].mean()}
    return {"size": pd.DataFrame(rows) if rows else pd.DataFrame({"width": []}), "exponents": pd.DataFrame(fits)}


def _of_width(parts: Parts, kind: str, width: int) -> list[Mapping[str, np.ndarray]]:
    """Of the seeds that are there."""
    names = [f"{kind}{Name(width, seed)}" for seed in range(SEEDS)]
    return [parts[name] for name in names if name in parts]


def _fit(parts: Parts, measure: str, seed: int) -> tuple[float, float] | None:
    """`exponent` over the widths of a seed; None for fewer than two."""
    there = [width for width in WIDTHS if str(Name(width, seed)) in parts]
    if len(there) < 2:
        return None
    values = [parts[str(Name(width, seed))][measure].item() for width in there]
    return exponent(np.array(there, dtype=float), np.array(values))


def exponent(width: Float[np.ndarray, "n"], value: Float[np.ndarray, "n"]) -> tuple[float, float]:
    """b and a of log value = a + b log width by least squares."""
    x, y = np.log(width) - np.log(width).mean(), np.log(value)
    b = float(x @ y / (x @ x))
    return b, float(y.mean() - b * np.log(width).mean())
