r"""`delta-reading-joint`: the SAE is trained along, so that its latents may move to where they tell groups apart.

    SAE = argmin L_reconstruction + beta KL(h_g || p_g) / KL(h_g || h_all),   then the reading Delta on that SAE

p_g: the direct read-out's answers from toplines, fitted to one half of the training questions and judged on the other.
The equation and its loss are ours.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from opinion_sae.delta.fit import BestEpoch, shrinking_steps
from opinion_sae.delta.held_out import Split
from opinion_sae.delta.joint import code_and_output, judged_tokens, spread_of, trainable_code
from opinion_sae.delta.offsets import Offset
from opinion_sae.delta.settings import JointSettings
from opinion_sae.losses import mean_kl, reconstruction
from opinion_sae.methods.kernel_ridge import DEGREES, Decomposed, KernelRidge, Settings, question_kernel
from opinion_sae.methods.place import observed_tilts, place_basis
from opinion_sae.methods.reading import Base, HeldOutReading, ReadingChoice, held_out_reading, items_of, reading
from opinion_sae.model.activations import Activations
from opinion_sae.model.answers import AnswerPath
from opinion_sae.model.reading import inverse_frequency, turned, weighted_bag
from opinion_sae.progress import progress
from opinion_sae.sae.autoencoder import SparseAutoencoder, SparseCode
from opinion_sae.sae.topk import SparseDecode
from opinion_sae.sae.train import check_finite
from opinion_sae.score.toplines import everyone
from opinion_sae.survey import Survey


class _Reading:
    """A split's questions as an SAE in training reads them, and the read-out that is fitted to what it finds."""

    def __init__(
        self, answers: AnswerPath, sae: SparseAutoencoder, survey: Survey, split: Split, choice: ReadingChoice
    ):
        self.answers, self.sae, self.split = answers, sae, split
        self.settings = Settings(choice.ridge, 0.5, choice.damping)
        self.basis = place_basis(survey.questions, DEGREES)
        self.has, self.tilts = self.basis.any(-1), observed_tilts(survey, self.basis, choice.damping)
        self.phi, self.known = torch.from_numpy(self.basis).float(), torch.from_numpy(everyone(survey)[0]).float()
        self.shares = torch.from_numpy(survey.shares).float()
        self.side = torch.tensor([turned(prompt) for prompt in answers.prompts])[:, None]
        self.tokens = answers.kept.tokens(choice.reads)
        self.read_spread, self.written_spread = spread_of(self.tokens.stream.float()), spread_of(answers.residual)
        order, prompts = self.tokens.item.argsort(stable=True), len(answers.prompts)
        self.of_item = order.split(torch.bincount(self.tokens.item, minlength=prompts).tolist())
        self.toplines = mean_kl(self.shares[:, split.train], self.known[None, split.train]).item()

    def stream(self, questions: Int[Tensor, "question"]) -> tuple[Tensor, Int[Tensor, "token"], Tensor]:
        """What is read of the questions: the stream, whose prompt a token is (counted from 0), its weight."""
        of_item = [self.of_item[item] for item in self.answers.items(questions).tolist()]
        where = torch.cat(of_item)
        row = torch.arange(len(of_item)).repeat_interleave(torch.tensor([len(part) for part in of_item]))
        return self.tokens.stream[where].float(), row, self.tokens.weight[where]

    def bag(
        self, code: SparseCode, row: Int[Tensor, "token"], weight: Float[Tensor, "token"], prompts: int
    ) -> Float[Tensor, "prompt m"]:
        """How many of a prompt's tokens each latent fires on, with the gradient as if a latent counted by how strongly
        it fires, in units of its mean (straight-through, as the count itself has none)."""
        fires = (code.values > 0).float()
        total, count = (
            torch.zeros(self.sae.width).index_add_(0, code.indices.flatten(), part.detach().flatten())
            for part in (code.values, fires)
        )
        strength = code.values / (total / count.clamp_min(1)).clamp_min(1e-12)[code.indices]
        counted = (fires + strength - strength.detach()) * weight[:, None]
        cells = (row[:, None] * self.sae.width + code.indices).flatten()
        return torch.zeros(prompts * self.sae.width).index_add(0, cells, counted.flatten()).unflatten(0, (prompts, -1))

    def features(self, counts: Float[Tensor, "prompt m"], idf: Float[Tensor, "m"], side: Tensor) -> Tensor:
        """r of questions, averaged over the orders of their options."""
        return (side * weighted_bag(counts, idf)).unflatten(0, (-1, self.answers.orders)).mean(1)

    @torch.no_grad()
    def all_counts(self) -> Float[Tensor, "prompt m"]:
        """Of every prompt, by the SAE as it is."""
        parts = []
        for questions in torch.arange(len(self.answers.questions)).split(64):
            x, row, weight = self.stream(questions)
            code = trainable_code(self.sae, x, self.answers.lm.dtype)
            parts.append(self.bag(code, row, weight, len(questions) * self.answers.orders))
        return torch.cat(parts)

    def read_out(
        self, counts: Float[Tensor, "prompt m"], train: Int[np.ndarray, "train"]
    ) -> tuple[KernelRidge, Tensor, Tensor]:
        """The direct read-out fitted to some questions, what they weigh latents with, and r of all questions."""
        idf = inverse_frequency(counts[items_of(train, self.answers.orders)])
        r = self.features(counts, idf, self.side)
        fitted = Decomposed(question_kernel(r.double().numpy(), train), train, self.has).fit(self.tilts, self.settings)
        return fitted, idf, r

    def kl(
        self, fitted: KernelRidge, coefficients: Tensor, r: Tensor, questions: Int[Tensor, "some"]
    ) -> Float[Tensor, ""]:
        """KL given the toplines of the read-out's answers, as a share of that of the toplines themselves."""
        tilts = torch.einsum("gbf,qf->gqb", coefficients, r) + torch.from_numpy(fitted.mean).float()[:, None]
        logits = self.known[questions] + torch.einsum("gqb,qbo->gqo", tilts, self.phi[questions])
        return mean_kl(self.shares[:, questions], logits.log_softmax(-1)) / self.toplines


