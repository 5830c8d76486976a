"""Do groups lie on a line, do two attributes point the same way, and do two methods move answers alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from opinion_sae.score.gaps import actual_gaps
from opinion_sae.score.metrics import as_cells
from opinion_sae.score.statistics import holm, paired_effect
from opinion_sae.score.toplines import options_there
from opinion_sae.survey import Survey

ORDERED = ("age", "education", "income", "party", "ideology")  # attributes whose groups have an order, as listed
Points = Sequence[Float[np.ndarray, "group _"]]  # one array per fold; axes need not agree between folds


def straightness(points: Float[np.ndarray, "*draw step axis"]) -> Float[np.ndarray, "*draw"]:
    """Length of the way from the first point to the last over that of the path through all: 1 on a line and in order.

    0 where no point differs from the next.
    """
    path = np.linalg.norm(np.diff(points, axis=-2), axis=-1).sum(-1)
    way = np.linalg.norm(points[..., -1, :] - points[..., 0, :], axis=-1)
    return np.divide(way, path, out=np.zeros_like(path), where=path > 0)


def cosine(one: Float[np.ndarray, "*draw axis"], other: Float[np.ndarray, "*draw axis"]) -> Float[np.ndarray, "*draw"]:
    """0 where one of them has no length."""
    size = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return np.divide((one * other).sum(-1), size, out=np.zeros_like(size), where=size > 1e-12)


def poles(points: Float[np.ndarray, "*draw step axis"]) -> Float[np.ndarray, "*draw axis"]:
    """From the first group to the last."""
    return points[..., -1, :] - points[..., 0, :]


def relabelled(count: int, members: Int[np.ndarray, "member"], draws: int, seed: int) -> Int[np.ndarray, "draw member"]:
    """Row 0 are the members, each further row as many different ones of `count` groups, in any order."""
    rng = np.random.default_rng(seed)
    some = rng.permuted(np.tile(np.arange(count), (draws, 1)), axis=1)[:, : len(members)]
    return np.concatenate([members[None], some])


def geometry_table(survey: Survey, points: Mapping[str, Points], draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """`geometry.csv`: a row per question asked of the points ('codes', say) of the groups.

    statistic 'straightness': of an attribute's groups in their order. 'cosine': of the ways between the first and the
    last group of two attributes. value: mean over the folds' points, which low and high are the least and the largest
    of. p: the share of draws in which groups taken at random of all, in the attributes' place, have as large a mean,
    p_holm corrected over the rows of the same points; chance: what they have on average.
    """
    members = {
        name: np.array([g for g, attribute in enumerate(survey.attributes) if attribute == name])
        for name in ORDERED
        if survey.attributes.count(name) > 1
    }
    asked = [("straightness", (name,)) for name, own in members.items() if len(own) > 2]
    asked += [("cosine", pair) for pair in combinations(members, 2)]
    rows = []
    for of, folds in points.items():
        for statistic, names in asked:
            first, *second = (members[name] for name in names)
            drawn = relabelled(len(survey.groups), np.concatenate([first, *second]), draws, seed)
            values = np.stack([_statistic(one, drawn, len(first)) for one in folds])
            mean = values.mean(0)
            p = (1 + (mean[1:] >= mean[0] - 1e-12).sum()) / len(mean)
            ends = values[:, 0].min(), values[:, 0].max()
            rows.append((of, statistic, " and ".join(names), mean[0], *ends, mean[1:].mean(), p))
    table = pd.DataFrame(rows, columns="of statistic attributes value low high chance p".split())
    corrected = [holm(part.to_numpy()) for _, part in table.groupby("of", sort=False)["p"]]
    return table.assign(p_holm=np.concatenate(corrected) if corrected else [])


def _statistic(
    points: Float[np.ndarray, "group axis"], drawn: Int[np.ndarray, "draw member"], first: int
) -> Float[np.ndarray, "draw"]:
    taken = points[drawn]
    if drawn.shape[1] == first:
        return straightness(taken)
    return cosine(poles(taken[:, :first]), poles(taken[:, first:]))


def people_points(survey: Survey, folds: Int[np.ndarray, "question"]) -> list[Float[np.ndarray, "group _"]]:
    """People's gaps to everybody on each fold's questions, those with a scale that all groups answered."""
    gaps, known = actual_gaps(survey)[0], ~np.isnan(actual_gaps(survey)[0]).any(0)
    return [gaps[:, known & (folds == fold)] for fold in range(folds.max() + 1)]


def moved(
    survey: Survey,
    log_probs: Float[np.ndarray, "group question option"],
    before: Float[np.ndarray, "1 question option"],
) -> Float[np.ndarray, "group question option"]:
    """log p - log p before, less the mean over a question's options; 0 where there is no option."""
    there = options_there(survey)
    change = np.where(there, np.where(there, log_probs, 0.0) - np.where(there, before, 0.0), 0.0)
    return np.where(there, change - change.sum(-1, keepdims=True) / there.sum(-1)[:, None], 0.0)


def likeness_table(
    survey: Survey,
    one: Float[np.ndarray, "group question option"],
    other: Float[np.ndarray, "group question option"],
    clusters: Int[np.ndarray, "question"],
    replicates: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Cosine of what two methods do to the answers (`moved`), question by question: all groups first, then each.

    whole: of all that is done; own: of what is done to the group beyond the mean over groups, to which nothing that is
    the same for all groups contributes. Means over questions with intervals; 0 by chance. size_one, size_other: mean
    length of what is done, nats.
    """
    whole = cosine(one, other)
    own = cosine(one - one.mean(0), other - other.mean(0))
    lengths = [np.linalg.norm(part, axis=-1).mean(1) for part in (one, other)]
    rows = []
    for group, some in [("all", slice(None)), *((name, slice(g, g + 1)) for g, name in enumerate(survey.groups))]:
        row: dict[str, object] = {"group": group, "n_questions": whole.shape[1]}
        for name, cells in (("whole", whole), ("own", own)):
            found = paired_effect(cells[some].mean(0)[None], clusters, replicates=replicates, seed=seed)
            row |= as_cells(name, found.effect, found.low, found.high)
        rows.append(
            row | {f"size_{name}": part[some].mean() for name, part in zip(("one", "other"), lengths, strict=True)}
        )
    return pd.DataFrame(rows)
