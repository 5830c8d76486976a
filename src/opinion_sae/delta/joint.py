"""Train an SAE and the group offsets together, on all terms of the loss."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from opinion_sae.delta.crossfit import CrossFit, cross_fit, fold_parts
from opinion_sae.delta.fit import Positions, fit_frozen, fit_to_budget, proximal_step, refit_strongest, units
from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.losses import l1, mean_kl, reconstruction
from opinion_sae.model.answers import AnswerPath
from opinion_sae.model.language_model import LanguageModel
from opinion_sae.progress import progress
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.sae.quality import plain_text, sae_quality
from opinion_sae.sae.topk import SparseDecode, TopKEncode
from opinion_sae.sae.train import check_finite, untrained_sae
from opinion_sae.survey import Survey

TERMS = ("reconstruction", "sparsity", "kl")


def fit_delta(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    survey: Survey,
    mode: str = "frozen",
    latents: int | None = None,
    tokens: Float[Tensor, "token d"] | None = None,
    **settings: object,
) -> tuple[GroupDelta, pd.DataFrame]:
    """Fit Delta in either mode; `settings` go to `fit_frozen` or `fit_joint`.

    'frozen' leaves the SAE as it is. 'joint' trains it in place, on the activations `tokens`, together with Delta.
    `latents` is a budget: in frozen mode the L1 strength is sought that leaves about so many (`fit_to_budget`); then,
    in both, every group's Delta is cut to its so many strongest latents and those are fitted once more.
    """
    if mode == "frozen" and latents is not None:
        delta, history = fit_to_budget(answers, sae, survey, latents, **settings)
    elif mode == "frozen":
        delta, history = fit_frozen(answers, sae, survey, **settings)
    elif mode == "joint":
        if tokens is None:
            raise ValueError("joint mode trains the SAE too: give the activations to reconstruct as `tokens`")
        delta, history = fit_joint(answers, sae, survey, tokens, **settings)
    else:
        raise ValueError(f"mode {mode!r} is not 'frozen' or 'joint'")
    if latents is None:
        return delta, history
    known = {
        key: settings[key]
        for key in ("train", "validation", "epochs", "batch", "lr", "patience", "seed")
        if key in settings
    }
    delta, refit = refit_strongest(answers, sae, survey, delta, latents, **known)
    return delta, pd.concat([history, refit.assign(stage=f"{latents} latents")], ignore_index=True)


def fit_joint(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    survey: Survey,
    tokens: Float[Tensor, "token d"],
    *,
    train: Positions | None = None,
    validation: Positions | None = None,
    held_out: Float[Tensor, "held_out d"] | None = None,
    start: GroupDelta | None = None,
    keep_error: bool = True,
    kl_weight: float = 1.0,
    sparsity_weight: float = 0.01,
    token_batch: int = 1024,
    token_steps: int = 1,
    sae_lr: float = 3e-5,
    epochs: int = 15,
    batch: int = 16,
    lr: float = 0.3,
    shared_lr: float = 1.0,
    l1_weight: float = 0.0,
    patience: int = 5,
    seed: int = 0,
) -> tuple[GroupDelta, pd.DataFrame]:
    """Minimise L_reconstruction + lambda L_sparsity + beta KL(h_g || p_g) + gamma |Delta|_1 over SAE and Delta.

    Each step takes one batch of questions for the KL and `token_steps` batches of activations for the first two terms
    (more of them for an SAE that starts from scratch). L_reconstruction is the fraction of variance unexplained,
    L_sparsity the mean |z|_1 of a token in units of its value at the start, so both begin near or below 1; lambda is
    `sparsity_weight` (a top-k SAE has its L0 fixed and needs little), beta `kl_weight`. Without `keep_error` the
    model reads the SAE's output alone. The SAE is trained in place, its decoder rows kept at norm 1.

    Delta goes on from `start`; without one Delta_shared is fitted first, with the SAE frozen as in `fit_frozen`. The
    epoch with the lowest sum of validation KL (weighted) and unexplained variance of `held_out` is kept, the start
    included. History: a row per epoch.
    """
    train = np.arange(len(survey.questions)) if train is None else np.asarray(train)
    judged = torch.as_tensor(np.array(train if validation is None else validation))
    held_out = tokens[:4096] if held_out is None else held_out
    sae.requires_grad_(False)
    history = pd.DataFrame()
    delta = copy.deepcopy(start)
    if delta is None:
        first = {"epochs": epochs, "batch": batch, "lr": lr, "l1_weight": l1_weight, "patience": patience, "seed": seed}
        first |= {"train": train, "validation": validation, "shared_lr": shared_lr}
        delta, history = fit_frozen(answers, sae, survey, stages=("shared",), **first)
    delta.keep_error = keep_error
    sae.requires_grad_(True)
    step_size, unit = units(answers, sae, delta)
    shares = torch.from_numpy(survey.shares).float()
    optimiser = torch.optim.Adam(
        [
            {"params": [delta.shared, delta.deviation], "lr": lr * step_size},
            {"params": list(sae.parameters()), "lr": sae_lr},
        ]
    )
    rates = [group["lr"] for group in optimiser.param_groups]
    generator = torch.Generator().manual_seed(seed)
    size = judged_tokens(sae, held_out)[1]
    weights = {"reconstruction": 1.0, "sparsity": sparsity_weight, "kl": kl_weight, "l1": l1_weight / unit}

    def draw() -> list[Tensor]:
        indices = [torch.randint(len(tokens), (token_batch,), generator=generator) for _ in range(token_steps)]
        return [tokens[index] for index in indices]

    rows, scores = [], []
    for epoch in progress(range(epochs + 1), "joint"):
        sums = dict.fromkeys(TERMS, np.nan)
        if epoch:
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * (1 - (epoch - 1) / epochs)
            chunks = torch.as_tensor(train)[torch.randperm(len(train), generator=generator)].split(batch)
            sums = _train_epoch(answers, sae, delta, shares, chunks, draw, optimiser, size, weights, epoch)
        kl = mean_kl(shares[:, judged], answers.predict(sae, delta, judged)).item()
        fvu, active = judged_tokens(sae, held_out)
        held = {"kl": kl, "reconstruction": fvu, "sparsity": active / size}
        rows.append(_row(epoch, sums, held, delta, l1_weight / unit))
        if kl_weight * kl + fvu < min(scores, default=np.inf):
            best = _state(delta), _state(sae)
        scores.append(kl_weight * kl + fvu)
        if epoch and epoch - 1 - np.argmin(scores[1:]) >= patience:  # the first steps often do harm
            break
    delta.load_state_dict(best[0])
    sae.load_state_dict(best[1])
    sae.requires_grad_(False)
    return delta, pd.concat([history, pd.DataFrame(rows).assign(stage="joint")], ignore_index=True)


def _train_epoch(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    delta: GroupDelta,
    shares: Float[Tensor, "group question option"],
    chunks: Sequence[Tensor],
    draw: Callable[[], list[Tensor]],
    optimiser: torch.optim.Adam,
    size: float,
    weights: dict[str, float],
    epoch: int,
) -> dict[str, float]:
    """One step per chunk of questions, each with the batches of activations that `draw` gives; the terms' means."""
    steps = []
    for chunk in chunks:
        terms = joint_terms(answers, sae, delta, shares, chunk, draw(), size)
        loss = sum(weights[name] * terms[name] for name in TERMS)
        check_finite(loss, f"joint training, epoch {epoch}, questions {chunk.tolist()}")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        proximal_step(optimiser, delta, weights["l1"])
        with torch.no_grad():
            sae.W_dec.copy_(normalize(sae.W_dec, dim=1))
        steps.append([terms[name].item() for name in TERMS])
    return dict(zip(TERMS, np.mean(steps, axis=0), strict=True))


