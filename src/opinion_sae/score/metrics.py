"""How close a model's answers are to a group's: KL, total variation, alignment; noise floor; bootstrap intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, SupportsFloat

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from opinion_sae.survey import Question, Survey

MEASURES = ("kl", "tv", "alignment")
ENDS = ("", "_low", "_high")  # of the names of columns: a measure, and its interval
TAILS = ((1 - 0.95) / 2, (1 + 0.95) / 2)  # quantiles of a 95 % interval


class Scores(NamedTuple):
    """One number per cell (group, question); NaN where the group did not answer or the measure does not apply."""

    kl: Float[np.ndarray, "group question"]  # nats, humans to model
    tv: Float[np.ndarray, "group question"]  # 0 to 1
    alignment: Float[np.ndarray, "group question"]  # 0 to 1, ordinal questions only


def kl(h: Float[np.ndarray, "*#cell option"], p: Float[np.ndarray, "*#cell option"]) -> Float[np.ndarray, "*#cell"]:
    """KL(h || p) = sum_o h_o log(h_o / p_o) in nats. An option with h_o = 0 adds nothing; inf if p_o = 0 < h_o."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = h * (np.log(h) - np.log(p))
    return np.asarray(np.where(h == 0, 0.0, terms).sum(-1))


def total_variation(
    h: Float[np.ndarray, "*#cell option"], p: Float[np.ndarray, "*#cell option"]
) -> Float[np.ndarray, "*#cell"]:
    """TV = 1/2 sum_o |h_o - p_o|."""
    return np.asarray(np.abs(h - p).sum(-1) / 2)


@lru_cache(maxsize=8)
def option_positions(questions: tuple[Question, ...], width: int) -> Float[np.ndarray, "question option"]:
    """Places of the options on each ordinal question's scale, from 0 to 1; NaN for questions without order.

    Options beyond a question's last get its last place, where they add no distance. Found once for these questions, and
    not to be written to.
    """
    places = np.full((len(questions), width), np.nan)
    for row, question in zip(places, questions, strict=True):
        if question.ordinal:
            steps = np.array(question.positions or range(len(question.options)), float)
            steps = (steps - steps.min()) / (steps.max() - steps.min())
            row[: len(steps)], row[len(steps) :] = steps, steps[-1]
    return places


def alignment(
    h: Float[np.ndarray, "*group question option"],
    p: Float[np.ndarray, "*group question option"],
    positions: Float[np.ndarray, "question option"],
) -> Float[np.ndarray, "*group question"]:
    """1 - WD(h, p) / (N - 1) of Santurkar et al. 2023: WD is the 1-Wasserstein distance over the options' positions.

    With positions scaled to 0..1 the division by N - 1 is done; WD = sum_o |H_o - P_o| (pos_{o+1} - pos_o), H and P the
    cumulative shares. NaN for questions whose options have no order.
    """
    order = positions.argsort(-1)  # a middle option may be listed last
    gaps = np.diff(np.take_along_axis(positions, order, -1), axis=-1)
    difference = np.take_along_axis(h - p, np.broadcast_to(order, h.shape), -1)
    return 1 - (np.abs(difference.cumsum(-1))[..., :-1] * gaps).sum(-1)


def score(survey: Survey, log_probs: Float[Any, "group question option"]) -> Scores:
    """All measures of a model's answers; `log_probs`, numpy's or a tensor, may have one group that stands for all."""
    table = log_probs if isinstance(log_probs, np.ndarray) else log_probs.detach().cpu().numpy()
    # in float64, where exp(-200) is not yet 0
    h, p = survey.shares, np.broadcast_to(np.exp(table.astype(float)), survey.shares.shape)
    positions = option_positions(survey.questions, h.shape[-1])
    return Scores(kl(h, p), total_variation(h, p), alignment(h, p, positions))


def noise_floor(survey: Survey, replicates: int = 200, seed: int = 0) -> Scores:
    """What a perfect model would still score: the mean over resamples of each group's respondents.

    Draws n_eff answers from the group's shares (a parametric bootstrap with Kish's effective sample size) and scores
    the shares themselves against the draw. No method can be expected to do better on answers of this many people.
    """
    return Scores(*np.mean(list(floor_draws(survey, replicates, seed)), axis=0))


