"""Train an SAE and the group offsets together, on all terms of the loss."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from opinion_sae.delta.files import Answers
from opinion_sae.delta.fit import (
    BestEpoch,
    fit_frozen,
    fit_row,
    proximal_step,
    refit_strongest,
    shrinking_steps,
    units,
)
from opinion_sae.delta.held_out import HeldOut, Split, held_out, whole
from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.delta.settings import FitSettings, JointSettings
from opinion_sae.losses import mean_kl, reconstruction
from opinion_sae.model.activations import Activations
from opinion_sae.model.answers import AnswerPath
from opinion_sae.progress import progress
from opinion_sae.sae.autoencoder import SparseAutoencoder, SparseCode
from opinion_sae.sae.quality import plain_text, sae_quality
from opinion_sae.sae.topk import SparseDecode, TopKEncode
from opinion_sae.sae.train import check_finite, train_sae, untrained_sae
from opinion_sae.survey import Survey

TERMS = ("reconstruction", "sparsity", "kl")
SCRATCH_LR = 2e-3  # of an SAE that starts from random directions


def fit_constant(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    survey: Survey,
    mode: str = "frozen",
    latents: int | None = None,
    tokens: Float[Tensor, "token d"] | None = None,
    settings: FitSettings | None = None,
) -> tuple[GroupDelta, pd.DataFrame]:
    """Fit Delta to all questions, in either mode, and give it with the fit's history.

    'frozen' leaves the SAE as it is. 'joint' trains it in place, on the activations `tokens`, together with Delta, and
    takes `JointSettings`. With `latents` every group's Delta is cut to its so many strongest latents and those are
    fitted once more.
    """
    if mode == "frozen":
        settings = settings or FitSettings()
        delta, history = fit_frozen(answers, sae, survey, settings=settings)
    elif mode == "joint":
        if tokens is None:
            raise ValueError("joint mode trains the SAE too: give the activations to reconstruct as `tokens`")
        settings = settings or JointSettings()
        delta, history = fit_joint(answers, sae, survey, Activations(tokens, tokens[:4096]), settings=settings)
    else:
        raise ValueError(f"mode {mode!r} is not 'frozen' or 'joint'")
    if latents is None:
        return delta, history
    delta, refit = refit_strongest(answers, survey, delta, latents, settings=settings)
    return delta, pd.concat([history, refit.assign(stage=f"{latents} latents")], ignore_index=True)


def fit_joint(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    survey: Survey,
    texts: Activations,
    split: Split | None = None,
    start: GroupDelta | None = None,
    settings: JointSettings = JointSettings(),
) -> tuple[GroupDelta, pd.DataFrame]:
    """Minimise L_reconstruction + lambda L_sparsity + beta KL(h_g || p_g) + gamma |Delta|_1 over SAE and Delta.

    Each step takes one batch of questions for the KL and one of activations for the first two terms; with `token_steps`
    above 1, as for an SAE that starts from scratch, steps on these two terms alone come before it, a batch each.
    L_reconstruction is the fraction of variance unexplained, the mean over the batch and the questions' last tokens:
    the SAE has to be right where Delta is written too.
    L_sparsity is the mean |z|_1 of a token in units of its value at the start, so both begin near or below 1; lambda is
    `sparsity` (a top-k SAE has its L0 fixed and needs little), beta `kl_weight`, gamma `l1`. Without `keep_error` the
    model reads the SAE's output alone. The SAE is trained in place, its decoder rows kept at norm 1.

    Delta goes on from `start`; without one Delta_shared is fitted first, with the SAE frozen as in `fit_frozen`. The
    epoch with the lowest sum of validation KL (weighted) and unexplained variance of the held-out activations is kept,
    the start included. History: a row per epoch.
    """
    split, history = whole(survey) if split is None else split, pd.DataFrame()
    sae.requires_grad_(False)
    if start is None:
        start, history = fit_frozen(answers, sae, survey, split, settings, stages=("shared",))
    delta = start.on(sae)
    delta.keep_error = settings.keep_error
    sae.requires_grad_(True)
    training = _Joint(answers, survey, delta, texts, settings)
    best = BestEpoch([*delta.parameters(), *sae.parameters()], settings.patience)
    settle = shrinking_steps(training.optimiser, settings.epochs)
    judged, rows = torch.as_tensor(split.validation if len(split.validation) else split.train), []
    for epoch in progress(range(settings.epochs + 1), "joint"):
        sums = dict.fromkeys(TERMS, np.nan)
        if epoch:
            settle(epoch)
            sums = training.epoch(torch.as_tensor(split.train), epoch)
        held = training.judge(judged)
        rows.append(_row(epoch, sums, held, delta, training.weights["l1"]))
        if best.stop(settings.kl_weight * held["kl"] + held["reconstruction"]):
            break
    best.restore()
    sae.requires_grad_(False)
    return delta, pd.concat([history, pd.DataFrame(rows).assign(stage="joint")], ignore_index=True)


class _Joint:
    """Everything that one epoch of joint training needs."""

    def __init__(
        self, answers: AnswerPath, survey: Survey, delta: GroupDelta, texts: Activations, settings: JointSettings
    ):
        self.answers, self.delta, self.texts, self.settings = answers, delta, texts, settings
        self.shares = torch.from_numpy(survey.shares).float()
        self.spread = spread_of(answers.residual)
        step_size, unit = units(answers, delta)
        self.optimiser = torch.optim.Adam(
            [
                {"params": [delta.shared, delta.deviation], "lr": settings.lr * step_size},
                {"params": list(delta.sae.parameters()), "lr": settings.sae_lr},
            ]
        )
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.size = judged_tokens(delta.sae, texts.held_out)[1]  # |z|_1 of a token at the start
        self.weights = {"reconstruction": 1.0, "sparsity": settings.sparsity, "kl": settings.kl_weight}
        self.weights["l1"] = settings.l1 / unit

    def draw(self) -> list[Float[Tensor, "batch d"]]:
        """The batches of activations of one step."""
        count, size = self.settings.token_steps, self.settings.token_batch
        tokens = self.texts.tokens
        indices = [torch.randint(len(tokens), (size,), generator=self.generator) for _ in range(count)]
        return [tokens[index] for index in indices]

    def epoch(self, train: Tensor, epoch: int) -> dict[str, float]:
        """One step on all terms per batch of questions, in random order; the means of the terms in these."""
        steps = []
        chunks = train[torch.randperm(len(train), generator=self.generator)].split(self.settings.batch)
        for chunk in chunks:
            *before, last = self.draw()
            where = f"joint training, epoch {epoch}, questions {chunk.tolist()}"
            for batch in before:
                self.step(self.coded(chunk, batch), where)
            log_probs = self.answers.log_probs(self.delta, chunk)
            kl = mean_kl(self.shares[:, chunk].to(log_probs.device), log_probs)
            terms = {**self.coded(chunk, last), "kl": kl}
            self.step(terms, where)
            proximal_step(self.optimiser, self.delta, self.weights["l1"])
            steps.append([terms[name].item() for name in TERMS])
        return dict(zip(TERMS, np.mean(steps, axis=0), strict=True))

    def step(self, terms: dict[str, Float[Tensor, ""]], where: str) -> None:
        """One of Adam's, on the weighted sum of these terms; decoder rows keep norm 1."""
        loss = sum((self.weights[name] * term for name, term in terms.items()), start=torch.zeros(()))
        check_finite(loss, where)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        with torch.no_grad():
            self.delta.sae.W_dec.copy_(normalize(self.delta.sae.W_dec, dim=1))

    def coded(self, questions: Tensor, batch: Float[Tensor, "batch d"]) -> dict[str, Float[Tensor, ""]]:
        """Reconstruction and sparsity of a batch of activations and of the questions' last tokens."""
        written = self.answers.residual[self.answers.items(questions)]
        (values, output), (at_answers, answers) = (
            code_and_output(self.delta.sae, x, self.answers.lm.dtype) for x in (batch, written)
        )
        fvu = (reconstruction(batch, output), reconstruction(written, answers, self.spread))
        active = (values.sum(1).mean() / self.size, at_answers.sum(1).mean() / self.size)
        return {"reconstruction": torch.stack(fvu).mean(), "sparsity": torch.stack(active).mean()}

    def judge(self, questions: Tensor) -> dict[str, float]:
        """The terms on questions, and on activations that the SAE was not trained on."""
        kl = mean_kl(self.shares[:, questions], self.answers.predict(self.delta, questions)).item()
        fvu, active = judged_tokens(self.delta.sae, self.texts.held_out)
        return {"kl": kl, "reconstruction": fvu, "sparsity": active / self.size}


