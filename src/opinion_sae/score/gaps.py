"""Gaps between a group and everybody: of people, with their sampling noise; of a method; and what tells groups apart.

place(p) = sum_o p_o position_o, from 0 to 1 along the scale of an ordinal question; NaN for others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from opinion_sae.score.metrics import kl, option_positions
from opinion_sae.score.toplines import everyone, group_weights
from opinion_sae.survey import Survey

TASKS = ("alone", "toplines")
ROUNDING = 1e-12  # places, and KL in nats, that differ by less are equal


class Rest(NamedTuple):
    """All respondents of a question but those of a group: everybody = weight x group + (1 - weight) x rest."""

    weight: Float[np.ndarray, "group question"]  # the group's share of everybody, weighted
    shares: Float[np.ndarray, "group question option"]
    effective: Float[np.ndarray, "group question"]  # Kish's effective number of the rest


def rest(survey: Survey) -> Rest:
    """The rest from the weighted counts, everybody's minus the group's; its sum of squared weights likewise.

    Where a group has more answers than everybody, as in surveys that publish shares only, it cannot be part of them:
    weight 0, and everybody is another sample.
    """
    size, whole = survey.counts.sum(-1), survey.everyone.sum(-1)
    left = np.maximum(survey.everyone - survey.counts, 0.0)
    part = (survey.counts <= survey.everyone * (1 + 1e-6) + 1e-9).all(-1)
    remaining = left.sum(-1)
    squares = whole**2 / survey.everyone_effective - size**2 / np.maximum(survey.effective, 1e-9)
    by_weight = survey.everyone_effective * remaining / whole  # where rounding leaves no sum of squares
    some = np.maximum(remaining, 1e-300)
    kish = np.divide(remaining**2, squares, out=np.array(by_weight), where=squares > 1e-9 * whole)
    # nobody can be left, as for a question asked of women only: then whose shares these are does not matter
    apart = ~part | (remaining <= 1e-9 * whole)
    return Rest(
        np.where(part, size / whole, 0.0),
        np.where(apart[..., None], survey.everyone_shares, left / some[..., None]),
        np.where(apart, survey.everyone_effective, np.minimum(np.maximum(kish, 1.0), survey.everyone_effective)),
    )


def places(
    shares: Float[np.ndarray, "_ question option"], positions: Float[np.ndarray, "question option"]
) -> Float[np.ndarray, "_ question"]:
    """Mean position on the scale, 0 to 1; NaN where there is no scale or no answer."""
    return (shares * positions).sum(-1)


def actual_gaps(survey: Survey) -> tuple[Float[np.ndarray, "group question"], Float[np.ndarray, "group question"]]:
    """People's gaps a = place(h_g) - place(h_all), and the sampling variance v of each.

    The group is part of everybody with weight w, so a = (1 - w) (place(h_g) - place(h_rest)), and as the two are
    sampled apart, with w taken as known,

        v = (1 - w)^2 (s_g^2 / (n_g - 1) + s_rest^2 / (n_rest - 1))

    with s^2 the variance of the respondents' positions and n Kish's effective numbers (n - 1: the shares are those of
    the sample). Squared places; NaN where there is no scale or nobody answered.
    """
    positions = option_positions(survey.questions, survey.counts.shape[-1])
    others = rest(survey)
    gap = places(survey.shares, positions) - places(survey.everyone_shares[None], positions)

    def noise(shares: np.ndarray, effective: np.ndarray) -> np.ndarray:
        spread = places(shares, positions**2) - places(shares, positions) ** 2
        return np.maximum(spread, 0.0) / np.maximum(effective - 1, 1)

    of_rest = noise(others.shares, others.effective)
    return gap, (1 - others.weight) ** 2 * (noise(survey.shares, survey.effective) + of_rest)


def predicted_gaps(
    survey: Survey, log_probs: Float[np.ndarray, "_ question option"], task: str
) -> Float[np.ndarray, "group question"]:
    """A method's gaps: place(p_g) minus everybody's place.

    From toplines everybody's place is known: that of `everyone`. Alone it is the method's own, the mean of place(p_k)
    over all groups k with their `group_weights`, so that being off for everybody is no gap.
    """
    positions = option_positions(survey.questions, log_probs.shape[-1])
    place = np.broadcast_to(places(np.exp(log_probs.astype(float)), positions), survey.respondents.shape)
    if task == "toplines":
        whole = places(np.exp(everyone(survey)), positions)
    else:
        weights = group_weights(survey)[:, None] * ~np.isnan(place)
        total = weights.sum(0)
        whole = (weights * np.nan_to_num(place)).sum(0) / np.where(total > 0, total, np.nan)
    gap = place - whole
    return np.where(np.abs(gap) < ROUNDING, 0.0, gap)


def cell_kl(survey: Survey, log_probs: Float[np.ndarray, "_ question option"]) -> Float[np.ndarray, "group question"]:
    """KL(h_g || p_g) in nats; NaN where the group or the method did not answer."""
    return kl(survey.shares, np.broadcast_to(np.exp(log_probs.astype(float)), survey.shares.shape))


def toplines_kl(survey: Survey) -> float:
    """How far a group is from everybody: mean KL(h_g || h_all) over cells, nats."""
    return float(np.nanmean(cell_kl(survey, everyone(survey))))


def identified(
    survey: Survey, log_probs: Float[np.ndarray, "_ question option"]
) -> tuple[Float[np.ndarray, "group question"], Float[np.ndarray, "group question"]]:
    """Whether p_g is nearer to its own group's answers than to any other group k of the attribute, and by chance.

        1 if KL(h_g || p_g) < KL(h_k || p_g) for all k, else 0        chance 1 / (groups k with an answer, g among them)

    1 / m if m groups are equally near. NaN for both where no other group, or not g, answered. A method that says the
    same of all groups scores the chance level in the mean over an attribute's groups, whatever it says.
    """
    logs = np.broadcast_to(log_probs.astype(float), survey.shares.shape)
    said, attribute = ~np.isnan(logs).any(-1), np.array(survey.attributes)
    logs = np.maximum(np.nan_to_num(logs), -1e30)  # an impossible option: far, and 0 x it is 0
    found, chance = (np.full(survey.respondents.shape, np.nan) for _ in range(2))
    for name in dict.fromkeys(survey.attributes):
        members = np.flatnonzero(attribute == name)
        shares, answered = survey.shares[members], survey.respondents[members] > 0
        entropy = kl(np.nan_to_num(shares), np.ones(shares.shape[-1]))  # sum_o h log h
        cross = np.einsum("kqo,gqo->gkq", np.nan_to_num(shares), logs[members])
        distance = np.where(answered, entropy - cross, np.inf)
        near = distance <= distance.min(1, keepdims=True) + ROUNDING
        own = near[range(len(members)), range(len(members))] / near.sum(1)
        there = answered & said[members] & (answered.sum(0) > 1)
        found[members] = np.where(there, own, np.nan)
        chance[members] = np.where(there, 1 / np.maximum(answered.sum(0), 1), np.nan)
    return found, chance


def toplines_floor(survey: Survey, replicates: int = 200, seed: int = 0) -> Float[np.ndarray, "group question"]:
    """KL in nats that a perfect method would still have from toplines: the mean over resamples of the respondents.

    Draws the group's n_eff answers from h_g and the rest's from h_rest, everybody being both. A perfect method knows
    h_g / h_all as they are in the population and puts it on the drawn toplines: p* ∝ h_all* h_g / h_all, scored as
    KL(h_g* || p*). As the toplines hold the group's own people, this is about (1 - w) times the floor of the task
    alone, w being the group's share of everybody. NaN where nobody answered.
    """
    rng, others = np.random.default_rng(seed), rest(survey)
    shares, n_all = np.nan_to_num(survey.shares), survey.everyone_effective[:, None]
    weight, n_rest = others.weight[..., None], np.maximum(1, np.round(others.effective)).astype(int)
    people = np.maximum(1, np.round(survey.effective)).astype(int)
    # half a respondent for each option, as in `everyone`
    ratio = shares / ((weight * shares + (1 - weight) * others.shares) * n_all + 0.5)
    total = np.zeros(survey.respondents.shape)
    for _ in range(replicates):
        own = rng.multinomial(people, _adding_up(shares)) / people[..., None]
        known = weight * own + (1 - weight) * rng.multinomial(n_rest, _adding_up(others.shares)) / n_rest[..., None]
        perfect = (known * n_all + 0.5) * ratio
        perfect /= np.maximum(perfect.sum(-1, keepdims=True), 1e-300)
        total += kl(own, perfect)
    return np.where(survey.respondents == 0, np.nan, total / replicates)


def _adding_up(shares: Float[np.ndarray, "*cell option"]) -> Float[np.ndarray, "*cell option"]:
    """Shares that add up to 1 to the last digit; nobody's are put on the first option."""
    total = shares.sum(-1, keepdims=True)
    first = np.arange(shares.shape[-1]) == 0
    return np.where(total > 0, shares / np.maximum(total, 1e-300), first)
