"""Width: what more latents buy at the same sparsity and the same tokens."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from opinion_sae.artifacts import Item
from opinion_sae.sae.architectures import Sizes, train_architecture
from opinion_sae.sae.autoencoder import load_sae
from opinion_sae.score.gap_replicates import interval
from opinion_sae.studies import Given, Parts
from opinion_sae.studies.ground import Ground, drawn, gaps, reconstructed

TITLE = "widths of a top-k SAE from 1,024 to 65,536 at the same sparsity and tokens"
TIME = "about 20 minutes of one core that has nothing else to do"
WIDTHS = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
BATCH, STEPS = 256, 200  # as in `architectures`
SAME = 0.7  # cosine from which a wide latent's decoder row counts as a part of a narrow one's


def items(given: Given) -> dict[str, Item]:
    """Every width trained and measured, the narrowest first, then the offset that reads with each."""
    ground, found = Ground(given), {}
    for kind, make in (("", _quality), ("gaps-", _gaps)):
        for width in WIDTHS:
            about = [repr(sizes(given, width)), *ground.item.about]
            found[f"{kind}{width}"] = Item(about, partial(make, ground, width))
    return found


def sizes(given: Given, width: int) -> Sizes:
    """As in `architectures`, but each width starts from a decoder of its own, lest narrow rows be in the wide one."""
    steps = drawn(len(given.activations.tokens), BATCH, STEPS)
    return Sizes(width, int(given.training["k"]), BATCH, steps, given.training["lr"], given.seed + width)


def _folder(given: Given, width: int) -> Path:
    return given.folder / "saes" / str(width)


def _quality(ground: Ground, width: int) -> dict[str, np.ndarray]:
    given = ground.given
    trained = train_architecture("topk", given.activations.tokens, sizes(given, width))
    trained.sae.save(_folder(given, width))
    fvu, l0, fires = reconstructed(trained.sae, ground.tokens, 512)
    fvu_at, _, _ = reconstructed(trained.sae, given.answers.residual, 512)
    found = {"fvu": fvu, "fvu_at_answers": fvu_at, "l0": l0, "dead": 1 - fires.float().mean().item()}
    found |= {"seconds": trained.seconds, "processor": trained.processor}
    narrow = _folder(given, WIDTHS[0])
    if width > WIDTHS[0] and narrow.is_dir():
        found["split"], found["kept"] = split(load_sae(narrow).W_dec, trained.sae.W_dec)
    return {name: np.array(value, dtype=float) for name, value in found.items()}


def split(narrow: Float[Tensor, "m d"], wide: Float[Tensor, "n d"], same: float = SAME) -> tuple[float, float]:
    """How many wide latents a narrow one becomes: each wide row goes to the narrow row with the largest cosine, if that
    is `same` or more; the mean over the narrow latents that have any, and the share of narrow latents that do."""
    a, b = (torch.nn.functional.normalize(part.detach(), dim=1) for part in (narrow, wide))
    counts = torch.zeros(len(a))
    for part in b.split(2048):
        cosine, which = (part @ a.T).max(1)
        counts += torch.bincount(which[cosine >= same], minlength=len(a))
    some = counts > 0
    return (counts[some].mean().item() if some.any() else float("nan")), some.float().mean().item()


def _gaps(ground: Ground, width: int) -> dict[str, np.ndarray]:
    folder = _folder(ground.given, width)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: not there; make the item {width} first")
    return gaps(ground, load_sae(folder))


def tables(given: Given, parts: Parts) -> dict[str, pd.DataFrame]:
    """`size`: a row per width. `exponents`: of each measure b in measure ~ width^b, by least squares of logarithms."""
    rows = []
    for width in WIDTHS:
        part = parts.get(str(width))
        if part is None:
            continue
        row = {"width": width} | {name: float(value) for name, value in part.items()}
        fitted = parts.get(f"gaps-{width}")
        if fitted is not None:
            for name, values in fitted.items():
                row |= dict(zip((name, f"{name}_low", f"{name}_high"), (values[0], *interval(values[1:])), strict=True))
        rows.append(row)
    size = pd.DataFrame(rows) if rows else pd.DataFrame({"width": []})
    measures = [name for name in ("fvu", "fvu_at_answers", "processor") if name in size]
    fits = [(name, *exponent(size["width"].to_numpy(float), size[name].to_numpy(float))) for name in measures]
    return {"size": size, "exponents": pd.DataFrame(fits, columns=["measure", "exponent", "error", "constant"])}


def exponent(width: Float[np.ndarray, "n"], value: Float[np.ndarray, "n"]) -> tuple[float, float, float]:
    """b, its standard error and a of log value = a + b log width; NaN for the error of two widths, and all for one."""
    if len(width) < 2:
        return float("nan"), float("nan"), float("nan")
    x, y = np.log(width) - np.log(width).mean(), np.log(value)
    b = float(x @ y / (x @ x))
    a = float(y.mean() - b * np.log(width).mean())
    left = y - a - b * np.log(width)
    error = float(np.sqrt(left @ left / (len(x) - 2) / (x @ x))) if len(x) > 2 else float("nan")
    return b, error, a