def spread_of(x: Float[Tensor, "token d"]) -> Float[Tensor, ""]:
    """mean |x - mean(x)|^2, in the units of the stream, squared."""
    return (x - x.mean(0)).pow(2).sum(1).mean()


def code_and_output(
    sae: SparseAutoencoder, x: Float[Tensor, "batch d"], dtype: torch.dtype = torch.float32
) -> tuple[Float[Tensor, "batch active"], Float[Tensor, "batch d"]]:
    """Active latents' values and decode(z), with gradients for the SAE."""
    code = trainable_code(sae, x, dtype)
    if sae.k is None:
        return code.values, sae.decode_sparse(code)
    x_hat = SparseDecode.apply(*code, sae.W_dec) + sae.b_dec
    return code.values.to(x.device), x_hat.to(x.device)


def trainable_code(
    sae: SparseAutoencoder, x: Float[Tensor, "batch d"], dtype: torch.dtype = torch.float32
) -> SparseCode:
    """Active latents with gradients for the SAE; those of a top-k SAE as in `train_sae`.

    Its encoder product runs in `dtype`, and has no gradient for x - b_dec; that of b_dec comes with the bias.
    """
    if sae.k is None:
        return sae.encode_sparse(x)
    rows, centre = sae.W_enc.T, sae.b_dec.detach()
    bias = sae.b_enc - rows.detach() @ (sae.b_dec - centre)  # b_enc, with a gradient for b_dec
    return SparseCode(*TopKEncode.apply(x.to(rows.device) - centre, rows, bias, sae.k, dtype))


