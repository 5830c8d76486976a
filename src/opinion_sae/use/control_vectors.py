"""Offsets as llama.cpp's control vectors: one GGUF file per group."""

from __future__ import annotations

import re
from pathlib import Path

import gguf
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from opinion_sae.artifacts import replacing
from opinion_sae.delta.offsets import Offset
from opinion_sae.model.answers import AnswerPath


@torch.no_grad()
def mean_shift(
    answers: AnswerPath, delta: Offset, items: Int[Tensor, "item"] | None = None
) -> tuple[Float[Tensor, "group d"], Float[Tensor, "group"]]:
    """The constant vector closest to what an offset does: v_g = mean over the survey's prompts of x_g - x.

    Second, how much of the shift that is: |v_g|^2 / mean |x_g - x|^2, from 0 to 1 (1: the same for every prompt), NaN
    for an offset of zero. Only over the prompts of `items` if these are given.
    """
    total, square, count = 0.0, 0.0, 0
    for some in (torch.arange(len(answers.residual)) if items is None else items).split(64):
        x = answers.residual[some].to(answers.lm.device)
        shift = answers.steered(some, delta) - x[:, None]
        total, square, count = total + shift.sum(0), square + shift.pow(2).sum((0, 2)), count + len(x)
    mean = total / count
    return mean.cpu(), (mean.pow(2).sum(1) / (square / count)).cpu()


def prompts_of(answers: AnswerPath, delta: Offset, question: str | None) -> Int[Tensor, "item"] | None:
    """The prompts whose mean shift a file holds: of one question with its options in the order asked, or None for all.

    ValueError for a key that no question has, or for none with an offset that reads the question.
    """
    keys = [asked.key for asked in answers.questions]
    if question is not None:
        if question not in keys:
            raise ValueError(f"no question has the key {question!r}; there are {', '.join(keys[:5])} ...")
        return torch.tensor([keys.index(question) * answers.orders])
    if delta.reads is not None:
        raise ValueError(
            f"the offset reads the prompt ({delta.reads}), so its vector is another for each question: say which by "
            f"question=..., the key of one (such as {keys[0]!r})"
        )
    return None


def export_control_vectors(
    folder: str | Path, answers: AnswerPath, delta: Offset, question: str | None = None
) -> pd.DataFrame:
    """Write `<group>.gguf` for each group, as llama.cpp's --control-vector reads it.

    llama.cpp adds a fixed vector at every token and knows neither latents nor the rectifier, so what is written is the
    additive part of the offset, `mean_shift`; exact for a dense vector. The file has the layout of llama.cpp's
    cvector-generator: general.architecture 'controlvector', controlvector.model_hint (the model's type),
    controlvector.layer_count (tensors in the file) and float32 tensors direction.<N>. The vector direction.<N> is added
    to the residual stream after layer N, counted from 0, so N is our hook_layer: llama.cpp's loader puts direction.<N>
    at (N - 1) d of a buffer, and `llama_adapter_cvec::apply` in src/llama-adapter.cpp gives layer il the part from
    (il - 1) d. It has no place for layer 0.

    An offset that reads the question has another vector for each: with `question`, the key of one, x_g - x of that
    question is written, its options in the order asked.

    Columns: group, file, norm of the vector, and constant_share, the second value of `mean_shift`. Raises ValueError
    for hook_layer 0, for vectors that are not finite, and for an offset that reads without a `question`.
    """
    if answers.hook_layer == 0:
        raise ValueError("hook_layer 0: llama.cpp takes control vectors for layer 1 and above only")
    vectors, share = mean_shift(answers, delta, prompts_of(answers, delta, question))
    broken = [group for group, vector in zip(delta.groups, vectors, strict=True) if not vector.isfinite().all()]
    if broken:
        raise ValueError(f"{folder}: the offsets of {broken} are not finite")
    files = file_names(delta.groups)
    for group, file, vector in zip(delta.groups, files, vectors, strict=True):
        with replacing(Path(folder) / file) as side:
            write_control_vector(side, answers.lm.model.config.model_type, group, answers.hook_layer, vector.numpy())
    return pd.DataFrame({"group": delta.groups, "file": files, "norm": vectors.norm(dim=1), "constant_share": share})


def write_control_vector(path: Path, model_type: str, name: str, layer: int, vector: Float[np.ndarray, "d"]) -> None:
    """One vector for one layer."""
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_name(name)
    writer.add_string("controlvector.model_hint", model_type)
    writer.add_uint32("controlvector.layer_count", 1)
    writer.add_tensor(f"direction.{layer}", np.ascontiguousarray(vector, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def file_names(groups: tuple[str, ...]) -> list[str]:
    """A file name per group, safe on any system and different from the others: '$75,000+' -> '75-000+.gguf'."""
    names: list[str] = []
    for group in groups:
        stem = re.sub(r"[^\w+]+", "-", group).strip("-") or "group"
        taken, number = {name.lower() for name in names}, 1
        name = f"{stem}.gguf"
        while name.lower() in taken:
            number += 1
            name = f"{stem}-{number}.gguf"
        names.append(name)
    return names
