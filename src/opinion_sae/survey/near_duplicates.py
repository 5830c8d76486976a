"""Which questions repeat one another, and folds that never part them.

A question that is asked twice in nearly the same words must not be learned from in one fold and
tested in another. Two questions are near-duplicates if

    S / (S + R) >= 1/2    S = Σ over words in both of 1 / (n_word - 1)    R = words in only one

where n_word is the number of questions with that word and common function words do not count. The
stem of a battery is in many questions, so it says little: the items of a battery stay apart as
long as their subjects differ, while two questions that alone share a sentence go together (the
items of a battery of three may, too: that costs a little evenness and no honesty). Our own rule;
on 493 questions of OpinionQA it joins 21 pairs, a triple and a quadruple. Different words for the
same thing ("welfare", "help for the poor") are beyond it: a survey names those in Question.cluster.
"""

from __future__ import annotations

import re

import numpy as np
from jaxtyping import Float, Int

from opinion_sae.survey.core import Survey

FUNCTION_WORDS = frozenset(
    """a an the of to in on for and or is are be was were do does did you your that this these
    those it its at by with as how much many what which would should could have has had if any
    not will they their there think thinking""".split()
)


def question_clusters(survey: Survey) -> Int[np.ndarray, "question"]:
    """A cluster number for every question; near-duplicates, and theirs in turn, share one.

    Numbers run from 0 in the order in which the clusters first occur.
    """
    close = _overlap([_words(q.text) for q in survey.questions]) >= 0.5
    for name in {(q.survey, q.cluster) for q in survey.questions if q.cluster}:
        members = [i for i, q in enumerate(survey.questions) if (q.survey, q.cluster) == name]
        close[np.ix_(members, members)] = True
    # each takes the smallest label among those close to it (itself included) until none changes
    label, before = np.arange(len(close)), None
    while before is None or (label != before).any():
        before, label = label, np.where(close, label, len(close)).min(1)
    return np.unique(label, return_inverse=True)[1].astype(np.int64)


def _words(text: str) -> frozenset[str]:
    words = frozenset(re.findall(r"[^\W_]+", text.casefold()))
    return words - FUNCTION_WORDS or words


def _overlap(questions: list[frozenset[str]]) -> Float[np.ndarray, "question question"]:
    """S / (S + R) of every pair; 1 for the same words, 0 for none in common."""
    column = {word: i for i, word in enumerate(sorted(frozenset().union(*questions)))}
    has = np.zeros((len(questions), len(column)))
    for row, words in enumerate(questions):
        has[row, [column[word] for word in words]] = 1
    in_both = has @ has.T
    length = has.sum(1)
    differing = length[:, None] + length[None, :] - 2 * in_both
    shared = (has / np.maximum(has.sum(0) - 1, 1)) @ has.T
    return np.divide(shared, shared + differing, out=np.ones_like(shared), where=shared + differing > 0)


def question_folds(survey: Survey, folds: int, seed: int) -> Int[np.ndarray, "question"]:
    """Assign every question to a fold, 0 to folds - 1, near-duplicates always to the same one.

    Within each topic of each survey clusters are dealt out at random, larger ones first, to the
    fold that has the fewest questions of that topic, then the fewest in all. ValueError unless
    2 <= folds <= number of clusters.
    """
    cluster = question_clusters(survey)
    n_clusters = cluster.max() + 1
    if not 2 <= folds <= n_clusters:
        raise ValueError(f"folds is {folds}; {n_clusters} clusters of questions allow 2 to {n_clusters}")
    rng = np.random.default_rng(seed)
    size = np.bincount(cluster)
    first = [int(np.argmax(cluster == c)) for c in range(n_clusters)]
    topics = [(survey.questions[q].survey, survey.questions[q].topic) for q in first]
    in_all = np.zeros(folds, dtype=int)
    fold_of = np.empty(n_clusters, dtype=np.int64)
    for topic in dict.fromkeys(topics):
        members = rng.permutation([c for c in range(n_clusters) if topics[c] == topic])
        in_topic = np.zeros(folds, dtype=int)
        for c in members[np.argsort(-size[members], kind="stable")]:
            # lexsort's last key counts most
            best = np.lexsort((rng.random(folds), in_all, in_topic))[0]
            fold_of[c] = best
            in_topic[best] += size[c]
            in_all[best] += size[c]
    return fold_of[cluster]
