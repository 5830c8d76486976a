"""A map of groups in two dimensions by how their gaps differ, and a method's groups laid over it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from opinion_sae.score.gaps import actual_gaps, predicted_gaps
from opinion_sae.score.toplines import from_toplines
from opinion_sae.survey import Survey

Gaps = Float[np.ndarray, "group question"]


def squared_distances(one: Gaps, other: Gaps) -> Float[np.ndarray, "group other"]:
    """d^2 = mean over questions of (gap - other gap)^2, over those that have both; NaN where there are none."""
    both = (~np.isnan(one)).astype(float) @ (~np.isnan(other)).astype(float).T
    a, b = np.nan_to_num(one), np.nan_to_num(other)
    there, here = (~np.isnan(other)).astype(float), (~np.isnan(one)).astype(float)
    total = a**2 @ there.T + here @ (b**2).T - 2 * a @ b.T
    return np.divide(np.maximum(total, 0), both, out=np.full(total.shape, np.nan), where=both > 0)


class GroupMap(NamedTuple):
    """People's groups in the plane. `stretch` and `centre` place further points; `explained` is the part of the sum of
    the positive eigenvalues that the two dimensions have."""

    points: Float[np.ndarray, "group 2"]
    stretch: Float[np.ndarray, "group 2"]
    centre: Float[np.ndarray, "group"]  # each group's squared distance from the middle
    explained: float


def group_map(squares: Float[np.ndarray, "group group"]) -> GroupMap:
    """Classical scaling (Torgerson 1952): X = V sqrt(Lambda), of B = -1/2 J D^2 J = V Lambda V^T, J = I - 11^T / n.

    The two largest eigenvalues are kept; a dimension points so that the group furthest out on it lies above 0.
    ValueError where two groups have no question in common.
    """
    if np.isnan(squares).any():
        raise ValueError("two groups have no ordinal question in common, so their distance is not known")
    count = len(squares)
    centring = np.eye(count) - 1 / count
    inner = -centring @ squares @ centring / 2
    values, vectors = np.linalg.eigh(inner)
    values, vectors = values[::-1], vectors[:, ::-1]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), range(count)])
    kept = np.where(values[:2] > 1e-12 * max(values[0], 1e-300), values[:2], 0.0)
    points = vectors[:, :2] * np.sqrt(kept)
    stretch = np.divide(points, kept, out=np.zeros_like(points), where=kept > 0)
    positive = values[values > 0].sum()
    return GroupMap(points, stretch, np.diag(inner), float(kept.sum() / positive) if positive > 0 else np.nan)


def laid_over(made: GroupMap, squares: Float[np.ndarray, "point group"]) -> Float[np.ndarray, "point 2"]:
    """Where further points lie whose squared distances from people's groups are known (Gower 1968):

        y = 1/2 Lambda^-1 X^T (diag(B) - d^2)

    the projection onto the plane, with no turning and no scaling to make it fit.
    """
    return (made.centre - squares) @ made.stretch / 2


def map_tables(
    survey: Survey,
    tables: Mapping[str, Float[np.ndarray, "_ question option"]],
    folds: Int[np.ndarray, "question"],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Points, and how near they are. Methods' gaps are those of the task *from toplines*.

    The first table has method ('people' first), group, x, y, in places; the second method, fold ('all' first),
    explained and distance: the mean over groups from people's point to the method's, on a map of that fold's questions.
    ValueError where two groups have no ordinal question in common.
    """
    people = actual_gaps(survey)[0]
    gaps = {name: predicted_gaps(survey, from_toplines(survey, table), "toplines") for name, table in tables.items()}
    points, near = [], []
    parts = {"all": np.ones(len(folds), bool)} | {str(fold): folds == fold for fold in np.unique(folds)}
    for fold, part in parts.items():
        squares = squared_distances(people[:, part], people[:, part])
        made = None if np.isnan(squares).any() else group_map(squares)
        for name, own in gaps.items():
            if made is None:
                near.append((name, fold, np.nan, np.nan))
                continue
            over = laid_over(made, squared_distances(own[:, part], people[:, part]))
            near.append((name, fold, made.explained, float(np.linalg.norm(over - made.points, axis=1).mean())))
            if fold == "all":
                points.append(_points(survey, name, over))
        if made is not None and fold == "all":
            points.insert(0, _points(survey, "people", made.points))
    columns = ["method", "fold", "explained", "distance"]
    if not points:
        raise ValueError(f"the survey {survey.name}: two groups have no ordinal question in common")
    return pd.concat(points, ignore_index=True), pd.DataFrame(near, columns=columns)


def _points(survey: Survey, name: str, points: Float[np.ndarray, "group 2"]) -> pd.DataFrame:
    return pd.DataFrame({"method": name, "group": survey.groups, "x": points[:, 0], "y": points[:, 1]})
