r"""`gain-option-ends`: factors on the latents that are active where an option ends, a row of them for each group.

    x_t' = x_t + sum_j s_gj z_tj W_dec,j      at the last token t of every option; the factor is 1 + s_gj >= 0

Learned factors on what is active, after (IA)^3 (Liu et al. 2022), in latents in place of keys and values. They change
all that comes after the first option's end, so each group and question takes a pass through the layers above of its
own. That is afforded for the answers, which are exact, and not for every step of a fit, which is of first order:

    l_qo(s) ~ l_qo + sum_j (s - s_0)_j G_qoj,   G_qoj = sum_t z_tj W_dec,j . dl_qo / dx_t  at s_0

Gauss and Newton's way, in two steps: about s_0 = 0 one row for all groups, and about that row each group's own. How
hard both are pulled to s_0 is chosen on validation; how far is gone, by exact answers to some of its questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from opinion_sae.delta.held_out import Split, assemble
from opinion_sae.losses import mean_kl
from opinion_sae.methods.baselines import validation_kl
from opinion_sae.methods.contract import Bench, Outcome
from opinion_sae.methods.personas import spread
from opinion_sae.model.answers import NEVER, AnswerPath
from opinion_sae.model.whole_pass import Beginning
from opinion_sae.progress import progress
from opinion_sae.sae.autoencoder import SparseAutoencoder

PULLS = (1e-4, 1e-3, 1e-2, 1e-1)  # nats for a row of factors whose squares add up to 1
STEPS = 40  # of L-BFGS
FAR = (0.0, 0.5, 1.0)  # shares of the way that are tried
JUDGED = 6  # validation questions answered exactly to choose among them


class Ends:
    """A prompt above the hook layer, from the end of its first option on."""

    @torch.no_grad()
    def __init__(self, answers: AnswerPath, sae: SparseAutoencoder, item: int):
        prompt = answers.prompts[item]
        if not prompt.ends:
            raise ValueError("gain-option-ends: the tokenizer does not say where in the text an option ends")
        self.answers, self.item, self.sae = answers, item, sae
        self.start = min(prompt.ends)
        self.at = torch.tensor(prompt.ends) - self.start
        self.tail = answers.lm.residual(torch.tensor([prompt.tokens]), answers.hook_layer)[0, self.start :]
        self.values, self.latents = (part.cpu() for part in sae.encode_sparse(self.tail[self.at]))

    def rows(self) -> Float[Tensor, "end active d"]:
        """The decoder's, of what is active at each end."""
        W_dec = self.sae.W_dec.detach()
        return W_dec[self.latents.to(W_dec.device)].cpu()

    def change(self, s: Float[Tensor, "row m"]) -> Float[Tensor, "row end d"]:
        """x' - x where options end."""
        return torch.einsum("rea,ead->red", s[:, self.latents] * self.values, self.rows())

    def logits(self, change: Float[Tensor, "row end d"]) -> Float[Tensor, "row option"]:
        """Of the option letters, with x changed so much where options end."""
        lm, first = self.answers.lm, int(self.answers.starts[self.item])
        before = Beginning()
        for layer, kept in self.answers.keys_values.items():
            keys, values = kept[:, first : first + self.start].transpose(1, 2)[:, None]
            before.kept[layer] = keys, values
        at, change = self.at.to(self.tail.device), change.to(self.tail.device)
        tail = self.tail.expand(len(change), -1, -1).index_add(1, at, change)
        places = torch.arange(self.start + tail.shape[1], device=lm.device)
        positions = places[self.start :].expand(len(tail), -1)
        distance = positions[:, :, None] - places
        upper = range(self.answers.hook_layer + 1, len(lm.layers))
        hidden = lm.run_layers(tail, upper, positions, lm.attention_masks(distance >= 0, distance), before)
        letters = torch.tensor(self.answers.prompts[self.item].letters, device=lm.device)
        return lm.logits(hidden[:, -1], letters.expand(len(tail), -1)).cpu()

    def linear(self, s: Float[Tensor, "m"]) -> tuple[Float[Tensor, "option"], Float[Tensor, "option m"]]:
        """l and G at s: a row of the batch for each option, whose gradient is its own."""
        options = len(self.at)
        change = self.change(s.expand(options, -1)).requires_grad_()
        logits = self.logits(change)
        (slope,) = torch.autograd.grad(logits.diagonal().sum(), change)
        along = torch.einsum("oed,ead->oea", slope, self.rows()) * self.values
        G = torch.zeros(options, self.sae.width).index_add(1, self.latents.flatten(), along.flatten(1))
        return logits[0].detach(), G


class Linear(NamedTuple):
    """Logits l and slopes G of some prompts, and the answers to them; l is `NEVER` for an option that is not there."""

    logits: Float[Tensor, "item option"]
    G: Float[Tensor, "item option m"]
    shares: Float[Tensor, "group item option"]

    def log_probs(self, step: Float[Tensor, "row m"]) -> Float[Tensor, "row item option"]:
        return (self.logits + torch.einsum("iom,rm->rio", self.G, step)).log_softmax(-1)