def joint_terms(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    delta: GroupDelta,
    shares: Float[Tensor, "group question option"],
    questions: Tensor,
    batches: Sequence[Float[Tensor, "batch d"]],
    size: float,
) -> dict[str, Float[Tensor, ""]]:
    """The terms of the loss that have gradients: reconstruction and sparsity of the batches, KL of the questions."""
    coded = [code_and_output(sae, x, answers.lm.dtype) for x in batches]
    fvu = [reconstruction(x, x_hat) for x, (_, x_hat) in zip(batches, coded, strict=True)]
    active = [values.sum(1).mean() / size for values, _ in coded]
    log_probs = answers.log_probs(sae, delta, questions)
    return {
        "reconstruction": torch.stack(fvu).mean(),
        "sparsity": torch.stack(active).mean(),
        "kl": mean_kl(shares[:, questions].to(log_probs.device), log_probs),
    }


def code_and_output(
    sae: SparseAutoencoder, x: Float[Tensor, "batch d"], dtype: torch.dtype = torch.float32
) -> tuple[Float[Tensor, "batch active"], Float[Tensor, "batch d"]]:
    """Active latents' values and decode(z), with gradients for the SAE; for top-k SAEs as in `train_sae`.

    Their encoder product runs in `dtype`, and has no gradient for x - b_dec; that of b_dec comes with the bias.
    """
    if sae.k is None:
        code = sae.encode_sparse(x)
        return code.values, sae.decode_sparse(code)
    rows = sae.W_enc.T
    centre = sae.b_dec.detach()
    bias = sae.b_enc - rows.detach() @ (sae.b_dec - centre)  # b_enc, with a gradient for b_dec
    values, indices = TopKEncode.apply(x.to(rows.device) - centre, rows, bias, sae.k, dtype)
    x_hat = SparseDecode.apply(values, indices, sae.W_dec) + sae.b_dec
    return values.to(x.device), x_hat.to(x.device)