def floor_draws(survey: Survey, replicates: int, seed: int) -> Iterator[Scores]:
    """The scores of each resample of `noise_floor`."""
    rng = np.random.default_rng(seed)
    shares, people = np.nan_to_num(survey.shares), np.maximum(1, np.round(survey.effective)).astype(int)
    positions = option_positions(survey.questions, shares.shape[-1])
    absent = survey.respondents == 0
    for _ in range(replicates):
        drawn = rng.multinomial(people, shares / np.maximum(shares.sum(-1, keepdims=True), 1e-12)) / people[..., None]
        found = kl(drawn, shares), total_variation(drawn, shares), alignment(drawn, shares, positions)
        yield Scores(*(np.where(absent, np.nan, cells) for cells in found))


def as_cells(name: str, value: SupportsFloat, low: SupportsFloat, high: SupportsFloat) -> dict[str, float]:
    """A measure and its interval as the cells of a row."""
    return dict(zip((f"{name}{end}" for end in ENDS), map(float, (value, low, high)), strict=True))


@lru_cache(maxsize=8)  # every method, group and measure of a table is drawn from the same few numbers of clusters
def cluster_draws(count: int, replicates: int, seed: int) -> Float[np.ndarray, "replicate cluster"]:
    """How often each of `count` clusters is drawn in each replicate, with replacement; not to be written to."""
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=replicates).astype(float)
    draws.setflags(write=False)
    return draws


def drawn_sums(
    rows: Float[np.ndarray, "row question"], clusters: Int[np.ndarray, "question"], replicates: int, seed: int
) -> list[Float[np.ndarray, "replicate"]]:
    """Sums of each row over the questions of the clusters drawn; none for fewer than two clusters, or no replicates."""
    _, cluster = np.unique(clusters, return_inverse=True)
    count = len(np.bincount(cluster))
    if count < 2 or not replicates:
        return []
    draws = cluster_draws(count, replicates, seed)
    return [draws @ np.bincount(cluster, weights=row) for row in rows]


def bootstrap_mean(
    values: Float[np.ndarray, "question"], clusters: Int[np.ndarray, "question"], replicates: int, seed: int
) -> tuple[float, float]:
    """Percentile interval of the mean when whole clusters of questions are drawn with replacement. NaN values are left
    out; with fewer than two clusters, or no replicates, there is no interval (NaN, NaN)."""
    keep = ~np.isnan(values)
    kept = values[keep]
    sums = drawn_sums(np.stack([kept, np.ones_like(kept)]), clusters[keep], replicates, seed)
    low, high = np.quantile(sums[0] / sums[1], TAILS) if sums else (np.nan, np.nan)
    return float(low), float(high)


def bootstrap_ratio(
    above: Float[np.ndarray, "question"],
    below: Float[np.ndarray, "question"],
    clusters: Int[np.ndarray, "question"],
    replicates: int,
    seed: int,
) -> tuple[float, float]:
    """As `bootstrap_mean`, of mean(above) / mean(below) over the same questions. (NaN, NaN) as well if the interval of
    mean(below) holds 0, where the ratio has no meaning."""
    keep = ~(np.isnan(above) | np.isnan(below))
    sums = drawn_sums(np.stack([above, below])[:, keep], clusters[keep], replicates, seed)
    least, most = np.quantile(sums[1], TAILS) if sums else (0.0, 0.0)
    if least <= 0 <= most:
        return float("nan"), float("nan")
    over, under = sums
    low, high = np.quantile(over[under != 0] / under[under != 0], TAILS)
    return float(low), float(high)


def by_group(survey: Survey, cells: Float[np.ndarray, "group question"]) -> dict[str, np.ndarray]:
    """Values per question for each group, and for 'all' the mean over groups."""
    answered = ~np.isnan(cells)
    total = np.where(answered, cells, 0).sum(0)
    mean = np.divide(total, answered.sum(0), out=np.full(len(total), np.nan), where=answered.any(0))
    return {"all": mean, **dict(zip(survey.groups, cells, strict=True))}


def mean(values: Float[np.ndarray, "question"]) -> float:
    """Mean of the values that are there; NaN if there are none."""
    return float(values[~np.isnan(values)].mean()) if (~np.isnan(values)).any() else float("nan")


def mean_over_groups(survey: Survey, cells: Float[np.ndarray, "group question"]) -> float:
    """The 'all' of every table: mean over questions of each question's mean over the groups that answered it."""
    return mean(by_group(survey, cells)["all"])


