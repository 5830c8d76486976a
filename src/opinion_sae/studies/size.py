"""Width: what more latents buy at the same sparsity and the same tokens."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from opinion_sae.artifacts import Item
from opinion_sae.sae.architectures import Sizes, train_architecture
from opinion_sae.sae.autoencoder import load_sae
from opinion_sae.score.gap_replicates import interval
from opinion_sae.score.metrics import as_cells
from opinion_sae.studies import Given, Parts
from opinion_sae.studies.ground import Ground, folder_of, gaps_with, kept_sae, reconstructed, sizes

TITLE = "widths of a top-k SAE from 1,024 to 65,536 at the same sparsity and tokens"
TIME = "about 20 minutes of one core that has nothing else to do"
WIDTHS = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
SAME = 0.7  # cosine from which a wide latent's decoder row counts as a part of a narrow one's


def items(given: Given) -> dict[str, Item]:
    """Every width trained and measured, the narrowest first, then the offset that reads with each."""
    ground, found = Ground(given), {}
    for kind in ("", "gaps-"):
        for width in WIDTHS:
            about = [repr(_sizes(given, width)), *ground.item.about]
            make = partial(gaps_with, given, partial(kept_sae, given, width))
            found[f"{kind}{width}"] = Item(about, make if kind else partial(_quality, ground, width))
    return found


def _sizes(given: Given, width: int) -> Sizes:
    """Each width starts from a decoder of its own, lest narrow rows be in the wide one."""
    return sizes(given, width, int(given.training["k"]), width)


def _quality(ground: Ground, width: int) -> dict[str, np.ndarray]:
    given = ground.given
    trained = train_architecture("topk", given.activations.tokens, _sizes(given, width))
    trained.sae.save(folder_of(given, width))
    fvu, l0, fires = reconstructed(trained.sae, ground.tokens, 512)
    fvu_at, _, _ = reconstructed(trained.sae, given.answers.residual, 512)
    found = {"fvu": fvu, "fvu_at_answers": fvu_at, "l0": l0, "dead": 1 - fires.float().mean().item()}
    found |= {"seconds": trained.seconds, "processor": trained.processor}
    narrow = folder_of(given, WIDTHS[0])
    if width > WIDTHS[0] and narrow.is_dir():
        found["split"], found["kept"] = split(load_sae(narrow).W_dec, trained.sae.W_dec)
    return {name: np.array(value, dtype=float) for name, value in found.items()}


def split(narrow: Float[Tensor, "m d"], wide: Float[Tensor, "n d"]) -> tuple[float, float]:
    """How many wide latents a narrow one becomes: each wide row goes to the narrow row with the largest cosine, if that
    is `SAME` or more; the mean over the narrow latents that have any, and the share of narrow latents that do."""
    a, b = (torch.nn.functional.normalize(part.detach(), dim=1) for part in (narrow, wide))
    counts = torch.zeros(len(a))
    for part in b.split(2048):
        cosine, which = (part @ a.T).max(1)
        counts += torch.bincount(which[cosine >= SAME], minlength=len(a))
    some = counts > 0
    return (counts[some].mean().item() if some.any() else float("nan")), some.float().mean().item()


def tables(given: Given, parts: Parts) -> dict[str, pd.DataFrame]:
    """`size`: a row per width. `exponents`: of each measure b in measure ~ width^b, by least squares of logarithms."""
    rows = []
    for width in WIDTHS:
        part = parts.get(str(width))
        if part is None:
            continue
        row = {"width": width} | {name: part[name].item() for name in sorted(part)}
        fitted = parts.get(f"gaps-{width}")
        if fitted is not None:
            for name, values in sorted(fitted.items()):
                row |= as_cells(name, values[0], *interval(values[1:]))
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
