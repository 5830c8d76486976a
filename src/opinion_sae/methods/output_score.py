r"""Latents of a group that change the output, and not only fire for it (Arad, Mueller and Belinkov 2025).

    S_j  = | max_t P_j(t) (1 - rank_j(t) / |V|)  -  max_t P(t) (1 - rank(t) / |V|) |
    d_gj = mean z_j | told to be of g   -   mean over groups of the same
    x_g  = x + decode(max(z + s v_g, 0)) - decode(z),   v_gj = d_gj where, of g's largest, S_j is high

over the tokens t that latent j's decoder row raises most by the logit lens; P is the next token's distribution after a
neutral prompt, P_j the same with the latent amplified there. As published, a concept's latents are those that it fires,
and those of low output score are left out. Departures: a group is a concept told by its persona prompts (`personas.py`)
in place of texts; it takes all latents that are left, each by its difference, in place of one at a time; the quarter of
highest S is kept, as the published threshold of S would leave most groups none here; a latent is amplified to twice the
largest value it has on the survey's prompts; s, one for all groups, is chosen on validation from toplines.

`output-score-fitted` is no published method: the latents of the highest S, whatever they fire for, are all free, and
how much of each a group takes is fitted to its answers.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from opinion_sae.delta.held_out import Split
from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.methods.contract import STRENGTHS, Bench, Outcome, best_of, steered, trained
from opinion_sae.methods.tiers import most
from opinion_sae.model.answers import AnswerPath
from opinion_sae.model.prompts import Prompt, prompt_tokens
from opinion_sae.progress import progress

NEUTRAL = "In my experience,"
LARGEST = 256  # differences of a group that are looked at
KEPT = 64  # of these, those of the highest output score
LATENTS = 64  # of the highest output scores, that are fitted
TOKENS = 20  # that a latent raises most, by the logit lens
AMPLIFIED = 2.0  # times the largest value that the latent has on the survey's prompts


def output_score(bench: Bench) -> Outcome:
    """The group's latents of high output score at the differences of persona means, one strength for all groups."""
    survey, sae, scores = bench.survey, bench.sae, output_scores(bench)

    def fit(split: Split) -> GroupDelta:
        with torch.no_grad():
            z = sae.encode(bench.personas_of(split).flatten(0, 1)).unflatten(0, (len(survey.groups), -1)).mean(1)
        v, nothing = kept(z - z.mean(0), scores), GroupDelta(survey.groups, sae)
        return best_of(bench, split, [nothing.with_parts(deviation=s * v) for s in STRENGTHS])

    return steered(bench, fit, len(survey.groups) * min(KEPT, sae.width))


def kept(
    difference: Float[Tensor, "group m"], scores: Float[Tensor, "m"], largest: int = LARGEST, count: int = KEPT
) -> Float[Tensor, "group m"]:
    """Of each group's `largest` positive differences the `count` with the highest output scores; 0 elsewhere."""
    looked_at = most(difference.clamp_min(0), largest)
    score = torch.where(looked_at > 0, scores.to(difference), -torch.inf)
    chosen = torch.zeros_like(looked_at, dtype=torch.bool)
    chosen.scatter_(1, score.topk(min(count, score.shape[1])).indices, True)
    return looked_at * chosen


def output_score_fitted(bench: Bench) -> Outcome:
    """Offsets in the `LATENTS` latents of the highest output scores, fitted without an L1 term."""
    survey, sae, count = bench.survey, bench.sae, min(LATENTS, bench.sae.width)
    chosen = torch.zeros(len(survey.groups), sae.width, dtype=torch.bool)
    chosen[:, output_scores(bench).topk(count).indices] = True

    def fit(split: Split) -> GroupDelta:
        return trained(bench, split, GroupDelta(survey.groups, sae), chosen)

    return steered(bench, fit, len(survey.groups) * count)


@torch.no_grad()
def output_scores(bench: Bench, batch: int = 256) -> Float[Tensor, "latent"]:
    """S of every latent. One that never fires on the survey's prompts is amplified as the mean of those that do."""
    answers, sae, lm = bench.answers, bench.sae, bench.answers.lm
    tokens = prompt_tokens(lm.tokenizer, NEUTRAL)
    prompt = Prompt(0, (0, 1), tuple(tokens), tuple(tokens[:2]))
    neutral = AnswerPath(lm, answers.questions[:1], answers.hook_layer, 1, prompts=[prompt])
    item, x = torch.zeros(1, dtype=torch.long), neutral.residual
    largest = sae.encode(answers.residual).amax(0)
    amount = AMPLIFIED * torch.where(largest > 0, largest, largest[largest > 0].mean())
    plain = lm.logits(neutral.run_upper(item, x[:, None]))[0].softmax(-1)
    scores = []
    for some in progress(torch.arange(sae.width).split(batch), "output scores"):
        rows = sae.W_dec[some].detach().to(x)
        lens = lm.logits(rows[None])[0].topk(min(TOKENS, plain.shape[-1])).indices
        moved = lm.logits(neutral.run_upper(item, x[:, None] + amount[some, None] * rows))[0].softmax(-1)
        scores.append((ranked(moved, lens) - ranked(plain.expand_as(moved).contiguous(), lens)).abs())
    return torch.cat(scores)


def ranked(p: Float[Tensor, "row token"], chosen: Int[Tensor, "row chosen"]) -> Float[Tensor, "row"]:
    """max over the chosen tokens of P(t) (1 - rank(t) / |V|); the likeliest token has rank 0."""
    own = p.gather(-1, chosen)
    above = p.shape[-1] - torch.searchsorted(
        p.sort(-1).values, own.contiguous(), right=True
    )  # tokens that are likelier
    return (own * (1 - above / p.shape[-1])).amax(-1)
