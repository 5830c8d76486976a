"""Fit offsets that read: started from a direct read-out, then tuned through the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from opinion_sae.delta.directions import Effects, dense_directions, latent_directions
from opinion_sae.delta.reading import ReadingDelta, ReadingOffset
from opinion_sae.losses import contrast_kl, mean_kl, soft_threshold
from opinion_sae.model.answers import AnswerPath
from opinion_sae.progress import progress
from opinion_sae.sae.train import check_finite
from opinion_sae.score.gaps import TASKS
from opinion_sae.score.toplines import everyone, group_weights
from opinion_sae.survey import Survey
from opinion_sae.threads import one_thread

ADAM_EPS = 1e-8  # torch's default
# loss in nats of log p for these questions
Loss = Callable[[Float[Tensor, "group question option"], Int[Tensor, "question"]], Float[Tensor, ""]]


class Axes(NamedTuple):
    """t_gb(q) = constant_gb + sum_k c_gk a_kb . r_q: how a group's answers lean, by what is read of the question.

    t is in nats per unit of the basis phi_b of an option's place (direction b): p_g ~ h_all exp(sum_b t_gb phi_b).
    """

    a: Float[Tensor, "axis direction feature"]
    c: Float[Tensor, "group axis"]
    constant: Float[Tensor, "group direction"]

    def tilts(self, r: Float[Tensor, "question feature"]) -> Float[Tensor, "group question direction"]:
        return torch.einsum("gk,kbf,qf->gqb", self.c, self.a, r) + self.constant[:, None]


@one_thread()
def axes_of(
    coefficients: Float[Tensor, "group direction feature"],
    constant: Float[Tensor, "group direction"],
    axes: int,
    r: Float[Tensor, "train feature"],
) -> Axes:
    """The first axes of a linear read-out: those along which groups differ most in what it says of training questions.

    c has orthonormal columns, a holds the size. Found in the groups' covariance over (question, direction).
    """
    said = torch.einsum("gbf,qf->gqb", coefficients, r).flatten(1)
    c = torch.linalg.svd(said @ said.T).U[:, :axes]
    return Axes(torch.einsum("gk,gbf->kbf", c, coefficients), c, constant)


@one_thread()
def few_features(
    axes: Axes,
    r: Float[Tensor, "train feature"],
    tilts: Float[Tensor, "group train direction"],
    count: int,
    ridge: float,
    among: Bool[Tensor, "axis feature"] | None = None,
) -> Axes:
    """The axes with at most `count` features read by each, chosen and fitted anew to the training questions' tilts.

    Chosen by orthogonal matching pursuit (Pati et al. 1993), four features at a time and all directions of an axis
    together: those that explain most of what is left of c_k . t, per unit of their own size. Then a ridge regression on
    these. Features that fire in fewer than five training questions are passed over, and so are those that an axis has
    not `among` its own. NaN tilts count as the constant.
    """
    left_over = (tilts - axes.constant[:, None]).nan_to_num()
    often = ((r != 0).sum(0) >= 5).expand(len(axes.a), -1)
    size = (r.square().sum(0) + ridge).sqrt()
    a = torch.zeros_like(axes.a)
    for k, target in enumerate(torch.einsum("gk,gqb->kqb", axes.c, left_over)):
        known = often[k] if among is None else often[k] & among[k]
        chosen = torch.zeros(0, dtype=torch.long)
        rest, found = target, target.new_zeros(0, target.shape[1])
        while len(chosen) < (most := min(count, int(known.sum()))):
            gain = (r.T @ rest).norm(dim=1) / size * known
            gain[chosen] = 0
            chosen = torch.cat([chosen, gain.topk(min(4, most - len(chosen))).indices])
            part = r[:, chosen]
            found = torch.linalg.solve(part.T @ part + ridge * torch.eye(len(chosen)), part.T @ target)
            rest = target - part @ found
        a[k][:, chosen] = found.T
    return axes._replace(a=a)


@torch.no_grad()
def start(
    offset: ReadingOffset,
    axes: Axes,
    effects: Effects,
    wishes: Float[Tensor, "question direction option"],
    train: Int[Tensor, "train"],
    penalty: float = 0.01,
) -> None:
    """Set a, b, c and D so that the model says what the read-out says, to first order.

    b_kb is the same for all axes: what moves the letters of the training questions by phi_b (`wishes`), by least
    squares through the layers above; so is what D is made of. Where options are asked in both orders, nothing that is
    the same for all questions can lean along the scale, and nothing that is read can set its middle against its ends:
    least squares finds about 0 for these. `penalty` is that of `latent_directions`. `shared` stays as it is.
    """
    b, of_constant = (
        _directions(offset, *effects.normal(wishes, train, signed), penalty).to(offset.b) for signed in (True, False)
    )
    offset.a.copy_(axes.a)
    offset.b.copy_(b.expand_as(offset.b))
    of_parts = torch.linalg.pinv(offset.members)  # least squares where groups are intersections
    offset.c.copy_(of_parts @ axes.c.to(offset.c))
    offset.deviation.copy_(of_parts @ axes.constant.to(b) @ of_constant)


def _directions(
    offset: ReadingOffset, square: Float[Tensor, "d d"], cross: Float[Tensor, "direction d"], penalty: float
) -> Float[Tensor, "direction written"]:
    if not isinstance(offset, ReadingDelta):
        return dense_directions(square, cross)
    usable = (offset.shared >= 0).cpu()  # one that Delta_shared shuts takes no notice of a little more or less
    return latent_directions(square, cross, offset.sae.W_dec.cpu() * usable[:, None], penalty)


@dataclass(frozen=True)
class Tuning:
    """Settings of `tune`. Learning rates are in units of a parameter's own size at the start, strengths of L1 terms are
    in nats per unit of it: 1 means that all of |a|_1 (|b|_1, ...) costs one nat."""

    epochs: int = 3
    batch: int = 16
    lr: float = 0.03
    l1_a: float = 0.0
    l1_b: float = 0.0
    l1_c: float = 0.0
    l1_constant: float = 0.0
    patience: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = {name: value for name, value in vars(self).items() if value < 0 or (name == "batch" and value < 1)}
        if wrong:
            raise ValueError(f"settings of a fit must not be negative, and batch at least 1: {wrong}")


def tune(
    answers: AnswerPath,
    offset: ReadingOffset,
    loss: Loss,
    train: Int[Tensor, "train"],
    validation: Int[Tensor, "validation"],
    settings: Tuning,
    parts: tuple[str, ...] = ("a", "b", "c", "deviation"),
) -> pd.DataFrame:
    """Train parts of `offset` in place through the model by Adam, with a proximal step for the L1 terms: exact zeros.

    Entries of a that are zero at the start stay so: what is read was chosen before. The epoch with the lowest loss on
    the validation questions is kept, the start (epoch 0) included. History: a row per epoch. Raises FloatingPointError
    for a loss that is not finite.
    """
    strengths = {"a": settings.l1_a, "b": settings.l1_b, "c": settings.l1_c, "deviation": settings.l1_constant}
    trained = {name: getattr(offset, name) for name in parts if getattr(offset, name).numel()}
    sizes = {name: part[part != 0].detach().abs().mean().nan_to_num(1.0).item() for name, part in trained.items()}
    support = offset.a.detach() != 0
    optimiser = torch.optim.Adam(
        [{"params": [part], "lr": settings.lr * sizes[name], "name": name} for name, part in trained.items()]
    )
    l1 = {name: strengths[name] / (sizes[name] * max(1, int((part != 0).sum()))) for name, part in trained.items()}
    generator = torch.Generator().manual_seed(settings.seed)
    scores, rows, best = [], [], {}
    for epoch in progress(range(settings.epochs + 1), "reading"):
        losses = []
        for chunk in train[torch.randperm(len(train), generator=generator)].split(settings.batch) if epoch else ():
            value = loss(answers.log_probs(offset, chunk), chunk)
            check_finite(value, f"fitting the offset, epoch {epoch}, questions {chunk.tolist()}")
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            shrink(optimiser, l1)
            offset.a.data.mul_(support)
            losses.append(value.item())
        scores.append(loss(answers.predict(offset, validation), validation).item())
        rows.append({"epoch": epoch, "train_kl": np.mean(losses) if losses else np.nan, "validation_kl": scores[-1]})
        rows[-1] |= {f"entries_{name}": int((part != 0).sum()) for name, part in trained.items()}
        if scores[-1] == min(scores):
            best = {name: part.detach().clone() for name, part in trained.items()}
        elif epoch - int(np.argmin(scores)) > settings.patience:
            break
    with torch.no_grad():
        for name, part in trained.items():
            part.copy_(best[name])
    return pd.DataFrame(rows)


@torch.no_grad()
def shrink(optimiser: torch.optim.Adam, l1: dict[str, float]) -> None:
    """Soft-threshold each parameter by Adam's own step size for it, lr * weight / (sqrt(v) + eps).

    In Adam's metric this keeps the stated objective: an entry rests at zero just when its gradient is below the weight.
    """
    for group in optimiser.param_groups:
        for part in group["params"]:
            state = optimiser.state[part]
            if not l1[group["name"]] or not state:
                continue
            second = state["exp_avg_sq"] / (1 - group["betas"][1] ** float(state["step"]))
            part.copy_(soft_threshold(part, group["lr"] * l1[group["name"]] / (second.sqrt() + ADAM_EPS)))


def task_loss(survey: Survey, task: str = "toplines") -> Loss:
    """KL(h_g || p_g) of a task: 'alone', p_g as the model has it, or 'toplines', p_g put on top of everybody's answers.

    ValueError for another task.
    """
    if task not in TASKS:
        raise ValueError(f"task {task!r} is not one of {', '.join(TASKS)}")
    shares, known = torch.from_numpy(survey.shares).float(), torch.from_numpy(everyone(survey)[0]).float()
    weights = torch.from_numpy(group_weights(survey)).float()

    def alone(log_probs: Tensor, questions: Tensor) -> Tensor:
        return mean_kl(shares[:, questions].to(log_probs.device), log_probs)

    def toplines(log_probs: Tensor, questions: Tensor) -> Tensor:
        parts = (part.to(log_probs.device) for part in (shares[:, questions], known[questions], weights))
        of_groups, of_all, sizes = parts
        return contrast_kl(of_groups, of_all, log_probs, sizes)

    return alone if task == "alone" else toplines