def tune_sae(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    survey: Survey,
    split: Split,
    choice: ReadingChoice,
    texts: Activations,
    settings: JointSettings,
) -> tuple[SparseAutoencoder, pd.DataFrame]:
    r"""A copy of the SAE, trained on L_reconstruction + \beta KL(h_g || p_g) / KL(h_g || h_all) over one split.

    p_g are the direct read-out's answers from toplines, by what the SAE's latents say of the questions (`choice`: where
    it reads, and the ridge). In every epoch the training questions fall into two halves at random; the read-out is
    fitted to either and the SAE gets its gradient on the other, so that latents move to where they help with questions
    that the read-out has not seen. L_reconstruction is the fraction of variance unexplained, the mean over text, the
    tokens read and the tokens written.

    The epoch with the lowest sum of validation KL (times beta) and unexplained variance of held-out text is kept, the
    start included. History: a row per epoch; KL as a share of the toplines' own.
    """
    sae = copy.deepcopy(sae).requires_grad_(True)
    reader = _Reading(answers, sae, survey, split, choice)
    optimiser = torch.optim.Adam(sae.parameters(), lr=settings.sae_lr)
    best, settle = BestEpoch([*sae.parameters()], settings.patience), shrinking_steps(optimiser, settings.epochs)
    generator, rows = torch.Generator().manual_seed(settings.seed), []
    for epoch in progress(range(settings.epochs + 1), "SAE to read by"):
        trained = {"train_kl": np.nan, "reconstruction": np.nan}
        if epoch:
            settle(epoch)
            trained = _epoch(reader, optimiser, texts, settings, generator)
        with torch.no_grad():
            fitted, _, r = reader.read_out(reader.all_counts(), split.train)
            seen = torch.from_numpy(split.validation)
            held = reader.kl(fitted, coefficients(fitted, r), r[seen], seen).item()
            fvu, _ = judged_tokens(sae, texts.held_out)
        rows.append({"epoch": epoch, **trained, "validation_kl": held, "validation_reconstruction": fvu})
        if best.stop(settings.kl_weight * held + fvu):
            break
    best.restore()
    return sae.requires_grad_(False), pd.DataFrame(rows)


def coefficients(fitted: KernelRidge, r: Float[Tensor, "question m"]) -> Float[Tensor, "group degree m"]:
    """The read-out's weight of each latent, for the r that it was fitted to."""
    return torch.from_numpy(fitted.coefficients(r.double().numpy())).float()


