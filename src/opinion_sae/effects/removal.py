"""What taking a latent out of an offset that reads does to the held-out answers, to first order, for all latents."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from opinion_sae.delta.directions import Effects
from opinion_sae.delta.held_out import Split
from opinion_sae.delta.reading import FEW, ReadingDelta
from opinion_sae.model.answers import AnswerPath, Steering
from opinion_sae.progress import progress
from opinion_sae.score.gap_replicates import PooledGaps, interval
from opinion_sae.score.metrics import as_cells
from opinion_sae.survey import Survey

Table = Float[np.ndarray, "group question option"]


class Change(NamedTuple):
    """A measure with the latent taken out minus the measure as it is, with its interval over questions."""

    value: float
    low: float
    high: float


class _Fold(NamedTuple):
    """A fold's test questions, at the latents that its offset writes."""

    questions: Int[Tensor, "test"]
    r: Float[Tensor, "item m"]
    at_rest: Float[Tensor, "item written"]  # z + shared
    moved: Float[Tensor, "item group written"]  # z + Delta, before the rectifier
    b: Float[Tensor, "axis direction written"]
    effects: Float[Tensor, "item option written"]  # d log p_o of a unit of each
    written: Int[Tensor, "written"]


def log_prob_gradients(asked: AnswerPath, at: Steering | None = None) -> Float[Tensor, "item option d"]:
    """Gradients of log p_o by the stream, at x as it is or as an offset for one group leaves it; they add up over the
    orders of a question's options.

    p is the mean over orders, so each order counts by its share of p_o.
    """
    items, gradients = torch.arange(len(asked.prompts)), Effects(asked, at).gradients
    parts = [asked.option_logits(some, asked.steered(some, at))[:, 0].cpu() for some in items.split(16)]
    log_probs = torch.cat(parts).masked_fill(~asked.has_option, -1e9).log_softmax(-1)
    gradients = gradients - torch.einsum("io,iod->id", log_probs.exp(), gradients)[:, None]
    share = log_probs.unflatten(0, (-1, asked.orders)).softmax(1).flatten(0, 1)
    return gradients * (share * asked.has_option)[..., None]


class Removal:
    """Changes of held-out log p when one latent is taken out of what is read, or of what is written.

    The layers above the hook layer are taken to first order, with G_o the gradient of log p_o by the stream (`Effects`,
    at x as the shared part leaves it); the rectifier is taken as it is:

        d log p_go = sum_m (max(z_m + Delta'_gm, 0) - max(z_m + Delta_gm, 0)) (W_dec_m . G_o)

    Without j to read, Delta'_gm = Delta_gm - sum_kw c_gk a_kwj r_j b_kwm; without m to write, the groups' own part (D
    and axes) adds nothing to it: Delta'_gm = shared_m. Offsets are those of the splits, each for its own test
    questions.
    """

    @torch.no_grad()
    def __init__(self, answers: AnswerPath, splits: Sequence[Split], offsets: Sequence[ReadingDelta]):
        self.orders, self.offsets = answers.orders, [offset.copy().requires_grad_(False).cpu() for offset in offsets]
        steps = zip(progress(splits, "removal"), offsets, strict=True)
        self.folds = [self._fold(answers, torch.from_numpy(split.test), offset) for split, offset in steps]

    @staticmethod
    def _fold(answers: AnswerPath, questions: Int[Tensor, "test"], offset: ReadingDelta) -> _Fold:
        asked = answers.for_questions(questions)
        gradients = log_prob_gradients(asked, offset.shared_only())
        offset, items = offset.copy().cpu(), torch.arange(len(asked.prompts))
        own, read = offset.members @ offset.deviation, asked.read(offset.sae, offset.reads, items)
        written = ((own != 0).any(0) | (offset.b != 0).flatten(0, 1).any(0)).nonzero()[:, 0]
        at_rest = offset.sae.encode(asked.residual)[:, written] + offset.shared[written]
        moved = at_rest[:, None] + own[:, written] + offset.codes() @ offset.written(read)[..., written]
        by_latent = gradients @ offset.sae.W_dec[written].T.to(gradients)
        return _Fold(questions, offset.weigh(read), at_rest, moved, offset.b[..., written], by_latent, written)

    @torch.no_grad()
    def read(self, latent: int, log_probs: Table) -> Table:
        """log p with a latent not read, from log p of the offsets as they are."""
        lost = [
            fold.r[:, latent, None, None] * offset.a[:, :, latent]
            for fold, offset in zip(self.folds, self.offsets, strict=True)
        ]
        return self._unread(lost, log_probs)

    @torch.no_grad()
    def few(self, count: int, log_probs: Table) -> Table:
        """log p with only the `count` latents read that have the largest weights on each axis, those as they are."""
        lost = []
        for fold, offset in zip(self.folds, self.offsets, strict=True):
            rest = offset.a * ~offset.strongest(count)[:, None]
            lost.append(torch.einsum("im,kwm->ikw", fold.r, rest))
        return self._unread(lost, log_probs)

    @torch.no_grad()
    def written(self, latent: int, log_probs: Table) -> Table:
        """log p with a latent not written by the groups' own part."""
        changes = []
        for fold in self.folds:
            at = (fold.written == latent).nonzero()[:, 0]
            added = fold.at_rest[:, None, at].relu() - fold.moved[..., at].relu()
            changes.append(torch.einsum("igm,iom->igo", added, fold.effects[..., at]))
        return self._added(changes, log_probs)

    def _unread(self, lost: Sequence[Float[Tensor, "item axis direction"]], log_probs: Table) -> Table:
        changes = []
        for part, fold, offset in zip(lost, self.folds, self.offsets, strict=True):
            groups, options = fold.moved.shape[1], fold.effects.shape[1]
            change, there = torch.zeros(len(part), groups, options), (part != 0).flatten(1).any(1)
            moved = fold.moved[there]
            less = offset.codes() @ torch.einsum("ikw,kwm->ikm", part[there], fold.b)
            added = (moved - less).relu() - moved.relu()
            change[there] = torch.einsum("igm,iom->igo", added, fold.effects[there])
            changes.append(change)
        return self._added(changes, log_probs)

    def _added(self, changes: Sequence[Float[Tensor, "item group option"]], log_probs: Table) -> Table:
        changed = np.array(log_probs, dtype=float)
        for fold, change in zip(self.folds, changes, strict=True):
            mean = change.unflatten(0, (-1, self.orders)).sum(1)
            moved = (mean != 0).flatten(1).any(1)
            at = fold.questions[moved].numpy()
            part = changed[:, at] + mean[moved].transpose(0, 1).double().numpy()
            changed[:, at] = part - np.logaddexp.reduce(part, axis=-1, keepdims=True)
        return changed