@torch.no_grad()
def judged_tokens(sae: SparseAutoencoder, x: Float[Tensor, "token d"]) -> tuple[float, float]:
    """Unexplained variance and mean |z|_1 of activations that the SAE was not trained on."""
    coded = [code_and_output(sae, part) for part in x.split(4096)]
    x_hat = torch.cat([output for _, output in coded])
    return reconstruction(x, x_hat).item(), torch.cat([values.sum(1) for values, _ in coded]).mean().item()


def _row(
    epoch: int, sums: dict[str, float], held: dict[str, float], delta: GroupDelta, weight: float
) -> dict[str, float | int]:
    terms = {"epoch": epoch, "train_kl": sums["kl"], "validation_kl": held["kl"]}
    for name in ("reconstruction", "sparsity"):
        terms |= {name: sums[name], f"validation_{name}": held[name]}
    return {**terms, **fit_row(epoch, sums["kl"], held["kl"], delta, weight)}


def cross_fit_joint(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    survey: Survey,
    splits: Sequence[Split],
    texts: Activations,
    starts: Sequence[GroupDelta],
    settings: JointSettings,
) -> HeldOut:
    """Held-out answers of joint training: every split has its own copy of the SAE, and its own start of Delta."""

    def fit(split: Split, start: GroupDelta) -> tuple[GroupDelta, pd.DataFrame]:
        return fit_joint(answers, copy.deepcopy(sae), survey, texts, split, start, settings)

    return held_out(answers, splits, fit, starts)


class Variant(NamedTuple):
    """One way of joint training, fitted on the training questions of one split."""

    offset: GroupDelta
    history: pd.DataFrame
    test_kl: float  # nats, on the split's test questions