def alignment_table(
    survey: Survey,
    scores: dict[str, Scores],
    floor: Scores,
    clusters: Int[np.ndarray, "question"],
    split: str,
    replicates: int,
    seed: int,
) -> pd.DataFrame:
    """One row per method and group ('all' first): means, 95 % intervals over questions, and the gap closed.

    gap_closed = (unsteered - method) / (unsteered - floor) in KL; gap_low and gap_high are its interval, wide where a
    small sample makes the floor high, and NaN where the unsteered model does not surely lie above the floor.
    """
    rows = []
    floor_kl, unsteered_kl = by_group(survey, floor.kl), by_group(survey, scores["unsteered"].kl)
    for method, cells in scores.items():
        kls, tvs, alignments = (by_group(survey, values) for values in cells)
        for group in kls:
            kl_low, kl_high = bootstrap_mean(kls[group], clusters, replicates, seed)
            low, high = bootstrap_mean(alignments[group], clusters, replicates, seed)
            unsteered, room = mean(unsteered_kl[group]), unsteered_kl[group] - floor_kl[group]
            gap = bootstrap_ratio(unsteered_kl[group] - kls[group], room, clusters, replicates, seed)
            rows.append(
                {
                    "method": method,
                    "group": group,
                    "split": split,
                    "n_questions": int((~np.isnan(kls[group])).sum()),
                    "kl": mean(kls[group]),
                    "tv": mean(tvs[group]),
                    "alignment": mean(alignments[group]),
                    "kl_low": kl_low,
                    "kl_high": kl_high,
                    "alignment_low": low,
                    "alignment_high": high,
                    "gap_closed": (unsteered - mean(kls[group])) / (unsteered - mean(floor_kl[group])),
                    "gap_low": gap[0],
                    "gap_high": gap[1],
                }
            )
    return pd.DataFrame(rows)


def paired_kl(scores: dict[str, Scores], method: str, reference: str) -> Float[np.ndarray, "group question"]:
    """KL of `method` minus that of `reference`, cell by cell. ValueError where both are infinite: inf - inf is NaN,
    which would pass for a cell without answers."""
    ours, theirs = scores[method].kl, scores[reference].kl
    if (np.isinf(ours) & np.isinf(theirs)).any():
        raise ValueError(f"KL of {method!r} minus {reference!r}: both are infinite for some cell")
    return ours - theirs


def comparison_table(
    survey: Survey,
    scores: dict[str, Scores],
    pairs: Sequence[tuple[str, str]],
    clusters: Int[np.ndarray, "question"],
    replicates: int,
    seed: int,
) -> pd.DataFrame:
    """Paired differences in KL, `method` minus `reference`, per group: mean, 95 % interval over the same questions."""
    rows = []
    for method, reference in pairs:
        differences = by_group(survey, paired_kl(scores, method, reference))
        for group, values in differences.items():
            low, high = bootstrap_mean(values, clusters, replicates, seed)
            count = int((~np.isnan(values)).sum())
            rows.append((method, reference, group, mean(values), low, high, count))
    columns = ["method", "reference", "group", "kl_difference", "low", "high", "n_questions"]
    return pd.DataFrame(rows, columns=columns)


def floor_table(survey: Survey, floor: Scores, replicates: int = 200, seed: int = 0) -> pd.DataFrame:
    """The noise floor's means, a row per group, 'all' first.

    kl_low and kl_high: between them lies the group's mean KL in 95 % of the resamples of its respondents.
    """
    groups = ["all", *survey.groups]
    columns = {measure: by_group(survey, getattr(floor, measure)) for measure in MEASURES}
    table = {"group": groups, **{name: [mean(values[g]) for g in groups] for name, values in columns.items()}}
    drawn = [by_group(survey, one.kl) for one in floor_draws(survey, replicates, seed)]
    low, high = np.quantile([[mean(one[g]) for g in groups] for one in drawn], [0.025, 0.975], axis=0)
    return pd.DataFrame({**table, "kl_low": low, "kl_high": high})


def transfer_matrix(survey: Survey, log_probs: Float[np.ndarray, "group question option"]) -> pd.DataFrame:
    """KL of the column group's answers under the row group's offset, minus that under its own; mean over questions."""
    cells = kl(survey.shares[None], np.exp(log_probs.astype(float))[:, None])  # offset, group, question
    means = np.array([[mean(values) for values in row] for row in cells])
    return pd.DataFrame(means - np.diag(means), index=survey.groups, columns=survey.groups)
