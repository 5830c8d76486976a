r"""Comparisons that could explain a gain away: other labels, other latents, another dictionary, simpler directions.

`diff-means` (after Rimsky et al. 2024), its s, none included, chosen on validation by KL(h_g || p_g):

    x_g = x + s (mean_q x | told to be of g   -   mean over groups of the same)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from opinion_sae.delta.fit import fit_from_shared
from opinion_sae.delta.held_out import HeldOut, Split, answer_with, held_out
from opinion_sae.delta.offsets import DenseOffset, GroupDelta
from opinion_sae.delta.settings import FitSettings
from opinion_sae.methods.baselines import validation_kl
from opinion_sae.methods.contract import STRENGTHS
from opinion_sae.model.answers import AnswerPath
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.score.metrics import Scores, kl
from opinion_sae.survey import Survey

WITH_NONE = (0.0, *STRENGTHS)  # of diff-means, in norms of the difference itself


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


def shuffled_groups(
    answers: AnswerPath, survey: Survey, splits: Sequence[Split], shared: Sequence[GroupDelta], settings: FitSettings
) -> HeldOut:
    """Delta fitted to `shuffled_labels`: what the deviations gain when there is nothing about the group to learn.

    The mean answer to a question is the same under any labels, and so is Delta_shared: the fit starts from it.
    """
    people = shuffled_labels(survey, settings.seed)

    def fit(split: Split, start: GroupDelta) -> tuple[GroupDelta, pd.DataFrame]:
        return fit_from_shared(answers, people, split, start, settings)

    return held_out(answers, splits, fit, shared)


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
    answers: AnswerPath, splits: Sequence[Split], deltas: Sequence[GroupDelta], seed: int
) -> dict[str, Float[np.ndarray, "group question option"]]:
    """Held-out answers of the controls that only rearrange the offsets of 'delta', with the names of `alignment.csv`.

    'random-latents' and 'sign-flip' change all of Delta_g; the same with '-deviation' keep Delta_shared and change D_g,
    so that what is lost beside 'delta' is the group's part alone.
    """
    order = random_order(answers, deltas[0].sae, seed)
    changed = {
        "random-latents": [delta.moved(order) for delta in deltas],
        "random-latents-deviation": [delta.moved(order, keep_shared=True) for delta in deltas],
        "sign-flip": [delta.flip() for delta in deltas],
        "sign-flip-deviation": [delta.flip(keep_shared=True) for delta in deltas],
    }
    return {name: answer_with(answers, splits, offsets) for name, offsets in changed.items()}


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
) -> HeldOut:
    """x_g = x + s (mean of persona residuals of group g - mean of all groups' ones), after Rimsky et al. 2024.

    `residuals` are at the hook layer and the last token of `asked` questions' prompts under a persona for each group
    (`personas.py`); a split uses those of its training questions. The strength s, one for all groups, is the one of
    `WITH_NONE` with the lowest KL on the validation questions; the history has those chosen.
    """

    def fit(split: Split) -> tuple[DenseOffset, pd.DataFrame]:
        seen = np.isin(asked, split.train)
        if not seen.any():
            raise ValueError(f"split {split.name!r}: none of its training questions was asked with a persona")
        means = torch.from_numpy(residuals[:, seen].mean(1)).float()
        nothing, validation = DenseOffset(survey.groups, answers.lm.width), torch.from_numpy(split.validation)
        directions = [nothing.with_parts(deviation=s * (means - means.mean(0))) for s in WITH_NONE]
        candidates = [offset.to(answers.lm.device) for offset in directions]
        judged = [answers.predict(offset, validation).numpy() for offset in candidates]
        best = int(np.argmin([validation_kl(survey, one, split.validation) for one in judged]))
        return candidates[best], pd.DataFrame([{"split": split.name, "strength": WITH_NONE[best]}])

    found = held_out(answers, splits, fit)
    return found._replace(history=found.history.drop(columns="fold"))
