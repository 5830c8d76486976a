"""References that change only how the model is read: calibration, the unembedding, a probe on the residual stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from opinion_sae.delta.held_out import Split, assemble
from opinion_sae.losses import mean_kl
from opinion_sae.methods.baselines import validation_kl
from opinion_sae.model.answers import NEVER, AnswerPath
from opinion_sae.progress import progress
from opinion_sae.survey import Survey

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # weights of the penalty to choose from
# maps parameters (group, p) and questions to logits in every order of the options
ReadOut = Callable[[Tensor, Tensor], Float[Tensor, "group question order option"]]


@torch.no_grad()
def unsteered_logits(answers: AnswerPath, batch: int = 32) -> Float[Tensor, "question order option"]:
    """The option letters' logits in each order of the options; not meaningful where there is no such option."""
    logits = [
        answers.option_logits(items, answers.steered(items))[:, 0].cpu()
        for items in torch.arange(len(answers.prompts)).split(batch)
    ]
    return torch.cat(logits).double().unflatten(0, (len(answers.questions), answers.orders))


@torch.no_grad()
def last_hidden(answers: AnswerPath, batch: int = 32) -> Float[Tensor, "question order d"]:
    """What the unembedding reads: the last token's stream after the final norm, unsteered."""
    kept: list[Tensor] = []
    handle = answers.lm.norm.register_forward_hook(
        lambda module, args, output: kept.append(output[:, 0].double().cpu())
    )
    try:
        unsteered_logits(answers, batch)
    finally:
        handle.remove()
    return torch.cat(kept).unflatten(0, (len(answers.questions), answers.orders))


def letter_places(answers: AnswerPath) -> Int[Tensor, "question order option"]:
    """At which letter an option stands (0 is A); 0 where there is no such option."""
    places = torch.zeros_like(answers.letters)
    for item, prompt in enumerate(answers.prompts):
        places[item, list(prompt.order)] = torch.arange(len(prompt.order))
    return places.unflatten(0, (len(answers.questions), answers.orders))


def calibrated(
    answers: AnswerPath, survey: Survey, splits: Sequence[Split], shared: bool = False
) -> Float[np.ndarray, "group question option"]:
    """Temperature and biases fitted to the answers, for each group (or one for all, `shared`).

    logit_o = exp(-s) l_o + a_letter(o) + b_{N, o}: one temperature, a bias per letter and one per place of the option
    in the question as it was asked, for each number of options N. It holds both `uniform` and the position prior as
    limits. Fitted like `unembedding`.
    """
    logits, places = unsteered_logits(answers), letter_places(answers)
    width, options = logits.shape[-1], torch.tensor([len(question.options) for question in answers.questions])
    at_option = (options[:, None] * width + torch.arange(width))[:, None].expand_as(places)

    def read(parameters: Tensor, questions: Tensor) -> Tensor:
        temperature, letter, option = parameters.split([1, width, parameters.shape[1] - 1 - width], dim=1)
        scaled = logits[questions] * torch.exp(-temperature)[:, :, None, None]
        return scaled + letter[:, places[questions]] + option[:, at_option[questions]]

    return _fit_all(answers, survey, splits, read, 1 + width + (width + 1) * width, shared)[0]


def unembedding(
    answers: AnswerPath, survey: Survey, splits: Sequence[Split]
) -> tuple[Float[np.ndarray, "group question option"], Float[Tensor, "split group letter d"]]:
    """Only the option letters' rows of the unembedding move: logit_o = (W + V_g)_letter(o) . h, h the final stream.

    V_g = V_shared + V'_g has one row per letter, in units of 1 / RMS |h - mean h|. Minimises the mean KL plus
    ridge (|V_shared|^2 + mean_g |V'_g|^2) over the training questions, as the other methods do; the ridge is the one
    with the lowest validation KL. With a soft cap the change is made above it. h is fixed, so nothing runs but the
    products V h, in the coordinates of `in_span`. Second, V_g of each split in units of 1 / h.
    """
    logits, hidden, places = unsteered_logits(answers), last_hidden(answers), letter_places(answers)
    unit = hidden.sub(hidden.mean((0, 1))).pow(2).sum(-1).mean().sqrt()
    hidden, basis = in_span(hidden / unit)
    letters = logits.shape[-1]

    def read(parameters: Tensor, questions: Tensor) -> Tensor:
        rows = parameters.unflatten(1, (letters, -1))
        by_letter = torch.einsum("qkd,gld->gqkl", hidden[questions], rows)
        return logits[questions] + by_letter.gather(-1, places[questions].expand(len(rows), -1, -1, -1))

    found, parameters = _fit_all(answers, survey, splits, read, letters * hidden.shape[-1])
    return found, torch.stack(parameters).unflatten(2, (letters, -1)) @ basis.T / unit


