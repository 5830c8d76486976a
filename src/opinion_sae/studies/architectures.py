"""SAEs of nine architectures side by side: the same tokens, three sparsities, three seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd

from opinion_sae.artifacts import Item
from opinion_sae.sae.architectures import ARCHITECTURES, Sizes, train_architecture
from opinion_sae.sae.autoencoder import SparseAutoencoder, load_sae
from opinion_sae.studies import Given, Parts
from opinion_sae.studies.ground import Ground, folder_of, gaps_with, kept_sae, quality, sizes
from opinion_sae.studies.probing import stability
from opinion_sae.studies.seeds import SEEDS, over_questions, student

TITLE = "nine architectures of SAE at equal tokens and three sparsities"
TIME = "an hour and a half of one core"
SHARES = ("dead", "absorbed", "letter_accuracy", "letter_f1")  # whose intervals end at 0 and 1
BOOK = "book"  # the book's own SAE, which has seen far more tokens


class Name(NamedTuple):
    """What an item is about; 'gaps-' before it where it is the offset that reads with that SAE."""

    architecture: str
    l0: int
    seed: int

    def __str__(self) -> str:
        return f"{self.architecture}-{self.l0}-{self.seed}"


def in_order(given: Given) -> Iterator[tuple[str, Name]]:
    """Kind ('' or 'gaps-') and name of every item, those of most worth first: the book's sparsity, at first with gaps;
    the other sparsities; and then the gaps of further seeds, and of the other sparsities' first."""
    k = int(given.training["k"])
    others = (max(1, k // 2), 2 * k)
    for kind in ("", "gaps-"):
        yield from ((kind, Name(one, k, 0)) for one in (*ARCHITECTURES, BOOK))
    for seed in range(1, SEEDS):
        yield from (("", Name(one, k, seed)) for one in ARCHITECTURES)
    for seed in range(SEEDS):
        yield from (("", Name(one, l0, seed)) for l0 in others for one in ARCHITECTURES)
    for seed in range(1, SEEDS):
        yield from (("gaps-", Name(one, k, seed)) for one in ARCHITECTURES)
    yield from (("gaps-", Name(one, l0, 0)) for l0 in others for one in ARCHITECTURES)


def items(given: Given) -> dict[str, Item]:
    """An SAE trained and measured, or the offset that reads with one, by `in_order`."""
    ground, found = Ground(given), {}
    for kind, name in in_order(given):
        about = [given.sae.sha256()] if name.architecture == BOOK else [repr(_sizes(given, name))]
        make = partial(gaps_with, given, partial(sae_of, given, name)) if kind else partial(_quality, ground, name)
        found[f"{kind}{name}"] = Item([*about, *ground.item.about], make)
    return found


def _sizes(given: Given, name: Name) -> Sizes:
    """With the book's width."""
    return sizes(given, int(given.training["width"]), name.l0, name.seed)


def sae_of(given: Given, name: Name) -> SparseAutoencoder:
    """The SAE of an item, which `_quality` has kept."""
    return given.sae if name.architecture == BOOK else kept_sae(given, name)


def _quality(ground: Ground, name: Name) -> dict[str, np.ndarray]:
    """`quality`, the seconds of training, and how many decoder rows an earlier seed has too."""
    given = ground.given
    if name.architecture == BOOK:
        return quality(ground, given.sae)
    metadata = {"model_name": given.lm.name, "hook_name": f"blocks.{given.answers.hook_layer}.hook_resid_post"}
    trained = train_architecture(name.architecture, given.activations.tokens, _sizes(given, name), metadata)
    trained.sae.save(folder_of(given, name))
    found = quality(ground, trained.sae)
    given.answers.forget()
    earlier = [name._replace(seed=seed) for seed in range(name.seed)]
    there = [load_sae(folder_of(given, one)).W_dec for one in earlier if folder_of(given, one).is_dir()]
    same = [stability(trained.sae.W_dec, other) for other in there]
    found |= {"seconds": np.array(trained.seconds), "processor": np.array(trained.processor)}
    return found | {"stability": np.array(np.mean(same) if same else np.nan)}


def tables(given: Given, parts: Parts) -> dict[str, pd.DataFrame]:
    """`saes`: a row per SAE. `architectures`: a row per architecture, sparsity and measure, the mean over seeds with a
    95 % interval: of Student's t over seeds, or for gaps of the bootstrap over questions and seeds; and for gaps the
    gain over TopK's, paired by questions and seeds."""
    rows, fitted = [], {}
    for kind, name in in_order(given):
        part = parts.get(f"{kind}{name}")
        if part is None:
            continue
        key = {"architecture": name.architecture, "target_l0": name.l0}
        if kind:
            fitted.setdefault(tuple(key.values()), []).append(part)
        else:
            rows.append({**key, "seed": name.seed} | {measure: part[measure].item() for measure in sorted(part)})
    saes = pd.DataFrame(rows, columns=list(rows[0]) if rows else ["architecture", "target_l0", "seed"])
    saes = with_ratio(saes) if rows else saes
    long = [row for key, group in saes.groupby(["architecture", "target_l0"], sort=False) for row in _means(key, group)]
    long += _at_equal_l0(saes, int(given.training["k"])) if rows else []
    for key, of in fitted.items():
        long += _over_questions(key, of, fitted.get(("topk", key[1]), ()), given.seed)
    columns = ["architecture", "target_l0", "measure", "n_seeds", "value", "low", "high"]
    return {"saes": saes, "architectures": pd.DataFrame(long, columns=columns)}


def with_ratio(saes: pd.DataFrame) -> pd.DataFrame:
    """Processor time of training over that of topk of the same sparsity and seed."""
    if "processor" not in saes:
        return saes
    own = saes[saes["architecture"] == "topk"].set_index(["target_l0", "seed"])["processor"]
    base = pd.MultiIndex.from_frame(saes[["target_l0", "seed"]]).map(own.to_dict())
    return saes.assign(ratio=saes["processor"] / pd.to_numeric(pd.Series(base, index=saes.index)))


def _means(key: tuple, group: pd.DataFrame) -> Iterator[tuple]:
    """Of stability, for which a seed is held against all before it, the mean over pairs, which share seeds."""
    for measure in group.columns.drop(["architecture", "target_l0", "seed"]):
        there = group[group[measure].notna()]
        values = there[measure].to_numpy(float)
        if not len(values):
            continue
        if measure == "stability":
            yield (*key, measure, len(values) + 1, np.average(values, weights=there["seed"]), np.nan, np.nan)
            continue
        ends = student(values)
        yield (*key, measure, len(values), values.mean(), *(np.clip(ends, 0, 1) if measure in SHARES else ends))


def _at_equal_l0(saes: pd.DataFrame, l0: int) -> Iterator[tuple]:
    """`fvu_at_l0`: variance unexplained at the same L0 on held-out text, since most architectures meet theirs in
    training alone: along straight lines of the logarithms between each seed's sparsities, of seeds that lie around it.
    """
    for name, group in saes[saes["architecture"] != BOOK].groupby("architecture", sort=False):
        found = []
        for _, own in group.sort_values("l0").groupby("seed"):
            x, y = np.log(own["l0"].to_numpy(float)), np.log(own["fvu"].to_numpy(float))
            if len(x) and x[0] <= np.log(l0) + 1e-9 and np.log(l0) - 1e-9 <= x[-1]:
                found.append(np.exp(np.interp(np.log(l0), x, y)))
        if found:
            yield (name, l0, "fvu_at_l0", len(found), np.mean(found), *student(np.array(found)))


def _over_questions(key: tuple, of: Sequence, base: Sequence, seed: int) -> Iterator[tuple]:
    """Both measures, and the gain in them over `base`, TopK's offsets, as far as there are as many of these."""
    for measure in ("gap_r", "group_kl_closed"):
        values = np.stack([part[measure] for part in of])
        yield (*key, measure, len(of), *over_questions(measure, values, seed).values())
        if len(base) >= len(of):
            gain = values - np.stack([part[measure] for part in base[: len(of)]])
            yield (*key, f"{measure}_gain", len(of), *over_questions(measure, gain, seed).values())