class Prompts:
    """All prompts of a bench from their first option's end on."""

    def __init__(self, bench: Bench):
        self.answers, self.survey, count = bench.answers, bench.survey, len(bench.answers.prompts)
        self.ends = [Ends(bench.answers, bench.sae, item) for item in progress(range(count), "option ends")]

    def items(self, questions: Int[np.ndarray, "some"]) -> list[int]:
        return self.answers.items(torch.from_numpy(questions)).tolist()

    def linear(self, questions: Int[np.ndarray, "some"], s: Float[Tensor, "m"]) -> Linear:
        """The prompts of these questions to the first order about s."""
        items = self.items(questions)
        found = [self.ends[item].linear(s) for item in progress(items, "slopes")]
        options = max(len(logits) for logits, _ in found)
        logits, G = torch.full((len(found), options), NEVER), torch.zeros(len(found), options, len(s))
        for row, (at, slopes) in enumerate(found):
            logits[row, : len(at)], G[row, : len(at)] = at, slopes
        of = np.repeat(questions, self.answers.orders)
        return Linear(logits, G, torch.from_numpy(self.survey.shares[:, of, :options]).float())

    @torch.no_grad()
    def predict(
        self, questions: Int[np.ndarray, "some"], s: Float[Tensor, "row m"]
    ) -> Float[np.ndarray, "row question option"]:
        """Exact log p, mean over the orders of the options."""
        table = np.full((len(s), len(questions), self.survey.counts.shape[-1]), -np.inf, np.float32)
        for place, question in enumerate(progress(questions, "answers")):
            ends = [self.ends[item] for item in self.items(questions[place : place + 1])]
            by_order = torch.stack([one.logits(one.change(s)).log_softmax(-1) for one in ends])
            mean = by_order.logsumexp(0) - np.log(len(ends))
            table[:, place, : len(self.survey.questions[question].options)] = mean.numpy()
        return table


def gain_option_ends(bench: Bench) -> Outcome:
    """Rows of factors for each split, and its test questions answered by them."""
    prompts, survey = Prompts(bench), bench.survey
    nothing, questions = torch.zeros(bench.sae.width), np.arange(len(survey.questions))
    plain, parts, size = prompts.linear(questions, nothing), [], 0
    orders = bench.answers.orders
    for split in bench.splits:
        train, judged = (
            _rows(plain, np.repeat(np.isin(questions, part), orders)) for part in (split.train, split.validation)
        )
        shared = _gone(prompts, split, nothing[None], fitted(train, judged, 1))
        train, judged = (prompts.linear(part, shared[0]) for part in (split.train, split.validation))
        s = _gone(prompts, split, shared, fitted(train, judged, len(survey.groups)))
        parts.append(prompts.predict(split.test, s))
        size += int((s != 0).sum())
    log_probs = assemble(parts, bench.splits, len(questions))
    return Outcome(log_probs, parameters=round(size / len(bench.splits)))


def fitted(train: Linear, judged: Linear, rows: int) -> Float[Tensor, "row m"]:
    """The step from s_0, for each group or (one row) for all: mean KL(h_g || p) + pull x mean |step|^2 at its lowest,
    the pull with the lowest KL on the questions to judge by."""
    fires = train.G.flatten(0, 1).any(0)
    some = train._replace(G=train.G[..., fires])
    candidates = []
    for pull in PULLS:
        step = torch.zeros(rows, len(fires))
        step[:, fires] = _lowest(some, pull, rows)
        candidates.append((mean_kl(judged.shares, judged.log_probs(step)).item(), step))
    return min(candidates, key=lambda candidate: candidate[0])[1]


def _lowest(train: Linear, pull: float, rows: int) -> Float[Tensor, "row m"]:
    step = torch.zeros(rows, train.G.shape[-1], requires_grad=True)
    optimiser = torch.optim.LBFGS([step], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        found = mean_kl(train.shares, train.log_probs(step)) + pull * step.square().sum(1).mean()
        found.backward()
        return found

    optimiser.step(loss)
    return step.detach()


def _gone(
    prompts: Prompts, split: Split, start: Float[Tensor, "#row m"], step: Float[Tensor, "row m"]
) -> Float[Tensor, "row m"]:
    """start + share x step, the share by the exact KL on some validation questions; no factor is below 0."""
    judged = spread(split.validation, JUDGED)
    candidates: Sequence[Tensor] = [(start + share * step).clamp_min(-1.0) for share in FAR]
    costs = [validation_kl(prompts.survey, prompts.predict(judged, one), judged) for one in candidates]
    return candidates[int(np.argmin(costs))]


def _rows(whole: Linear, which: np.ndarray) -> Linear:
    chosen = torch.from_numpy(which)
    return Linear(whole.logits[chosen], whole.G[chosen], whole.shares[:, chosen])