def probe(answers: AnswerPath, survey: Survey, splits: Sequence[Split]) -> Float[np.ndarray, "group question option"]:
    """What a linear map could read at the hook layer, without the model's answer: logit_o = w_{g,o} . x + b_{g,N,o}.

    x is the residual stream at the last token, mean over orders, centred and in units of 1 / RMS |x - mean x|; o the
    place of the option as it was asked, N the number of options. Fitted like `unembedding`.
    """
    x = answers.residual.double().unflatten(0, (len(answers.questions), answers.orders)).mean(1)
    x = x - x.mean(0)
    x, _ = in_span(x / x.pow(2).sum(-1).mean().sqrt())
    width, d = answers.letters.shape[1], x.shape[1]
    options = torch.tensor([len(question.options) for question in answers.questions])
    at_option = options[:, None] * width + torch.arange(width)

    def read(parameters: Tensor, questions: Tensor) -> Tensor:
        rows, bias = parameters.split([width * d, (width + 1) * width], dim=1)
        logits = torch.einsum("qd,god->gqo", x[questions], rows.unflatten(1, (width, d)))
        return (logits + bias[:, at_option[questions]])[:, :, None]

    return _fit_all(answers, survey, splits, read, width * d + (width + 1) * width)[0]


def in_span(vectors: Float[Tensor, "*prompt d"]) -> tuple[Float[Tensor, "*prompt r"], Float[Tensor, "d r"]]:
    """The vectors in an orthonormal basis of their span, r <= min(d, prompts), and that basis: inner products stay.

    A map with a ridge reads nothing outside the span of what it was fitted to, so its fit is the same with fewer
    parameters.
    """
    flat = vectors.flatten(0, -2)
    if len(flat) >= flat.shape[1]:
        return vectors, torch.eye(flat.shape[1], dtype=flat.dtype)
    basis = torch.linalg.qr(flat.T).Q
    return (flat @ basis).unflatten(0, vectors.shape[:-1]), basis


def _fit_all(
    answers: AnswerPath, survey: Survey, splits: Sequence[Split], read: ReadOut, size: int, shared: bool = False
) -> tuple[Float[np.ndarray, "group question option"], list[Float[Tensor, "some_groups p"]]]:
    """Held-out answers of a read-out, the ridge chosen on each split's validation questions, and its parameters."""
    if answers.questions != survey.questions:
        raise ValueError(f"the answers are to other questions than those of the survey {survey.name}")
    has_option = answers.has_option.unflatten(0, (len(survey.questions), answers.orders))[:, 0]
    shares, parts, chosen = torch.from_numpy(survey.shares).double(), [], []
    for split in progress(splits, "read-out"):
        seen, costs, found = torch.from_numpy(split.train), [], []
        for ridge in RIDGES:
            parameters = fit_ridge(read, shares[:, seen], seen, has_option, size, ridge, shared)
            with torch.no_grad():
                judged = log_mean(read(parameters, torch.from_numpy(split.validation)), has_option[split.validation])
                tested = log_mean(read(parameters, torch.from_numpy(split.test)), has_option[split.test])
            costs.append(validation_kl(survey, judged.numpy(), split.validation))
            found.append((tested.float().numpy(), parameters))
        best = found[int(np.argmin(costs))]
        parts.append(best[0])
        chosen.append(best[1])
    return assemble(parts, splits, len(survey.questions)), chosen


def fit_ridge(
    read: ReadOut,
    shares: Float[Tensor, "group train option"],
    train: Int[Tensor, "train"],
    has_option: Bool[Tensor, "question option"],
    size: int,
    ridge: float,
    shared_only: bool = False,
    steps: int = 60,
) -> Float[Tensor, "some_groups p"]:
    """Minimise mean KL + ridge (|shared|^2 + mean_g |deviation_g|^2) from zero by L-BFGS; one row if shared only.

    In float64, with a memory of all steps: with less of either, the path towards the minimum of a weak ridge would blow
    up the rounding of its input until two runs differ in the third digit.
    """
    answered = ~shares.isnan().any(-1).all(0)
    train, shares = train[answered], shares[:, answered]
    shared = torch.zeros(1, size, dtype=torch.float64, requires_grad=True)
    deviation = torch.zeros(len(shares), size, dtype=torch.float64, requires_grad=True)
    parts = [shared] if shared_only else [shared, deviation]
    optimiser = torch.optim.LBFGS(
        parts, max_iter=steps, tolerance_change=1e-12, history_size=steps, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        log_probs = log_mean(read(sum(parts), train), has_option[train])
        total = mean_kl(shares, log_probs) + ridge * sum(part.pow(2).sum(1).mean() for part in parts)
        total.backward()
        return total

    optimiser.step(loss)
    parameters = sum(parts).detach()
    if not parameters.isfinite().all():
        raise FloatingPointError(f"the read-out's fit with ridge {ridge} ended in numbers that are not finite")
    return parameters


def log_mean(
    logits: Float[Tensor, "group question order option"], has_option: Bool[Tensor, "question option"]
) -> Float[Tensor, "group question option"]:
    """log of the mean over orders of the softmax, -inf where there is no such option; as `AnswerPath.log_probs`."""
    by_order = logits.masked_fill(~has_option[:, None], NEVER).log_softmax(-1)
    mean = by_order.logsumexp(2) - np.log(logits.shape[2])
    return mean.masked_fill(~has_option, -torch.inf)