@torch.no_grad()
def judged_tokens(sae: SparseAutoencoder, x: Float[Tensor, "token d"]) -> tuple[float, float]:
    """Unexplained variance and mean |z|_1 of activations that the SAE was not trained on."""
    coded = [code_and_output(sae, part) for part in x.split(4096)]
    x_hat = torch.cat([output for _, output in coded])
    return reconstruction(x, x_hat).item(), torch.cat([values.sum(1) for values, _ in coded]).mean().item()


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def _row(
    epoch: int, sums: dict[str, float], held: dict[str, float], delta: GroupDelta, weight: float
) -> dict[str, float | int]:
    return {
        "epoch": epoch,
        "train_kl": sums["kl"],
        "validation_kl": held["kl"],
        "reconstruction": sums["reconstruction"],
        "validation_reconstruction": held["reconstruction"],
        "sparsity": sums["sparsity"],
        "validation_sparsity": held["sparsity"],
        "l1_shared": weight * l1(delta.shared).item(),
        "l1_deviation": weight * l1(delta.deviation).item(),
        "latents_shared": int((delta.shared != 0).sum()),
        "latents_deviation": (delta.deviation != 0).sum(1).float().mean().item(),
    }


class JointOffset(nn.Module):
    """A Delta together with the SAE that was trained for it."""

    def __init__(self, delta: GroupDelta, sae: SparseAutoencoder):
        super().__init__()
        self.delta, self.sae = delta, sae
        self.groups = delta.groups

    def steer(self, x: Float[Tensor, "item d"], sae: object = None) -> Float[Tensor, "item group d"]:
        return self.delta.steer(x, self.sae)


def cross_fit_joint(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    survey: Survey,
    folds: Int[np.ndarray, "question"],
    tokens: Float[Tensor, "token d"],
    starts: Sequence[GroupDelta],
    **settings: object,
) -> CrossFit:
    """Held-out answers of joint training: every fold fine-tunes its own copy of the SAE, from its own start of Delta."""
    given = iter(starts)

    def fit(train: np.ndarray, validation: np.ndarray) -> tuple[JointOffset, pd.DataFrame]:
        own = copy.deepcopy(sae)
        parts = {"train": train, "validation": validation, "start": next(given)}
        delta, history = fit_joint(answers, own, survey, tokens, **parts, **settings)
        return JointOffset(delta, own), history

    return cross_fit(answers, None, folds, fit)


