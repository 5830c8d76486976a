"""Every measure by hand, what it must not depend on, and the noise corrections against respondents of known shares."""

import dataclasses
import math

import numpy as np
import pytest

from opinion_sae.score.gap_replicates import people, question_weights, replicates_of
from opinion_sae.score.gaps import actual_gaps, cell_kl, predicted_gaps
from opinion_sae.score.toplines import from_toplines

NAN = np.nan


def test_every_measure_by_hand(made, three):
    found = made.one_measure(three, made.logs([[0.6, 0.5, 0.5], [0.4, 0.5, 0.5]]))
    # a = (0.2, 0, -0.2): S_aa = 0.08. m = (0.1, 0, 0): S_mm = 0.01 - 0.01 / 3, S_am = 0.02. The other group mirrors it.
    np.testing.assert_allclose(found.gap_r, [[0.02 / math.sqrt(0.08 * 0.02 / 3)] * 3])  # 0.866
    # noise of (0.21 + 0.21) / 4 / 99 twice and 0.5 / 4 / 99: N = 2 x mean
    noise = 2 * (0.42 + 0.5 + 0.42) / 4 / 99 / 3
    np.testing.assert_allclose(found.reliability, [[1 - noise / 0.08] * 3])
    np.testing.assert_allclose(found.exaggeration, [[math.sqrt(0.02 / 3 / (0.08 - noise))] * 3])
    first = 0.7 * math.log(0.7 / 0.6) + 0.3 * math.log(0.3 / 0.4)
    third = 0.7 * math.log(0.7 / 0.5) + 0.3 * math.log(0.3 / 0.5)
    np.testing.assert_allclose(found.kl, [[(first + third) / 3] * 3])
    assert np.isnan(found.group_kl_closed).all()
    # question 0: both right. 1: all are equally near, half each. 2: both answers are as far from an even split
    np.testing.assert_allclose(found.identified, [[(1 + 0.5 + 0.5) / 3] * 3])
    np.testing.assert_allclose(found.identified_chance, 0.5)


def test_group_kl_closed_by_hand(made, three):
    table = made.logs([[0.6, 0.5, 0.5], [0.4, 0.5, 0.5]])
    found, known = made.one_measure(three, table, "toplines"), people(three)
    kl = cell_kl(three, from_toplines(three, table))
    # toplines are even, as is p̄ up to rounding to 1: question 0 is answered 0.6 and 0.4, the others evenly
    np.testing.assert_allclose(kl[:, 0], 0.7 * math.log(0.7 / 0.6) + 0.3 * math.log(0.3 / 0.4))
    half = 0.7 * math.log(1.4) + 0.3 * math.log(0.6)
    np.testing.assert_allclose(known.toplines, [[half, 0, half]] * 2, atol=1e-12)
    expected = (half - kl[:, 0]) / (2 * half - known.floor.sum(1))
    np.testing.assert_allclose(found.group_kl_closed[0, 1:], expected)


def test_noise_correction_recovers_the_truth(made):
    survey, truth, whole = made.simulated()
    positions = np.linspace(0, 1, 4)
    true_gap = (truth - whole) @ positions
    gap, noise = actual_gaps(survey)
    # the sampling variance is that of the error made, within what 400 questions allow
    np.testing.assert_allclose(noise.mean(1), ((gap - true_gap) ** 2).mean(1), rtol=0.2)
    # a method that is half the tilt, with an error of its own
    rng = np.random.default_rng(1)
    half = np.log(whole) + 0.5 * np.log(truth / whole) + rng.normal(0, 0.03, (4, 400, 1)) * positions
    half -= np.log(np.exp(half).sum(-1, keepdims=True))
    found, m = made.one_measure(survey, half), predicted_gaps(survey, half, "alone")

    def pooled(a, b):
        a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
        return (a * b).sum()

    r = pooled(m, true_gap) / math.sqrt(pooled(m, m) * pooled(true_gap, true_gap))
    spread = math.sqrt(pooled(m, m) / pooled(true_gap, true_gap))
    raw = math.sqrt(pooled(m, m) / pooled(gap, gap))
    assert found.gap_r[0, 0] < 0.85 * r  # this much is lost to noise
    assert found.gap_r[0, 0] / math.sqrt(found.reliability[0, 0]) == pytest.approx(r, rel=0.03)
    assert raw < 0.85 * spread
    assert found.exaggeration[0, 0] == pytest.approx(spread, rel=0.05)