def _epoch(
    reader: _Reading,
    optimiser: torch.optim.Optimizer,
    texts: Activations,
    settings: JointSettings,
    generator: torch.Generator,
) -> dict[str, float]:
    """Both halves once, a step per batch of questions; the means of the terms."""
    train = torch.from_numpy(reader.split.train)
    halves = train[torch.randperm(len(train), generator=generator)].chunk(2)
    steps = []
    for fit_to, rest in (halves, halves[::-1]):
        with torch.no_grad():
            fitted, idf, r = reader.read_out(reader.all_counts(), fit_to.sort().values.numpy())
            weights = coefficients(fitted, r)
        for questions in rest.split(settings.batch):
            text = torch.randint(len(texts.tokens), (settings.token_batch,), generator=generator)
            kl, fvu = _terms(reader, fitted, weights, idf, questions, texts.tokens[text])
            loss = fvu + settings.kl_weight * kl
            check_finite(loss, f"training the SAE to read by, questions {questions.tolist()}")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                reader.sae.W_dec.copy_(normalize(reader.sae.W_dec, dim=1))
            steps.append((kl.item(), fvu.item()))
    return dict(zip(("train_kl", "reconstruction"), np.mean(steps, axis=0), strict=True))


def _terms(
    reader: _Reading,
    fitted: KernelRidge,
    weights: Float[Tensor, "group degree m"],
    idf: Float[Tensor, "m"],
    questions: Int[Tensor, "some"],
    text: Float[Tensor, "token d"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """KL of some questions as a share of the toplines', and unexplained variance of text, tokens read and written."""
    sae, answers = reader.sae, reader.answers
    x, row, weight = reader.stream(questions)
    code = trainable_code(sae, x, answers.lm.dtype)
    items = answers.items(questions)
    r = reader.features(reader.bag(code, row, weight, len(items)), idf, reader.side[items])
    x_hat = sae.decode_sparse(code) if sae.k is None else SparseDecode.apply(*code, sae.W_dec) + sae.b_dec
    fvu = [reconstruction(x, x_hat, reader.read_spread)]
    for other, spread in ((text, None), (answers.residual[items], reader.written_spread)):
        fvu.append(reconstruction(other, code_and_output(sae, other, answers.lm.dtype)[1], spread))
    return reader.kl(fitted, weights, r, questions), torch.stack(fvu).mean()


def held_out_joint_reading(
    answers: AnswerPath,
    sae: SparseAutoencoder,
    survey: Survey,
    splits: Sequence[Split],
    texts: Activations,
    shared: Sequence[Offset],
    settings: JointSettings,
) -> tuple[HeldOutReading, pd.DataFrame]:
    """`delta-reading-joint`: as `delta-reading`, with an SAE per split that was trained along, and its history.

    What the question is read from is chosen with the SAE as it was, and x is moved by its shared part first.
    """
    read_outs, histories = [], []
    bases = [Base.of(answers, split, offset) for split, offset in zip(splits, shared, strict=True)]
    for base in bases:
        choice = reading(answers, sae, survey).choose(base.split, refit=False)[0]
        own, history = tune_sae(answers, sae, survey, base.split, choice, texts, settings)
        read_outs.append(reading(answers, own, survey))
        histories.append(history.assign(split=base.split.name))
    return held_out_reading(read_outs, bases, own_shared=False), pd.concat(histories, ignore_index=True)


def kept_epochs(history: pd.DataFrame, settings: JointSettings) -> pd.DataFrame:
    """Per split the epoch that `tune_sae` kept, and what its SAE had on validation at the start and then."""
    rows = []
    for split, part in history.groupby("split", sort=False):
        score = settings.kl_weight * part["validation_kl"] + part["validation_reconstruction"]
        first, kept = part.iloc[0], part.loc[score.idxmin()]
        row = {"split": split, "epoch kept": int(kept["epoch"])}
        for name, column in (("KL, share of toplines'", "validation_kl"), ("FVU", "validation_reconstruction")):
            row |= {f"{name}: start": first[column], f"{name}: kept": kept[column]}
        rows.append(row)
    return pd.DataFrame(rows).set_index("split")
