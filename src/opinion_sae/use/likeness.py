"""Was a text asked like a survey question? How its residual stream points, against the run's own questions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from opinion_sae.model.language_model import LanguageModel
from opinion_sae.model.prompts import prompt_tokens, question_text
from opinion_sae.survey import Question

RARE = 0.01  # of a survey's own questions that may be called unlike the rest


@torch.no_grad()
def directions(lm: LanguageModel, questions: Sequence[Question], hook_layer: int) -> Float[Tensor, "question d"]:
    """u = mean over tokens of x / |x|: the stream after the hook layer over a question and its lettered options.

    Read as plain text, without the prompt's template, whose tokens are the same for all. Scaled to |u| = 1.
    """
    found = []
    for question in questions:
        tokens = prompt_tokens(lm.tokenizer, question_text(question, range(len(question.options))))
        x = lm.residual(torch.tensor([tokens]), hook_layer)[0].float().cpu()
        found.append(normalize(normalize(x, dim=1).mean(0), dim=0))
    return torch.stack(found)


def unlikeness(
    u: Float[Tensor, "question d"], others: Float[Tensor, "d"] | Float[Tensor, "question d"]
) -> Float[Tensor, "question"]:
    """1 - cos(u, mean direction of the run's questions): from 0 to 2."""
    return 1 - cosine_similarity(u, others, dim=-1)


def threshold(u: Float[Tensor, "question d"], clusters: Int[np.ndarray, "question"]) -> float:
    """The `unlikeness` that at most one in a hundred of a run's questions exceed.

    Each is compared with the mean of the others, its near-duplicates left out as well. Not the largest, which one odd
    battery would set. ValueError for fewer than two clusters.
    """
    cluster = torch.from_numpy(np.unique(clusters, return_inverse=True)[1])
    if cluster.max() < 1:
        raise ValueError("there are no two different questions, so it is not known how they differ")
    of_cluster = torch.zeros(int(cluster.max()) + 1, u.shape[1]).index_add_(0, cluster, u)
    return float(torch.quantile(unlikeness(u, u.sum(0) - of_cluster[cluster]), 1 - RARE, interpolation="higher"))
