"""Which chunks of a pool of text to go on training an SAE with: by words, by sentence embeddings, by influence."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import functional_call

from opinion_sae.sae.autoencoder import SparseAutoencoder

WORD = re.compile(r"[^\W_]+")


def words_of(text: str) -> list[str]:
    """Its words, in lower case."""
    return WORD.findall(text.lower())


def bm25(
    queries: Sequence[str], texts: Sequence[str], k1: float = 1.2, b: float = 0.75
) -> Float[np.ndarray, "query text"]:
    """Okapi BM25 (Robertson and Zaragoza 2009) of every text d for every query q.

        score(q, d) = sum over the words t of q of  idf_t n_td (k1 + 1) / (n_td + k1 (1 - b + b |d| / mean |d|))
        idf_t = log(1 + (N - N_t + 0.5) / (N_t + 0.5))

    n_td: how often t stands in d; N_t of the N texts hold it; |d|: words of d. A word that is twice in a query counts
    twice. ValueError without texts.
    """
    if not texts:
        raise ValueError("there are no texts to search")
    asked = [Counter(words_of(query)) for query in queries]
    number = {word: n for n, word in enumerate(sorted({word for query in asked for word in query}))}
    found, lengths = np.zeros((len(texts), len(number))), np.zeros(len(texts))
    for row, text in enumerate(texts):
        counts = Counter(words_of(text))
        lengths[row] = counts.total()
        for word in counts.keys() & number.keys():
            found[row, number[word]] = counts[word]
    holding = (found > 0).sum(0)
    idf = np.log1p((len(texts) - holding + 0.5) / (holding + 0.5))
    damped = k1 * (1 - b + b * lengths / max(lengths.mean(), 1e-12))
    weights = idf * found * (k1 + 1) / (found + np.maximum(damped, 1e-12)[:, None])
    wanted = np.zeros((len(queries), len(number)))
    for row, query in enumerate(asked):
        wanted[row, [number[word] for word in query]] = list(query.values())
    return wanted @ weights.T


def in_turn(scores: Float[np.ndarray, "query text"], count: int) -> Int[np.ndarray, "chosen"]:
    """The texts that the queries choose in turn: every query's best, then every query's second best, and so on, each
    text once; within a turn the higher score first. ValueError if there are fewer than `count`."""
    if not 0 < count <= scores.shape[1]:
        raise ValueError(f"{count} of {scores.shape[1]} texts cannot be chosen")
    order = np.argsort(-scores, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(scores.shape[1])[None], axis=1)
    best = rank.min(0)
    own = np.where(rank == best, scores, -np.inf).max(0)
    return np.lexsort((np.arange(len(best)), -own, best))[:count]


@torch.enable_grad()
def loss_gradient(sae: SparseAutoencoder, x: Float[Tensor, "token d"], batch: int = 1024) -> dict[str, Tensor]:
    """Gradient of the mean of |x - x_hat|^2 over tokens, by the name of the parameter."""
    weights = {name: part.detach().requires_grad_() for name, part in sae.named_parameters()}
    total = {name: torch.zeros_like(part) for name, part in weights.items()}
    for part in x.split(batch):
        error = part - functional_call(sae, weights, (part,))
        found = torch.autograd.grad(error.pow(2).sum() / len(x), list(weights.values()))
        for name, one in zip(weights, found, strict=True):
            total[name] += one
    return total


@torch.no_grad()
def tracin(
    sae: SparseAutoencoder, x: Float[Tensor, "token d"], towards: dict[str, Tensor], batch: int = 1024
) -> Float[Tensor, "token"]:
    """TracIn (Pruthi et al. 2020) of every token from one checkpoint: how much a step on it lowers the loss elsewhere.

        TracIn_i = grad l_i . g

    with l_i = |x_i - x_hat_i|^2 and g, `towards`, the gradient of the loss that is to go down (`loss_gradient`): the
    derivative of l_i as the weights W move along g,

        -2 (x - x_hat) . (sum_j (z'_j W_dec_j + z_j g_dec_j) + g_b_dec)
        z'_j = (x - b_dec) . g_enc_j - g_b_dec . W_enc_j + g_b_enc_j  where latent j fires, else 0

    so that nothing is kept per token. A chunk's is the mean of its tokens'.
    """
    g, found = towards, []
    for part in x.split(batch):
        z = sae.encode(part)
        centred = part - sae.b_dec if sae.subtract_b_dec else part
        moved = centred @ g["W_enc"] + g["b_enc"] - (g["b_dec"] @ sae.W_enc if sae.subtract_b_dec else 0.0)
        x_hat = (moved * (z > 0)) @ sae.W_dec + z @ g["W_dec"] + g["b_dec"]
        found.append(-2 * ((part - sae.decode(z)) * x_hat).sum(1))
    return torch.cat(found)


def mean_by(values: Float[Tensor, "token"], piece: Int[Tensor, "token"], pieces: int) -> Float[Tensor, "piece"]:
    """Mean over the tokens of each piece; -inf for one without any."""
    count = torch.bincount(piece, minlength=pieces)
    total = torch.zeros(pieces, dtype=values.dtype).index_add_(0, piece, values)
    return torch.where(count > 0, total / count.clamp_min(1), -torch.inf)