class Variant(NamedTuple):
    """One way of joint training, fitted on the training questions of fold 0."""

    offset: JointOffset
    history: pd.DataFrame
    test_kl: float  # nats, on fold 0's test questions


def joint_variants(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    survey: Survey,
    folds: Int[np.ndarray, "question"],
    tokens: Float[Tensor, "token d"],
    start: GroupDelta,
    scratch_steps: int,
    **settings: object,
) -> dict[str, Variant]:
    """Fold 0 fitted with the SAE's error dropped, and from an untrained SAE of the same size (`scratch_steps` token
    batches to each batch of questions), error kept and dropped. `start` is fold 0's fit of Delta_shared."""
    train, validation, test = fold_parts(folds, 0)
    parts = {"train": train, "validation": validation}
    shares = torch.from_numpy(survey.shares).float()[:, test]
    blank = untrained_sae(tokens, sae.width, sae.k, 0, sae.metadata).requires_grad_(False)
    wanted = ("epochs", "batch", "lr", "shared_lr", "l1_weight", "patience", "seed")
    first = {name: settings[name] for name in wanted if name in settings}
    blank_start, _ = fit_frozen(answers, blank, survey, stages=("shared",), **parts, **first)
    variants = {}
    for name, given, from_scratch, keep in [
        ("trained SAE, e dropped", start, False, False),
        ("from scratch, e kept", blank_start, True, True),
        ("from scratch, e dropped", blank_start, True, False),
    ]:
        own = copy.deepcopy(blank if from_scratch else sae)
        extra = {"token_steps": scratch_steps, "sae_lr": 2e-3} if from_scratch else {}
        chosen = {**settings, **extra, "keep_error": keep, "start": given}
        delta, history = fit_joint(answers, own, survey, tokens, **parts, **chosen)
        log_probs = answers.predict(own, delta, torch.from_numpy(test))
        variants[name] = Variant(JointOffset(delta, own), history, mean_kl(shares, log_probs).item())
    return variants


def joint_table(
    lm: LanguageModel,
    answers: AnswerPath,
    survey: Survey,
    folds: Int[np.ndarray, "question"],
    texts: Sequence[str],
    sae: SparseAutoencoder,
    frozen: dict[str, Float[np.ndarray, "_ question option"]],
    joint: CrossFit,
    variants: dict[str, Variant],
) -> pd.DataFrame:
    """Fold 0's test KL and the quality of the SAE on held-out text, for the frozen fit and every way of joint training.

    `frozen` holds the held-out log p of 'unsteered' and 'delta' from chapter 04.
    """
    _, _, test = fold_parts(folds, 0)
    shares = torch.from_numpy(survey.shares).float()[:, test]

    def test_kl(log_probs: Float[np.ndarray, "_ question option"]) -> float:
        return mean_kl(shares, torch.from_numpy(log_probs[:, test])).item()

    rows = {
        "unsteered": (test_kl(frozen["unsteered"]), None),
        "Δ only, SAE as it was": (test_kl(frozen["delta"]), sae),
        "trained SAE, e kept": (test_kl(joint.log_probs), joint.offsets[0].sae),
        **{name: (variant.test_kl, variant.offset.sae) for name, variant in variants.items()},
    }
    table, plain = [], plain_text(lm, texts, answers.hook_layer)
    for name, (kl, own) in rows.items():
        quality = {} if own is None else sae_quality(lm, own, texts, answers.hook_layer, answers.residual, plain)
        kept = {key: quality.get(key, np.nan) for key in ("fvu", "fvu_at_answers", "dead_fraction", "ce_recovered")}
        table.append({"training": name, "test_kl": kl, "n_questions": len(test), **kept})
    return pd.DataFrame(table).set_index("training")