def _change(values: Float[np.ndarray, "replicate"]) -> Change:
    return Change(float(values[0]), *interval(values[1:]))


def changes(
    survey: Survey,
    removal: Removal,
    log_probs: Table,
    latents: Sequence[tuple[str, int]],
    weights: Float[np.ndarray, "replicate question"],
    closely: Collection[tuple[str, int]] = (),
) -> dict[tuple[str, int], tuple[Change, Change]]:
    """Of the pooled gap correlation and of the mean KL in nats, both from toplines, by role ('read', 'write') and
    latent; `weights` are those of the bootstrap, which gives intervals for what is read, and for what is written those
    to be looked at `closely`."""
    found: dict[tuple[str, int], tuple[Change, Change]] = {}
    measures = {sure: PooledGaps(survey, weights if sure else weights[:1]) for sure in (True, False)}
    whole = {sure: measure(log_probs) for sure, measure in measures.items()}
    for role, latent in progress(latents, "latents taken out"):
        sure = role == "read" or (role, latent) in closely
        table = (removal.read if role == "read" else removal.written)(latent, log_probs)
        r, kl = (new - old for new, old in zip(measures[sure](table), whole[sure], strict=True))
        found[role, latent] = _change(r), _change(kl)
    return found


def path_table(
    survey: Survey, removal: Removal, tables: Mapping[str, Table], weights: Float[np.ndarray, "replicate question"]
) -> pd.DataFrame:
    """Gap correlation and KL in nats, from toplines, with fewer and fewer latents read by an axis.

    `tables` are held-out log p of the offsets of `removal` ('few'), of those that may read all latents ('all'), and of
    those fitted anew to n latents, 'refitted-<n>'. A row per number of latents and fit: 'cut' from 0 (D alone) on by
    weight and to first order, 'refitted', and 'as fitted' that of 'few' and 'all'.
    """
    most = max(int((offset.a != 0).any(1).sum(1).max()) for offset in removal.offsets)
    steps = [(str(n), "cut", removal.few(n, tables["few"])) for n in (0, *FEW) if n < most]
    steps += [(str(n), "refitted", tables[f"refitted-{n}"]) for n in FEW if n < most and f"refitted-{n}" in tables]
    steps += [(str(most), "as fitted", tables["few"]), ("all", "as fitted", tables["all"])]
    measure, rows = PooledGaps(survey, weights), []
    for latents, fit, table in steps:
        r, kl = measure(table)
        rows.append({"latents": latents, "fit": fit})
        for name, values in {"gap_r": r, "kl": kl}.items():
            rows[-1] |= as_cells(name, values[0], *interval(values[1:]))
    return pd.DataFrame(rows)
