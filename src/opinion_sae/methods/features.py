"""Features of questions: weighted bags of words or of latents, and dense vectors. No answer is ever looked at."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.survey import Question


def bag_weights(
    counts: Float[np.ndarray, "question feature"], train: Int[np.ndarray, "train"]
) -> Float[np.ndarray, "question feature"]:
    """r_qj = log(1 + count_qj) log(n / n_j), scaled to |r_q| = 1: n training questions, n_j of them with feature j.

    A feature that no training question has, or that all have, weighs nothing; a question with no other features is all
    zeros. The weighting is tf-idf with a logarithmic count (Salton and Buckley 1988), for words and latents alike.
    """
    if not len(train):
        raise ValueError("bag_weights: there is no training question to count features in")
    having = (counts[train] > 0).sum(0)
    rarity = np.log(len(train) / np.maximum(having, 1)) * (having > 0)
    bag = np.log1p(counts) * rarity
    length = np.linalg.norm(bag, axis=1, keepdims=True)
    return np.divide(bag, length, out=np.zeros_like(bag), where=length > 0)


def word_counts(questions: Sequence[Question], pairs: bool = True) -> Float[np.ndarray, "question word"]:
    """How often each word, and each pair of neighbouring words, stands in a question's text and options.

    Words are runs of letters and digits, case folded. Pairs do not cross from one option to the next.
    """
    terms = [
        [term for part in (question.text, *question.options) for term in _terms(part, pairs)] for question in questions
    ]
    column = {term: i for i, term in enumerate(sorted({term for row in terms for term in row}))}
    counts = np.zeros((len(questions), len(column)))
    for row, found in zip(counts, terms, strict=True):
        np.add.at(row, [column[term] for term in found], 1)
    return counts


def _terms(text: str, pairs: bool) -> list[str]:
    words = re.findall(r"[^\W_]+", text.casefold())
    return words + ([f"{a} {b}" for a, b in zip(words, words[1:], strict=False)] if pairs else [])


@torch.no_grad()
def latent_counts(
    sae: SparseAutoencoder,
    residual: Float[Tensor, "token d"],
    question: Int[Tensor, "token"],
    read: Bool[Tensor, "token"],
    strength: bool = False,
    batch: int = 4096,
) -> Float[np.ndarray, "question latent"]:
    """On how many of a question's tokens each latent fires; only tokens marked in `read` count.

    `residual` is the stream at the SAE's hook layer at every token, `question` the number of the question that the
    token belongs to. With `strength` a token counts by the latent's value there, in units of the mean value of whatever
    fires: a latent that hardly fires then says little.
    """
    counts, fired = torch.zeros(int(question.max()) + 1, sae.width), 0
    for part in torch.nonzero(read)[:, 0].split(batch):
        code = sae.encode_sparse(residual[part].float())
        at = question[part][:, None].expand_as(code.indices)
        weight = code.values if strength else (code.values > 0).float()
        counts.index_put_((at, code.indices), weight, accumulate=True)
        fired += int((code.values > 0).sum())
    return (counts.double() / (counts.double().sum() / max(fired, 1)) if strength else counts.double()).numpy()
