r"""LoReFT: a low-rank change of the stream at the last token, one for each group (Wu et al. 2024).

    x_g = x + R_g^T (W_g x + b_g - R_g x),   R_g: (r, d) with orthonormal rows

written with A = W - R and x about its mean over the prompts, which changes nothing but the coordinates:
x_g = x + R^T (A (x - mean) + b). A = 0 and b = 0 at the start, so that nothing is changed; R starts at random.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from opinion_sae.delta.fit import BestEpoch, shrinking_steps, step_unit
from opinion_sae.delta.held_out import Split
from opinion_sae.delta.settings import FitSettings
from opinion_sae.losses import mean_kl
from opinion_sae.methods.contract import Bench, Outcome, steered
from opinion_sae.sae.train import check_finite

RANK = 4


class LoReFT(nn.Module):
    """The change of every group; `rows` spans the space in which it lies."""

    reads = None
    mean: Tensor

    def __init__(self, groups: Sequence[str], mean: Float[Tensor, "d"], rank: int = RANK, seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.groups, d = tuple(groups), len(mean)
        drawn = torch.randn(d, rank, generator=generator)
        self.rows = nn.Parameter(torch.linalg.qr(drawn).Q.T.expand(len(self.groups), -1, -1).clone())
        self.A = nn.Parameter(torch.zeros(len(self.groups), rank, d))
        self.b = nn.Parameter(torch.zeros(len(self.groups), rank))
        self.register_buffer("mean", mean)

    def orthonormal(self) -> Float[Tensor, "group r d"]:
        """R, from whatever the steps made of its rows."""
        return torch.linalg.qr(self.rows.transpose(1, 2)).Q.transpose(1, 2)

    def steer(self, x: Float[Tensor, "item d"], read: Tensor | None = None) -> Float[Tensor, "item group d"]:
        wanted = torch.einsum("id,grd->igr", x - self.mean, self.A) + self.b
        return x[:, None] + torch.einsum("igr,grd->igd", wanted, self.orthonormal())

    def for_each(self, groups: Sequence[str]) -> LoReFT:
        """The change of the first group for each of these."""
        part = copy.deepcopy(self)
        part.groups = tuple(groups)
        for name in ("rows", "A", "b"):
            setattr(part, name, nn.Parameter(getattr(self, name).detach()[:1].repeat_interleave(len(groups), 0)))
        return part


def loreft(bench: Bench) -> Outcome:
    """Two stages as for the other offsets: one change for everybody, and from there each group's own."""
    mean, groups, settings = bench.answers.residual.mean(0), bench.survey.groups, bench.settings

    def fit(split: Split) -> LoReFT:
        shared = LoReFT(("everyone",), mean, seed=settings.seed)
        train(bench, shared, split, settings.first_stage)
        own = shared.for_each(groups)
        train(bench, own, split, settings)
        return own.requires_grad_(False)

    return steered(bench, fit, len(groups) * RANK * (2 * len(mean) + 1))


def train(bench: Bench, change: LoReFT, split: Split, settings: FitSettings) -> list[float]:
    """Minimise the mean KL by Adam, and keep the epoch with the lowest one on validation: each epoch's KL there.

    A first step of all entries of A moves x by `settings.lr` of its spread, as one of an offset does.
    """
    answers, shares = bench.answers, torch.from_numpy(bench.survey.shares).float()
    x = answers.residual
    size = (x - change.mean).abs().sum(1).mean().item()  # of what a step of one size in a row of A adds up to
    rank, step = change.b.shape[1], step_unit(answers, None) * x.shape[1] ** 0.5  # |x - mean x|
    rates = {"A": step / (size * rank**0.5), "b": step / rank**0.5, "rows": x.shape[1] ** -0.5}
    parts = [{"params": [getattr(change, name)], "lr": settings.lr * rate / 2} for name, rate in rates.items()]
    optimiser, trained = torch.optim.Adam(parts), list(change.parameters())
    best, settle = BestEpoch(trained, settings.patience), shrinking_steps(optimiser, settings.epochs)
    seen = torch.from_numpy(split.train)[~shares[:, split.train].isnan().any(-1).all(0)]
    generator, kls = torch.Generator().manual_seed(settings.seed), []
    for epoch in range(settings.epochs + 1):
        if epoch:
            settle(epoch)
            for chunk in seen[torch.randperm(len(seen), generator=generator)].split(settings.batch):
                loss = _loss(bench, change, shares, chunk)
                check_finite(loss, f"fitting LoReFT, {split.name}, epoch {epoch}")
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        judged = torch.from_numpy(split.validation) if len(split.validation) else seen
        kls.append(mean_kl(shares[:, judged], answers.predict(change, judged)).item())
        if best.stop(kls[-1]):
            break
    best.restore()
    return kls


def _loss(bench: Bench, change: LoReFT, shares: Tensor, chunk: Int[Tensor, "some"]) -> Float[Tensor, ""]:
    return mean_kl(shares[:, chunk], bench.answers.log_probs(change, chunk))
