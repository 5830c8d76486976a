"""What one chapter leaves for the others: offsets of each split, and held-out answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from numpy import ndarray
from safetensors.torch import save_file

from opinion_sae.artifacts import check_numbers, read_tensors, replacing
from opinion_sae.delta.held_out import HeldOut
from opinion_sae.delta.offsets import DenseOffset, GroupDelta, read_offsets
from opinion_sae.delta.reading import ReadingDelta
from opinion_sae.sae.autoencoder import SparseAutoencoder

# of the chapters before those on offsets that read
ANSWERS = tuple(f"answers{part}.safetensors" for part in ("", "-joint", "-controls", "-selected"))
WITH_READING = (*ANSWERS, "answers-reading.safetensors")
Answers = dict[str, Float[ndarray, "_ question option"]]  # held-out log p by method


def save_fits(folder: Path, fits: dict[str, HeldOut], **about: object) -> None:
    """Write `answers.safetensors`, offsets per split (`delta-*`, `shared-*`) and `dense.safetensors`."""
    save_answers(folder / "answers.safetensors", {name: fit.log_probs for name, fit in fits.items()})
    header = {key: str(value) for key, value in about.items()}
    for name, method in (("delta", "delta"), ("shared", "shared-delta")):
        for number, delta in enumerate(fits[method].offsets):
            delta.save(folder / f"{name}-{number}.safetensors", **header)
    save_dense(folder / "dense.safetensors", fits["dense"].offsets)


def save_dense(path: Path, offsets: Sequence[DenseOffset]) -> None:
    """Write the vectors of each split, both parts in one."""
    with replacing(path) as side:
        save_file({str(n): one.offsets().detach() for n, one in enumerate(offsets)}, side)


def save_answers(path: Path, tables: Answers) -> None:
    """Write held-out log p by method."""
    with replacing(path) as side:
        save_file({name: torch.from_numpy(table).contiguous() for name, table in tables.items()}, side)


def load_all_answers(folder: Path, names: Sequence[str] = ANSWERS) -> Answers:
    """Held-out log p by method, of all chapters that were run; those that cost too much for a model may not be."""
    there = [name for name in names if (folder / name).is_file()] or names[:1]
    return {method: table for name in there for method, table in load_answers(folder, name).items()}


def load_answers(folder: Path, name: str = "answers.safetensors") -> Answers:
    """Held-out log p by method, as `save_answers` wrote them."""
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no held-out answers there; run the chapters that this one needs first")
    _, tensors = read_tensors(path)
    for name, table in tensors.items():
        silent = table.isnan()  # questions that no split tests
        if table.ndim != 3 or not (table.is_floating_point() and ((table < 0.01) | silent).all()):
            raise ValueError(f"{path}: {name} holds no log probabilities of shape (group, question, option)")
        if (silent.any(-1) != silent.all(-1)).any():
            raise ValueError(f"{path}: {name} lacks some of the options of a question (NaN)")
    if not tensors or len({table.shape[1:] for table in tensors.values()}) > 1:
        shapes = {name: tuple(table.shape) for name, table in tensors.items()}
        raise ValueError(f"{path}: expected methods' answers to the same questions, found {shapes}")
    return {name: table.numpy() for name, table in tensors.items()}


def load_offset(path: str | Path, sae: SparseAutoencoder) -> GroupDelta | ReadingDelta:
    """An offset of any kind that is written in latents, from the file that its `save` wrote, whether it reads the
    question or not. Raises what the kinds' own `load` raises."""
    reads = read_offsets(path)[0].get("kind") == ReadingDelta.__name__
    return ReadingDelta.load(path, sae) if reads else GroupDelta.load(path, sae)


def load_deltas(folder: Path, count: int, sae: SparseAutoencoder, name: str = "delta") -> list[GroupDelta]:
    """The first `count` splits' offsets, as `save_fits` wrote them; `name` is 'delta' or 'shared'."""
    paths = [folder / f"{name}-{number}.safetensors" for number in range(count)]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{folder}: {', '.join(missing)} not there; run chapter 04_delta first")
    return [GroupDelta.load(path, sae) for path in paths]


def load_reading(folder: Path, count: int, sae: SparseAutoencoder) -> list[ReadingDelta]:
    """The sparse reading offsets of the first `count` splits, and last that fitted to all questions."""
    paths = [folder / f"reading-{name}.safetensors" for name in (*range(count), "all")]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{folder}: {', '.join(missing)} not there; run chapter 17_reading first")
    return [ReadingDelta.load(path, sae) for path in paths]


def load_dense(folder: Path, count: int, name: str = "dense") -> list[DenseOffset]:
    """The dense vectors of the first `count` splits, as `save_dense` wrote them: all in the groups' own part.

    They are for the groups of the offsets beside them.
    """
    path, beside = folder / f"{name}.safetensors", folder / "delta-0.safetensors"
    for file in (path, beside):
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no offsets there; run the chapters that this one needs first")
    groups, (_, vectors) = read_offsets(beside)[0]["groups"], read_tensors(path)
    check_numbers(path, vectors)
    shapes = {name: tuple(vectors[name].shape) for name in vectors}
    wanted = (len(groups), vectors["0"].shape[-1] if "0" in vectors else 0)
    if (
        set(shapes.values()) != {wanted}
        or not {str(number) for number in range(count)} <= set(vectors)
        or not wanted[1]
    ):
        raise ValueError(f"{path}: expected vectors of {count} splits and {len(groups)} groups, found {shapes}")
    nothing = [DenseOffset(groups, vectors[str(number)].shape[1]) for number in range(count)]
    return [offset.with_parts(deviation=vectors[str(number)]) for number, offset in enumerate(nothing)]
