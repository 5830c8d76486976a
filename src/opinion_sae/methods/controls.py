"""Comparisons that could explain a gain away: other labels, other latents, another dictionary, simpler directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from opinion_sae.delta.crossfit import CrossFit
from opinion_sae.delta.fit import fit_offset
from opinion_sae.delta.held_out import Split, assemble
from opinion_sae.delta.offsets import DenseOffset, GroupDelta
from opinion_sae.methods.baselines import validation_kl
from opinion_sae.model.answers import AnswerPath
from opinion_sae.progress import progress
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.score.metrics import Scores, kl
from opinion_sae.survey import Survey

STRENGTHS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)  # of diff-means, in norms of the difference itself


def shuffled_labels(survey: Survey, seed: int) -> Survey:
    """The survey with the answers of each question dealt out anew among the groups of an attribute that gave any.

    Drawn for every question on its own, so that no group keeps anything that lasts over questions, while each attribute
    keeps its set of answers, its missing cells and its mean.
    """
    rng, order = np.random.default_rng(seed), np.tile(np.arange(len(survey.groups))[:, None], len(survey.questions))
    attributes = np.array(survey.attributes)
    for attribute in dict.fromkeys(survey.attributes):
        for question in range(len(survey.questions)):
            there = np.flatnonzero((attributes == attribute) & (survey.respondents[:, question] > 0))
            order[there, question] = rng.permutation(there)
    columns = np.arange(len(survey.questions))
    return replace(
        survey,
        counts=survey.counts[order, columns],
        respondents=survey.respondents[order, columns],
        effective=survey.effective[order, columns],
    )


def from_shared(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    survey: Survey,
    splits: Sequence[Split],
    shared: Sequence[GroupDelta],
    seed: int = 0,
    **settings: float | int,
) -> CrossFit:
    """The second stage of 'delta' alone: shared part and deviations together, from the offsets of 'shared-delta' (one
    per split). The same as fitting both stages, without fitting the first again. `settings` are those of `fit_frozen`;
    its `shared_lr` is for the first stage alone."""
    second = {name: value for name, value in settings.items() if name != "shared_lr"}
    shares = torch.from_numpy(survey.shares).float()
    offsets, histories, parts = [], [], []
    for split, start in zip(progress(splits, "splits"), shared, strict=True):
        offset = GroupDelta(survey.groups, sae.width, start.keep_error).to(answers.lm.device)
        offset.shared.data.copy_(start.shared.detach())
        train, validation = split.train.tolist(), split.validation.tolist()
        history = fit_offset(answers, offset, sae, shares, train, validation, seed=seed, **second)
        offsets.append(offset)
        histories.append(history.assign(split=split.name))
        parts.append(answers.predict(sae, offset, torch.from_numpy(split.test)).numpy())
    return CrossFit(assemble(parts, splits, len(survey.questions)), offsets, pd.concat(histories, ignore_index=True))


def shuffled_groups(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    survey: Survey,
    splits: Sequence[Split],
    shared: Sequence[GroupDelta],
    seed: int = 0,
    **settings: float | int,
) -> CrossFit:
    """Delta fitted to `shuffled_labels`: what the deviations gain when there is nothing about the group to learn.

    The mean answer to a question is the same under any labels, and so is Delta_shared: the fit starts from it.
    """
    return from_shared(answers, sae, shuffled_labels(survey, seed), splits, shared, seed, **settings)


def apply_offsets(
    answers: AnswerPath,
    sae: SparseAutoencoder | None,
    splits: Sequence[Split],
    offsets: Sequence[GroupDelta | DenseOffset],
) -> Float[np.ndarray, "group question option"]:
    """Answers to each split's test questions under the offset that goes with it; nothing is fitted."""
    parts = [
        answers.predict(sae, offset, torch.from_numpy(split.test)).numpy()
        for split, offset in zip(progress(splits, "offsets"), offsets, strict=True)
    ]
    return assemble(parts, splits, len(answers.questions))


def move_latents(delta: GroupDelta, order: Int[Tensor, "m"], keep_shared: bool = False) -> GroupDelta:
    """The offset with its values at other latents: Delta'_j = Delta_order(j); with `keep_shared`, of D_g alone."""
    moved = type(delta)(delta.groups, len(delta.shared), delta.keep_error)
    with torch.no_grad():
        moved.shared.copy_(delta.shared if keep_shared else delta.shared[order])
        moved.deviation.copy_(delta.deviation[:, order])
    return moved


def flip(delta: GroupDelta, keep_shared: bool = False) -> GroupDelta:
    """-Delta_g; with `keep_shared`, Delta_shared - D_g."""
    flipped = type(delta)(delta.groups, len(delta.shared), delta.keep_error)
    with torch.no_grad():
        flipped.shared.copy_(delta.shared if keep_shared else -delta.shared)
        flipped.deviation.copy_(-delta.deviation)
    return flipped


@torch.no_grad()
def random_order(answers: AnswerPath, sae: SparseAutoencoder, seed: int) -> Int[Tensor, "m"]:
    """A random order of the latents in which those that fire at some prompt's last token change places among
    themselves, and so do those that never fire there: a negative offset on a silent latent would do nothing."""
    code = sae.encode_sparse(answers.residual.to(sae.W_dec.device))
    fires = torch.zeros(sae.width, dtype=torch.bool)
    fires[code.indices[code.values > 0].cpu()] = True
    generator, order = torch.Generator().manual_seed(seed), torch.arange(sae.width)
    for part in (fires, ~fires):
        members = part.nonzero().flatten()
        order[members] = members[torch.randperm(len(members), generator=generator)]
    return order


