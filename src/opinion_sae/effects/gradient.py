"""What the KL's gradient points at before anything is fitted, in latents, beside what the fits used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from opinion_sae.delta.fit_reading import task_loss
from opinion_sae.delta.held_out import Split
from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.delta.reading import ReadingDelta
from opinion_sae.effects.removal import log_prob_gradients
from opinion_sae.methods.reading import items_of
from opinion_sae.model.answers import AnswerPath
from opinion_sae.progress import progress
from opinion_sae.score.ranks import chance_overlap, jackknife_interval, jackknife_weights, rank_correlation, top_overlap
from opinion_sae.survey import Survey

TOP = 64  # the largest, that are compared
FEWEST = 5  # training questions in which a latent must fire to be read, as in the fit
COLUMNS = "part fold latents top rank_r rank_r_low rank_r_high overlap overlap_low overlap_high".split()
COLUMNS += ["chance", "chance_high", "same_sign"]


class Compared(NamedTuple):
    """A part of an offset and -dL by it at offset zero, the latter under weights of the prompts; a column per latent,
    whose size is the norm over rows."""

    fit: Float[Tensor, "row latent"]
    gradient: Callable[[Float[Tensor, "item"]], Float[Tensor, "row latent"]]
    fitted: Int[np.ndarray, "question"]  # what the fit has seen
    signed: bool = True


class Gradients:
    """-dL/dx_gi of each group and prompt at offset zero, for the two tasks, in the stream and in latents.

    L is the mean KL(h_g || p_g) over cells, nats; x_g = x for all groups. Moving latent m of group g by dv changes
    L by -(W_dec_m . gradient_gi) dv. `alone` is p_g as it is, `toplines` p_g on top of everybody's answers.
    """

    def __init__(self, answers: AnswerPath, survey: Survey):
        by_option, questions = log_prob_gradients(answers), torch.arange(len(survey.questions))
        logs = answers.predict(None).expand(survey.shares.shape)

        def pull(task: str) -> Float[Tensor, "group item d"]:
            at = logs.clone().requires_grad_()
            wanted = -torch.autograd.grad(task_loss(survey, task)(at, questions), at)[0].nan_to_num()
            return torch.einsum("gio,iod->gid", wanted.repeat_interleave(answers.orders, dim=1), by_option)

        self.alone, self.toplines = pull("alone"), pull("toplines")


def constant_parts(gradients: Gradients, answers: AnswerPath, split: Split, delta: GroupDelta) -> dict[str, Compared]:
    """Delta_shared, pulled by all groups together, and D_g, both it and its pull less the mean over groups.

    As in the fit, a latent that is silent at a prompt is pulled there only if all such prompts together pull it up.
    """
    W_dec, pull = delta.sae.W_dec.detach().cpu(), gradients.alone
    values, indices = (part.cpu() for part in delta.sae.encode_sparse(answers.residual.to(delta.sae.W_dec.device)))
    at_active = torch.einsum("gid,iad->gia", pull, W_dec[indices]) * (values > 0)
    column = indices.flatten().expand(len(pull), -1)

    def by_group(weights: Float[Tensor, "item"]) -> Float[Tensor, "group latent"]:
        whole = torch.einsum("i,gid->gd", weights, pull) @ W_dec.T
        active = torch.zeros_like(whole).scatter_add(1, column, (weights[:, None] * at_active).flatten(1))
        return active + (whole - active).clamp_min(0.0)

    def own(weights: Float[Tensor, "item"]) -> Float[Tensor, "group latent"]:
        found = by_group(weights)
        return found - found.mean(0)

    shared = Compared(
        delta.shared[None].detach().cpu(), lambda weights: by_group(weights).mean(0, keepdim=True), split.train
    )
    apart = delta.deviation.detach().cpu()
    return {"shared": shared, "own": Compared(apart - apart.mean(0), own, split.train)}


def reading_parts(gradients: Gradients, answers: AnswerPath, split: Split, offset: ReadingDelta) -> dict[str, Compared]:
    """What an offset that reads the question reads, and what it writes, from toplines.

    read: of Delta_g(r) = M_g r, for any M, the gradient by column j of M_g is G_gj = sum_i gradient_gi r_ij; its size
    is the norm over groups and the stream. The fit's is that of sum_k c_gk a_kwj b_kw there. Nothing of the fit enters
    but the place that is read and its weights. written: the gradient by b_w, given what is read and the codes. Axes
    write alike, so b_w is one for all of them.
    """
    sae: Any = offset.sae
    W_dec, pull = sae.W_dec.detach().cpu(), gradients.toplines
    read = answers.read(sae, str(offset.reads), torch.arange(len(answers.prompts)))
    part, fitted = offset.copy().requires_grad_(False).cpu(), np.sort(np.concatenate([split.train, split.validation]))
    r, codes = part.weigh(read), part.codes()
    inner = torch.einsum("gid,gjd->ij", pull, pull)

    def reads(weights: Float[Tensor, "item"]) -> Float[Tensor, "latent"]:
        seen = weights[:, None] * r
        return (seen * (inner @ seen)).sum(0).clamp_min(0).sqrt()

    said = torch.einsum("gk,ikw->giw", codes, torch.einsum("im,kwm->ikw", r, part.a))

    def writes(weights: Float[Tensor, "item"]) -> Float[Tensor, "direction latent"]:
        return torch.einsum("i,giw,gid->wd", weights, said, pull) @ W_dec.T

    written = (part.b @ W_dec).flatten(0, 1)
    by_axis = (codes.T @ codes).repeat_interleave(part.b.shape[1], 0).repeat_interleave(part.b.shape[1], 1)
    a = part.a.flatten(0, 1)
    sizes = (a * ((by_axis * (written @ written.T)) @ a)).sum(0).clamp_min(0).sqrt()
    known = (r[items_of(fitted, answers.orders)] != 0).sum(0) >= FEWEST * answers.orders
    return {
        "read": Compared(sizes[None, known], lambda weights: reads(weights)[None, known], fitted, signed=False),
        "written": Compared(part.b[0], writes, fitted),
    }


def gradient_table(
    answers: AnswerPath,
    survey: Survey,
    splits: Sequence[Split],
    offsets: Sequence[tuple[GroupDelta, ReadingDelta]],
    clusters: Int[np.ndarray, "question"],
    seed: int = 0,
) -> pd.DataFrame:
    """`gradient.csv`: a row per part of the splits' offsets and fold, then their mean over the
    folds that use it (fold 'all').

    rank_r: of sizes over latents. overlap: the share of the fit's `TOP` largest latents (all that it uses, if it uses
    fewer) that are among as many of the gradient's; chance and chance_high: what random latents share on average, and
    in all but 1 of 40 draws. Intervals by a jackknife over blocks of questions. same_sign: of the fit's entries in
    those latents, the share that the gradient moves the same way; empty where sizes alone are compared.
    """
    gradients, weights = Gradients(answers, survey), jackknife_weights(clusters, seed=seed)
    found: dict[str, list[tuple[int, int, np.ndarray, float]]] = {}
    for split, (delta, offset) in zip(splits, progress(offsets, "gradient"), strict=True):
        parts = constant_parts(gradients, answers, split, delta) | reading_parts(gradients, answers, split, offset)
        for name, part in parts.items():
            found.setdefault(name, []).append(_compare(part, weights, answers.orders))
    rows = []
    for name, folds in found.items():
        used = [one for one in folds if not np.isnan(one[2]).any()] or folds[:1]
        whole = np.mean([values for _, _, values, _ in used], 0)
        latents, top = round(np.mean([one[0] for one in used])), round(np.mean([one[1] for one in used]))
        rows += [_row(name, str(fold), *one) for fold, one in enumerate(folds)]
        rows.append(_row(name, "all", latents, top, whole, float(np.mean([sign for *_, sign in used]))))
    return pd.DataFrame(rows, columns=COLUMNS)


@torch.no_grad()
def _compare(
    part: Compared, weights: Float[np.ndarray, "replicate question"], orders: int
) -> tuple[int, int, Float[np.ndarray, "2 replicate"], float]:
    """Latents, the largest that are compared, rank_r and overlap in each replicate, and same_sign."""
    seen = np.zeros(weights.shape[1])
    seen[part.fitted] = 1
    given = torch.from_numpy(weights * seen).float().repeat_interleave(orders, dim=1)
    fit, whole = part.fit.norm(dim=0).double().numpy(), part.gradient(given[0])
    sizes = np.stack([part.gradient(one).norm(dim=0).double().numpy() for one in given])
    top = min(TOP, int((fit > 0).sum()))
    if not fit.any() or not sizes[0].any():  # not used, or, where nothing is read, not pulled at
        return len(fit), top, np.full((2, len(weights)), np.nan), float("nan")
    values = np.stack([rank_correlation(sizes, fit), top_overlap(sizes, fit, top)])
    largest = torch.from_numpy(np.argsort(-fit, kind="stable")[:top].copy())
    entries, wanted = part.fit[:, largest], whole[:, largest]
    same = (entries.sign() == wanted.sign())[entries != 0].float().mean().item()
    return len(fit), top, values, same if part.signed else float("nan")


def _row(
    part: str, fold: str, latents: int, top: int, values: Float[np.ndarray, "2 replicate"], sign: float
) -> tuple[object, ...]:
    r, overlap = (
        (float(one[0]), *np.clip(jackknife_interval(one), low, 1)) for one, low in zip(values, (-1, 0), strict=True)
    )
    return part, fold, latents, top, *r, *overlap, *chance_overlap(latents, top), sign
