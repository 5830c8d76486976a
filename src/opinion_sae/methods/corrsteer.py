r"""CorrSteer: latents whose values go along with the outcome, added at their mean value (Cho, Wu and Koshiyama 2025).

    r_gj = corr_q(z_qj, y_gq),   c_gj = sum_q y_gq z_qj / sum_q y_gq,   x_g = x + sum_{j chosen} c_gj W_dec,j

z_q are the latents at the last token, where the answer is generated; y_gq, the outcome, is the chance that somebody of
the group gives the answer that the model gives: published for right and wrong answers, of which it is the mean. Only
positive correlations count, and c is the mean over right answers. Published are the best latent of the layer, and
pruning on validation: how many of the best are kept is chosen there.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from opinion_sae.delta.held_out import Split
from opinion_sae.delta.offsets import AdditiveDelta
from opinion_sae.methods.contract import Bench, Outcome, best_of, steered
from opinion_sae.survey import Survey

COUNTS = (1, 4, 16)  # latents kept, of each group


def corrsteer(bench: Bench) -> Outcome:
    """Nothing is fitted but the choice of latents and their means."""
    answers, sae, survey = bench.answers, bench.sae, bench.survey
    with torch.no_grad():
        z = sae.encode(answers.residual).unflatten(0, (-1, answers.orders)).mean(1)
    y = outcomes(survey, answers.predict().numpy())

    def fit(split: Split) -> AdditiveDelta:
        r, means = correlated(z[split.train], y[:, split.train])
        nothing, candidates = AdditiveDelta(survey.groups, sae), []
        for count in COUNTS:
            strongest = r.topk(count, dim=1).indices
            kept = torch.zeros_like(r).scatter(1, strongest, 1.0) * (r > 0)
            candidates.append(nothing.with_parts(deviation=kept * means))
        return best_of(bench, split, candidates)

    return steered(bench, fit, len(survey.groups) * max(COUNTS))


def outcomes(survey: Survey, log_probs: Float[np.ndarray, "1 question option"]) -> Float[Tensor, "group question"]:
    """y: the share of each group that gave the model's likeliest answer; NaN where nobody answered."""
    said = log_probs[0].argmax(-1)
    return torch.from_numpy(survey.shares[:, np.arange(len(said)), said]).float()


def correlated(
    z: Float[Tensor, "question latent"], y: Float[Tensor, "group question"]
) -> tuple[Float[Tensor, "group latent"], Float[Tensor, "group latent"]]:
    """r over the questions that a group answered, 0 for a latent or an outcome that does not vary; and c."""
    there = (~y.isnan()).float()
    y, n = y.nan_to_num(), there.sum(1, keepdim=True).clamp_min(1)
    mean_z, mean_y = there @ z / n, y.sum(1, keepdim=True) / n
    covariance = y @ z / n - mean_z * mean_y
    variance_z = (there @ z.square() / n - mean_z.square()).clamp_min(0)
    variance_y = (y.square().sum(1, keepdim=True) / n - mean_y.square()).clamp_min(0)
    both = (variance_z * variance_y).sqrt()
    r = torch.where(both > 1e-12, covariance / both.clamp_min(1e-12), 0.0)
    return r, y @ z / y.sum(1, keepdim=True).clamp_min(1e-12)
