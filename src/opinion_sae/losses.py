r"""The terms of the loss, as pure functions.

L = L_reconstruction + \lambda L_sparsity + \beta KL(h_g || p_g) + \gamma |\Delta|_1
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def reconstruction(
    x: Float[Tensor, "batch d"], x_hat: Float[Tensor, "batch d"], spread: Float[Tensor, ""] | None = None
) -> Float[Tensor, ""]:
    """Fraction of variance unexplained: sum |x - x_hat|^2 / sum |x - mean(x)|^2, without unit.

    With `spread`, the mean |x - mean(x)|^2 of all activations of which x are some: for a batch too small to tell.
    """
    total = (x - x.mean(0)).pow(2).sum(0).sum() if spread is None else len(x) * spread
    return (x - x_hat).pow(2).sum(0).sum() / total  # by columns first: one sum of all hangs on the number of threads


def kl(shares: Float[Tensor, "*cell option"], log_probs: Float[Tensor, "*cell option"]) -> Float[Tensor, "*cell"]:
    """KL(h || p) = sum_o h_o (log h_o - log p_o) in nats; an option with h_o = 0 adds nothing.

    A cell without answers (NaN shares) gives NaN.
    """
    answered = shares != 0
    log_ratio = shares.clamp_min(1e-30).log() - log_probs.masked_fill(~answered, 0.0)
    return (shares * log_ratio).sum(-1)


def mean_kl(
    shares: Float[Tensor, "group question option"], log_probs: Float[Tensor, "#group question option"]
) -> Float[Tensor, ""]:
    """Mean over the cells (group, question) that have answers; in nats. `log_probs` may have one group for all.

    Raises ValueError if no cell has any.
    """
    cells = ~shares.isnan().any(-1)
    if not cells.any():
        groups, questions = cells.shape
        raise ValueError(f"none of the {questions} questions was answered by any of the {groups} groups")
    log_probs = log_probs.expand(shares.shape)
    return kl(shares[cells], log_probs[cells]).mean()


def contrast_kl(
    shares: Float[Tensor, "group question option"],
    everyone: Float[Tensor, "question option"],
    log_probs: Float[Tensor, "#group question option"],
    weights: Float[Tensor, "group"] | None = None,
) -> Float[Tensor, ""]:
    """Loss of the task from toplines: mean over the cells with answers of KL(h_g || h_all p_g / p̄), in nats.

    h_all p_g / p̄ is made to add up to 1; log p̄ = sum_g w_g log p_g over all groups, with `weights` w that add up to 1
    (None: equal). `everyone` is log h_all, -inf only for an option that does not exist. The same added to the logits of
    all groups changes nothing, so the gradients over groups add up to 0: what is right for everybody is not asked for.
    ValueError as in `mean_kl`.
    """
    logs = log_probs.masked_fill(everyone.isneginf(), 0.0).expand(shares.shape)
    mean = logs.mean(0) if weights is None else torch.einsum("g,gqo->qo", weights, logs)
    return mean_kl(shares, (everyone + logs - mean).log_softmax(-1))


def tilted(losses: Float[Tensor, "n"], t: float) -> Float[Tensor, ""]:
    """Tilted mean (1/t) log mean exp(t loss) of Li et al. 2021: the mean at t = 0, the largest loss as t grows.

    Computed as m + (1/t) log1p(mean expm1(t (loss - m))) with m the largest loss (the smallest for t < 0), which
    neither overflows for t up to 1e9 nor loses its digits as t goes to 0.
    """
    if t == 0:
        return losses.mean()
    extreme = losses.detach().max() if t > 0 else losses.detach().min()
    return extreme + torch.log1p(torch.expm1(t * (losses - extreme)).mean()) / t


def tilted_kl(
    shares: Float[Tensor, "group question option"],
    log_probs: Float[Tensor, "some_groups question option"],
    t: float = 0.0,
) -> Float[Tensor, ""]:
    """KL in nats, averaged over the cells of each group and tilted over groups."""
    if t == 0:
        return mean_kl(shares, log_probs)
    answered = ~shares.isnan().any(-1)
    cells = kl(shares.nan_to_num(), log_probs.expand(shares.shape))  # 0 for a cell without answers, and no gradient
    count = answered.sum(1)
    return tilted(cells.sum(1)[count > 0] / count[count > 0], t)


def l1(delta: Float[Tensor, "*group latent"]) -> Float[Tensor, ""]:
    """|Delta|_1 summed over latents, averaged over groups if there are any; in the latents' units."""
    return delta.abs().sum(-1).mean()


def soft_threshold(delta: Float[Tensor, "*any"], amount: float | Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """The proximal step of amount * |Delta|_1: sign(Delta) max(|Delta| - amount, 0), so zeros are exact."""
    return delta.sign() * (delta.abs() - amount).clamp_min(0.0)