def reordered(survey, order):
    """The same survey with its options listed in another order, at their old places on the scale."""
    steps = tuple(float(i) for i in np.arange(len(order))[list(order)])
    questions = [
        dataclasses.replace(q, options=tuple(q.options[i] for i in order), positions=steps) for q in survey.questions
    ]
    counts, whole = survey.counts[..., list(order)], survey.everyone[..., list(order)]
    return dataclasses.replace(survey, questions=tuple(questions), counts=counts, everyone=whole)


MEASURED = ("kl", "group_kl_closed", "gap_r", "exaggeration", "reliability", "identified")


@pytest.mark.parametrize("task", ["alone", "toplines"])
def test_neither_the_order_of_options_nor_of_groups_matters_nor_which_end_is_first(made, task):
    survey, truth, _ = made.simulated(questions=25)
    rng = np.random.default_rng(2)
    table = np.log(truth * rng.uniform(0.9, 1.1, truth.shape))
    table -= np.log(np.exp(table).sum(-1, keepdims=True))
    plain, order = made.one_measure(survey, table, task), (2, 0, 3, 1)
    turned = dataclasses.replace(
        survey, questions=tuple(dataclasses.replace(q, positions=(4.0, 3.0, 2.0, 1.0)) for q in survey.questions)
    )
    others = {
        "options": made.one_measure(reordered(survey, order), table[..., order], task),
        "ends": made.one_measure(turned, table, task),
        "groups": made.one_measure(survey.select(groups=[3, 1, 0, 2]), table[[3, 1, 0, 2]], task),
    }
    for what, other in others.items():
        back = [0, 3, 2, 4, 1] if what == "groups" else list(range(5))
        for name in MEASURED:
            drawn = name == "group_kl_closed"  # the floor is drawn, in the order in which cells and options stand
            tolerance = {"rtol": 0.08} if drawn else {"rtol": 1e-9}
            np.testing.assert_allclose(getattr(other, name)[:, back], getattr(plain, name), **tolerance, err_msg=what)


def test_what_is_said_of_everybody_does_not_matter_from_toplines(made):
    survey, truth, _ = made.simulated(questions=25)
    table = np.log(truth)
    off = table + np.random.default_rng(0).normal(0, 2, (1, 25, 4))
    off -= np.log(np.exp(off).sum(-1, keepdims=True))
    plain, other = (made.one_measure(survey, t, "toplines") for t in (table, off))
    for name in MEASURED:
        np.testing.assert_allclose(getattr(other, name), getattr(plain, name), rtol=1e-9)


def test_a_replicate_is_the_measure_of_the_questions_drawn(made):
    survey, truth, _ = made.simulated(questions=12)
    clusters = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])
    weights = question_weights(clusters, 3, 0)
    assert (weights[0] == 1).all() and (weights[:, ::2] == weights[:, 1::2]).all() and (weights.sum(1) == 12).all()
    known, table = people(survey), np.log(truth)
    found = replicates_of(survey, known, [table], "alone", weights, np.ones((4, 1)))
    for row in range(4):
        drawn = np.repeat(np.arange(12), weights[row].astype(int))
        m, a = predicted_gaps(survey, table, "alone")[1, drawn], known.gap[1, drawn]
        assert found.gap_r[row, 2] == pytest.approx(np.corrcoef(m, a)[0, 1])
        clean = a.var(ddof=1) - known.noise[1, drawn].mean()
        expected = math.sqrt(m.var(ddof=1) / clean) if clean > 0 else NAN
        assert found.exaggeration[row, 2] == pytest.approx(expected, nan_ok=True)
