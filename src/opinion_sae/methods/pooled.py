r"""Latents of a question pooled over its tokens, as plain features of a read-out (as in MOSAIC).

    direct-mean    f_qj = mean_t z_tj
    direct-max     f_qj = max_t z_tj
    direct-binary  f_qj = 1 if any z_tj > 0

over the tokens t of the question and its options, each less its mean over the training questions, in place of the
weighted bag of `direct`; the same ridge from features to groups (`kernel_ridge`). Nothing is steered.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from opinion_sae.methods.contract import Bench, Outcome
from opinion_sae.methods.from_features import dense
from opinion_sae.methods.kernel_ridge import DEGREES, kernel_ridge
from opinion_sae.sae.autoencoder import SparseAutoencoder

POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda z: z.mean(0),
    "max": lambda z: z.amax(0),
    "binary": lambda z: (z > 0).any(0).float(),
}


def pooled(pool: str) -> Callable[[Bench], Outcome]:
    """The read-out of one kind of pooling. KeyError for another."""
    over = POOLS[pool]

    def method(bench: Bench) -> Outcome:
        kept, survey = bench.answers.kept, bench.survey
        questions = kept.item // bench.answers.orders
        vectors = pool_latents(bench.sae, kept.stream, questions, len(survey.questions), over)
        table, _ = kernel_ridge(survey, bench.splits, {pool: dense(vectors)})
        return Outcome(table, parameters=len(survey.groups) * DEGREES * (bench.sae.width + 1))

    return method


@torch.no_grad()
def pool_latents(
    sae: SparseAutoencoder,
    stream: Float[Tensor, "token d"],
    question: Int[Tensor, "token"],
    questions: int,
    over: Callable[[Tensor], Tensor],
) -> Float[np.ndarray, "question latent"]:
    """Each question's latents over its tokens; 0 for one without any."""
    found = torch.zeros(questions, sae.width)
    for number in question.unique().tolist():
        found[number] = over(sae.encode(stream[question == number].float()))
    return found.double().numpy()