def joint_variants(
    answers: AnswerPath,
    survey: Survey,
    split: Split,
    texts: Activations,
    start: GroupDelta,
    settings: JointSettings,
    scratch_steps: int,
) -> dict[str, Variant]:
    """One split fitted with the SAE's error dropped, and from an untrained SAE of the same size (`scratch_steps` token
    batches to each batch of questions), error kept and dropped. `start` is the split's fit of Delta_shared."""
    sae, shares = start.sae, torch.from_numpy(survey.shares).float()[:, split.test]
    blank = untrained_sae(texts.tokens, sae.width, sae.k, 0, sae.metadata).requires_grad_(False)
    blank_start, _ = fit_frozen(answers, blank, survey, split, settings, stages=("shared",))
    scratch = replace(settings, token_steps=scratch_steps, sae_lr=SCRATCH_LR)
    variants = {}
    for name, given, chosen, keep in [
        ("trained SAE, e dropped", start, settings, False),
        ("from scratch, e kept", blank_start, scratch, True),
        ("from scratch, e dropped", blank_start, scratch, False),
    ]:
        own, chosen = copy.deepcopy(given.sae), replace(chosen, keep_error=keep)
        delta, history = fit_joint(answers, own, survey, texts, split, given, chosen)
        log_probs = answers.predict(delta, torch.from_numpy(split.test))
        variants[name] = Variant(delta, history, mean_kl(shares, log_probs).item())
    return variants


def scratch_alone(
    texts: Activations, sae: SparseAutoencoder, split: Split, settings: JointSettings, scratch_steps: int
) -> SparseAutoencoder | None:
    """What joint training from scratch is measured against: an untrained SAE of the same size that gets as many token
    batches as in `joint_variants`, and no offset. None for one without k, which `train_sae` does not train."""
    if sae.k is None:
        return None
    steps = settings.epochs * math.ceil(len(split.train) / settings.batch) * scratch_steps
    asked = {"steps": steps, "batch": settings.token_batch, "lr": SCRATCH_LR, "seed": settings.seed}
    return train_sae(texts.tokens, sae.width, sae.k, metadata=sae.metadata, **asked)[0]


def joint_table(
    answers: AnswerPath,
    survey: Survey,
    split: Split,
    texts: Sequence[str],
    frozen: Answers,
    joint: HeldOut,
    variants: dict[str, Variant],
    saes: dict[str, SparseAutoencoder | None],
) -> pd.DataFrame:
    """The first split's test KL and the quality of the SAE on held-out text, for the frozen fit and every way of joint
    training. `frozen` holds the held-out log p of 'unsteered' and 'delta' from chapter 04; `saes` are that of the
    frozen fit ('given') and that of `scratch_alone`, which has no offset and so no KL ('alone').
    """
    lm, shares = answers.lm, torch.from_numpy(survey.shares).float()[:, split.test]

    def test_kl(log_probs: Float[np.ndarray, "_ question option"]) -> float:
        return mean_kl(shares, torch.from_numpy(log_probs[:, split.test])).item()

    rows = {
        "unsteered": (test_kl(frozen["unsteered"]), None),
        "Δ only, SAE as it was": (test_kl(frozen["delta"]), saes["given"]),
        "trained SAE, e kept": (test_kl(joint.log_probs), joint.offsets[0].sae),
        **{name: (variant.test_kl, variant.offset.sae) for name, variant in variants.items()},
        **({} if saes["alone"] is None else {"from scratch, reconstruction alone": (np.nan, saes["alone"])}),
    }
    table, plain = [], plain_text(lm, texts, answers.hook_layer)
    for name, (kl, own) in rows.items():
        quality = {} if own is None else sae_quality(lm, own, texts, answers.hook_layer, answers.residual, plain)
        kept = {key: quality.get(key, np.nan) for key in ("fvu", "fvu_at_answers", "dead_fraction", "ce_recovered")}
        table.append({"training": name, "test_kl": kl, "n_questions": len(split.test), **kept})
    return pd.DataFrame(table).set_index("training")
