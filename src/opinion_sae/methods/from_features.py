r"""Methods that only read the question: the same ridge on words, sentence embeddings, latents or the dense stream.

    r_q = log(1 + count_qj) log(n / n_j), scaled to length 1    words, direct: tokens on which latent j fires, or values
    r_q = x_q - mean over training questions of x               embedding, direct-dense (mean stream), direct-dense-last

and from there to answers by `kernel_ridge`. `features.py` has sources and what weighs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from opinion_sae.delta.held_out import Split
from opinion_sae.methods.features import bag_weights, word_counts
from opinion_sae.methods.kernel_ridge import Features, kernel_ridge, mean_square
from opinion_sae.methods.question_tokens import READ, QuestionTokens
from opinion_sae.methods.sentences import sentence_embeddings
from opinion_sae.progress import progress
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.survey import Survey

Candidates = Mapping[str, Features]


def bag(counts: Float[np.ndarray, "question feature"]) -> Features:
    """Counts of words or latents, weighted by `bag_weights`."""
    return partial(bag_weights, counts)


def dense(vectors: Float[np.ndarray, "question d"]) -> Features:
    """Vectors less the mean of the training questions' vectors."""
    return lambda train: vectors - vectors[train].mean(0)


def together(*parts: Features) -> Features:
    """Side by side, each scaled to the same mean square length, so that the kernel is the mean of their kernels."""

    def features(train: Int[np.ndarray, "train"]) -> Float[np.ndarray, "question feature"]:
        found = [part(train) for part in parts]
        return np.concatenate([x / np.sqrt(mean_square(x[train])) for x in found], 1)

    return features


def shuffled(features: Features, questions: int, seed: int) -> Features:
    """Every question with the features of another one, always the same: what is left if they say nothing of it."""
    order = np.random.default_rng(seed).permutation(questions)
    return lambda train: features(order[train])[order]


def word_candidates(survey: Survey) -> Candidates:
    """Words of the question with or without its options, and with or without pairs of words."""
    stems = [replace(question, options=()) for question in survey.questions]
    texts = {"question": stems, "question and options": survey.questions}
    return {
        f"{what} of {where}": bag(word_counts(asked, pairs))
        for where, asked in texts.items()
        for what, pairs in (("words", False), ("words and pairs", True))
    }


def text_candidates(survey: Survey) -> dict[str, Candidates]:
    """What needs no language model, by method."""
    return {"words": word_candidates(survey), "embedding": {"sentence": dense(sentence_embeddings(survey.questions))}}


def model_candidates(tokens: QuestionTokens, sae: SparseAutoencoder, seed: int) -> dict[str, Candidates]:
    """What the model makes of the questions, by method: latents as a bag ('direct'), those of another question
    ('direct-shuffled'), and the dense stream."""
    direct = {
        f"{unit} of {what}": bag(tokens.latents(sae, what, strength))
        for what in ("question", "question and options")
        for unit, strength in (("tokens", False), ("values", True))
    }
    count = len(tokens.last)
    return {
        "direct": direct,
        "direct-dense": {what: dense(tokens.mean(what)) for what in READ},
        "direct-dense-last": {"last token": dense(tokens.stream[tokens.last].double().numpy())},
        "direct-shuffled": {what: shuffled(features, count, seed) for what, features in direct.items()},
    }


def both(first: Candidates, second: Candidates) -> Candidates:
    """Every pair of two methods' features."""
    return {f"{a} + {b}": together(first[a], second[b]) for a in first for b in second}


def whole(candidates: Candidates) -> Candidates:
    """Those that read the question and its options."""
    return {name: candidates[name] for name in candidates if name.endswith(" of question and options")}


def words_and_direct(words: Candidates, direct: Candidates) -> Candidates:
    """'words+direct', what the model adds to words."""
    return both(whole(words), whole(direct))


def all_candidates(survey: Survey, tokens: QuestionTokens, sae: SparseAutoencoder, seed: int) -> dict[str, Candidates]:
    """Every method of this file."""
    methods = text_candidates(survey) | model_candidates(tokens, sae, seed)
    beside = {"embedding+direct": both(methods["embedding"], whole(methods["direct"]))}
    return methods | {"words+direct": words_and_direct(methods["words"], methods["direct"])} | beside


def with_latents(survey: Survey, tokens: QuestionTokens, sae: SparseAutoencoder, seed: int) -> dict[str, Candidates]:
    """Those that change with the SAE."""
    methods = model_candidates(tokens, sae, seed)
    found = {name: methods[name] for name in ("direct", "direct-shuffled")}
    return found | {"words+direct": words_and_direct(word_candidates(survey), methods["direct"])}


def read_only(
    survey: Survey, splits: Sequence[Split], methods: Mapping[str, Candidates]
) -> tuple[dict[str, Float[np.ndarray, "group question option"]], pd.DataFrame]:
    """Held-out log p of every method by `kernel_ridge`, and what each chose: a row per method and split."""
    tables, rows = {}, []
    for name, candidates in progress(list(methods.items()), "read-outs"):
        tables[name], choices = kernel_ridge(survey, splits, candidates)
        rows += [{"method": name, **choice._asdict()} for choice in choices]
    return tables, pd.DataFrame(rows)