def from_offsets(
    answers: AnswerPath, sae: SparseAutoencoder, splits: Sequence[Split], deltas: Sequence[GroupDelta], seed: int
) -> dict[str, Float[np.ndarray, "group question option"]]:
    """Held-out answers of the controls that only rearrange the offsets of 'delta', with the names of `alignment.csv`.

    'random-latents' and 'sign-flip' change all of Delta_g; the same with '-deviation' keep Delta_shared and change D_g,
    so that what is lost beside 'delta' is the group's part alone.
    """
    order = random_order(answers, sae, seed)
    changed = {
        "random-latents": [move_latents(delta, order) for delta in deltas],
        "random-latents-deviation": [move_latents(delta, order, keep_shared=True) for delta in deltas],
        "sign-flip": [flip(delta) for delta in deltas],
        "sign-flip-deviation": [flip(delta, keep_shared=True) for delta in deltas],
    }
    return {name: apply_offsets(answers, sae, splits, offsets) for name, offsets in changed.items()}


def permuted_decoder(sae: SparseAutoencoder, seed: int) -> SparseAutoencoder:
    """The same SAE with its decoder rows in random order: latents fire as before but write another's direction.

    Delta_shared is fitted to it anew, and held against that of the SAE as it is: the group's own part would cost a
    second stage and is small beside it. The SAE's error is kept whatever the decoder, so Delta = 0 changes nothing.
    """
    rows = torch.randperm(sae.width, generator=torch.Generator().manual_seed(seed))
    return SparseAutoencoder(
        sae.W_enc.detach(),
        sae.b_enc.detach(),
        sae.W_dec.detach()[rows],
        sae.b_dec.detach(),
        k=sae.k,
        threshold=sae.threshold,
        subtract_b_dec=sae.subtract_b_dec,
    ).requires_grad_(False)


def others_kl(
    survey: Survey, log_probs: Float[np.ndarray, "group question option"], same_attribute: bool = False
) -> Float[np.ndarray, "group question"]:
    """Mean KL of each group's answers under the offsets of the other groups (of its attribute), for `claims_table`.

    The group x group matrix off its diagonal, question by question; what is lower under the own offset is the group's
    own. NaN where the group did not answer or has no others.
    """
    attribute = np.array(survey.attributes)
    other = ~np.eye(len(attribute), dtype=bool)
    if same_attribute:
        other &= attribute[:, None] == attribute
    found = np.full(survey.respondents.shape, np.nan)
    for group, shares in enumerate(survey.shares):
        if other[group].any():
            found[group] = kl(shares[None], np.exp(log_probs[other[group]].astype(float))).mean(0)
    return found


def others_scores(survey: Survey, log_probs: Float[np.ndarray, "group question option"]) -> dict[str, Scores]:
    """`others_kl` as methods to compare with: 'other-delta' (all other groups), 'sibling-delta' (of the attribute).

    Only KL; the rest is NaN.
    """
    nothing = np.full(survey.respondents.shape, np.nan)
    return {
        "other-delta": Scores(others_kl(survey, log_probs), nothing, nothing),
        "sibling-delta": Scores(others_kl(survey, log_probs, same_attribute=True), nothing, nothing),
    }


def diff_means(
    answers: AnswerPath,
    survey: Survey,
    splits: Sequence[Split],
    residuals: Float[np.ndarray, "group asked d"],
    asked: Int[np.ndarray, "asked"],
) -> tuple[CrossFit, list[float]]:
    """x_g = x + s (mean of persona residuals of group g - mean of all groups' ones), after Rimsky et al. 2024.

    `residuals` are at the hook layer and the last token of `asked` questions' prompts under a persona for each group
    (`personas.py`); a split uses those of its training questions. The strength s, one for all groups, is the one of
    `STRENGTHS` with the lowest KL on the validation questions. Second, the strengths chosen.
    """
    offsets, strengths, parts = [], [], []
    for split in splits:
        seen = np.isin(asked, split.train)
        if not seen.any():
            raise ValueError(f"split {split.name!r}: none of its training questions was asked with a persona")
        means = torch.from_numpy(residuals[:, seen].mean(1)).float()
        candidates, costs = [], []
        for strength in STRENGTHS:
            offset = DenseOffset(survey.groups, answers.lm.width)
            offset.deviation.data.copy_(strength * (means - means.mean(0)))
            offset.to(answers.lm.device)
            judged = answers.predict(None, offset, torch.from_numpy(split.validation)).numpy()
            candidates.append(offset)
            costs.append(validation_kl(survey, judged, split.validation))
        best = int(np.argmin(costs))
        offsets.append(candidates[best])
        strengths.append(STRENGTHS[best])
        parts.append(answers.predict(None, candidates[best], torch.from_numpy(split.test)).numpy())
    history = pd.DataFrame({"split": [split.name for split in splits], "strength": strengths})
    return CrossFit(assemble(parts, splits, len(survey.questions)), offsets, history), strengths
