"""Measures of group differences: each by hand, what they must not depend on, and against simulated respondents."""

import dataclasses
import math

import numpy as np
import pytest

from opinion_sae.score.answers_table import answers_table
from opinion_sae.score.gap_effects import gap_effects
from opinion_sae.score.gap_replicates import interval, people, question_weights, replicates_of, seed_weights
from opinion_sae.score.gaps import actual_gaps, cell_kl, identified, predicted_gaps, rest, toplines_floor
from opinion_sae.score.gaps_table import COLUMNS, gaps_by_fold, gaps_table
from opinion_sae.score.metrics import bootstrap_mean, noise_floor
from opinion_sae.score.statistics import holm
from opinion_sae.score.toplines import everyone, from_toplines, group_weights

NAN = np.nan


def binary(tiny, places, **more):
    """A survey of yes-no questions, 100 people a cell, from the groups' shares of the second option."""
    second = np.array(places, float)
    questions = [tiny.question(f"q{i}", ("Yes", "No"), f"Is it {i}?") for i in range(second.shape[1])]
    return tiny.survey(np.stack([1 - second, second], -1), questions, **more)


def logs(places):
    second = np.array(places, float)
    return np.log(np.stack([1 - second, second], -1))


@pytest.fixture
def three(tiny):
    """Gaps of 0.2, 0 and -0.2 for the first group and the opposite for the second; everybody is in the middle."""
    return binary(tiny, [[0.7, 0.5, 0.3], [0.3, 0.5, 0.7]])


def simulated(tiny, questions=400, groups=4, size=(60, 400), width=4, seed=0):
    """Respondents drawn from known shares: the survey, and the true shares of groups and everybody."""
    rng = np.random.default_rng(seed)
    people = rng.integers(*size, groups)
    base = rng.normal(0, 0.7, (1, questions, width))
    slope = rng.normal(0, 0.12, (groups, questions, 1)) * np.linspace(-1, 1, width)
    truth = np.exp(base + slope)
    truth /= truth.sum(-1, keepdims=True)
    counts = rng.multinomial(people[:, None], truth)
    items = [tiny.question(f"q{i}", "abcdefgh"[:width], f"What of {i}?") for i in range(questions)]
    survey = tiny.survey(counts / people[:, None, None], items, [f"g{i}" for i in range(groups)], ["age"] * groups)
    cells = np.broadcast_to(people[:, None], (groups, questions))
    survey = dataclasses.replace(
        survey,
        counts=counts.astype(float),
        respondents=cells.astype(int),
        effective=cells.astype(float),
        everyone=counts.sum(0).astype(float),
        everyone_effective=np.full(questions, float(people.sum())),
    )
    return survey, truth, np.einsum("g,gqo->qo", people / people.sum(), truth)


def one_measure(survey, table, task="alone"):
    weights = np.ones((1, len(survey.questions)))
    return replicates_of(survey, people(survey), [table], task, weights, np.ones((1, 1)))


# from toplines


def test_from_toplines_by_hand(tiny):
    survey = binary(tiny, [[0.1], [0.5]])
    # everybody: 140 and 60 of 200, half a person added to each; p̄ = (0.4, 0.4)
    found = np.exp(from_toplines(survey, logs([[0.2], [0.8]])))
    first, second = np.array([140.5 * 2, 60.5 / 2]), np.array([140.5 / 2, 60.5 * 2])
    np.testing.assert_allclose(found[:, 0], [first / first.sum(), second / second.sum()])


def test_larger_groups_count_for_more_and_attributes_alike(tiny):
    survey = binary(tiny, [[0.1, 0.1]] * 4, groups=("a", "b", "c", "d"), attributes=("sex", "sex", "age", "age"))
    counts = survey.counts * np.array([3, 1, 1, 1])[:, None, None]
    counts[3, 0] = 0  # not asked: its numbers are those of the other question
    np.testing.assert_allclose(group_weights(dataclasses.replace(survey, counts=counts)), [3 / 8, 1 / 8, 1 / 4, 1 / 4])


def test_a_method_that_says_the_same_of_all_gives_the_toplines(two_groups):
    one = np.log(np.full((1, 3, 4), 0.25))
    assert np.array_equal(from_toplines(two_groups, one), everyone(two_groups))
    both = from_toplines(two_groups, np.repeat(one, 2, 0))
    np.testing.assert_allclose(both, np.repeat(everyone(two_groups), 2, 0), rtol=1e-12)
    found = gaps_table(two_groups, {"same": [np.repeat(one, 2, 0)]}, np.arange(3), 50)
    rows = found[(found["task"] == "toplines") & (found["method"] == "same")]
    np.testing.assert_allclose(rows[["group_kl_closed", "gap_r", "exaggeration"]], 0, atol=1e-12)
    top = found[found["method"] == "toplines"]
    assert (top[["group_kl_closed", "gap_r", "exaggeration"]] == 0).all().all()


def test_a_group_without_a_prediction_stays_out_and_one_without_answers_does_not(two_groups):
    rng = np.random.default_rng(0)
    table = np.log(rng.dirichlet(np.ones(4), (2, 3)))
    table[:, 0, 2:] = table[:, 2, 3:] = -np.inf
    whole = from_toplines(two_groups, table)
    assert np.isfinite(whole[1, 2, :3]).all()  # the second group did not answer the third question
    np.testing.assert_allclose(np.exp(whole).sum(-1), 1)
    assert np.isneginf(whole[:, 0, 2:]).all()
    table[1, 1] = NAN
    part = from_toplines(two_groups, table)
    assert np.isnan(part[1, 1]).all()
    np.testing.assert_allclose(part[0, 1], everyone(two_groups)[0, 1])  # alone it is its own mean
    np.testing.assert_array_equal(part[:, [0, 2]], whole[:, [0, 2]])


def test_an_option_that_is_impossible_for_some_groups_is_refused(two_groups):
    table = np.log(np.full((2, 3, 4), 0.25))
    table[:, 1, 3] = -np.inf  # for both: no difference, so the toplines
    np.testing.assert_allclose(from_toplines(two_groups, table)[:, 1], np.repeat(everyone(two_groups)[:, 1], 2, 0))
    table[0, 1, 3] = -1.0
    with pytest.raises(ValueError, match="question 'b', option 'Always': some groups have probability 0"):
        from_toplines(two_groups, table)


# gaps and their noise


def test_gaps_and_their_noise_by_hand(tiny):
    survey = binary(tiny, [[0.1, NAN], [0.5, 0.4]])
    gap, noise = actual_gaps(survey)
    np.testing.assert_allclose(gap, [[-0.2, NAN], [0.2, 0]], atol=1e-12)
    # half of everybody are the group's: (1/2)^2 (0.1 x 0.9 / 99 + 0.5 x 0.5 / 99); alone it is everybody, without noise
    each = 0.25 * (0.09 + 0.25) / 99
    np.testing.assert_allclose(noise, [[each, NAN], [each, 0]])
    np.testing.assert_allclose(rest(survey).effective[0, 0], 100)
    unordered = dataclasses.replace(survey.questions[0], ordinal=False)
    gap, noise = actual_gaps(dataclasses.replace(survey, questions=(unordered, survey.questions[1])))
    assert np.isnan(gap[:, 0]).all() and np.isnan(noise[:, 0]).all()


def test_a_group_that_cannot_be_part_of_everybody_is_another_sample(tiny):
    survey = binary(tiny, [[0.1], [0.5]])
    # as in surveys that publish shares: everybody has as many people as each group
    survey = dataclasses.replace(survey, everyone=survey.everyone / 2, everyone_effective=survey.everyone_effective / 2)
    np.testing.assert_array_equal(rest(survey).weight, 0)
    np.testing.assert_allclose(actual_gaps(survey)[1][0], (0.09 + 0.21) / 99)


def test_predicted_gaps_are_from_the_method_alone_and_from_the_toplines_if_known(three):
    table = logs([[0.9, 0.8, 0.8], [0.7, 0.8, 0.8]])
    np.testing.assert_allclose(predicted_gaps(three, table, "alone"), [[0.1, 0, 0], [-0.1, 0, 0]], atol=1e-12)
    known = np.exp(everyone(three))[0, :, 1]
    expected = np.array([[0.9, 0.8, 0.8], [0.7, 0.8, 0.8]]) - known
    np.testing.assert_allclose(predicted_gaps(three, table, "toplines"), expected)


def test_every_measure_by_hand(three):
    found = one_measure(three, logs([[0.6, 0.5, 0.5], [0.4, 0.5, 0.5]]))
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


def test_group_kl_closed_by_hand(three):
    table = logs([[0.6, 0.5, 0.5], [0.4, 0.5, 0.5]])
    found, known = one_measure(three, table, "toplines"), people(three)
    kl = cell_kl(three, from_toplines(three, table))
    # toplines are even, as is p̄ up to rounding to 1: question 0 is answered 0.6 and 0.4, the others evenly
    np.testing.assert_allclose(kl[:, 0], 0.7 * math.log(0.7 / 0.6) + 0.3 * math.log(0.3 / 0.4))
    half = 0.7 * math.log(1.4) + 0.3 * math.log(0.6)
    np.testing.assert_allclose(known.toplines, [[half, 0, half]] * 2, atol=1e-12)
    expected = (half - kl[:, 0]) / (2 * half - known.floor.sum(1))
    np.testing.assert_allclose(found.group_kl_closed[0, 1:], expected)


def test_identified_by_hand_with_ties_and_lonely_cells(tiny):
    survey = binary(
        tiny,
        [[0.1, 0.1, 0.1], [0.5, 0.1, NAN], [0.9, 0.9, NAN], [0.5, 0.5, 0.5]],
        groups=("a", "b", "c", "d"),
        attributes=("age",) * 3 + ("sex",),
    )
    found, chance = identified(survey, logs([[0.2, 0.1, 0.1], [0.2, 0.1, 0.1], [0.95, 0.6, 0.1], [0.5] * 3]))
    # b is told what a says; a and b answer the second question alike, so each is right by half; c is told 0.6, and
    # KL((0.1, 0.9) || (0.4, 0.6)) = 0.23 is the least; nobody else answered the third, and d has no other
    np.testing.assert_allclose(found, [[1, 0.5, NAN], [0, 0.5, NAN], [1, 1, NAN], [NAN] * 3])
    np.testing.assert_allclose(chance, [[1 / 3, 1 / 3, NAN]] * 3 + [[NAN] * 3])


def test_whatever_is_said_of_all_alike_identifies_by_chance(tiny):
    survey, *_ = simulated(tiny, questions=30)
    table = np.log(np.random.default_rng(3).dirichlet(np.ones(4), (1, 30)))
    found, chance = identified(survey, table)
    np.testing.assert_allclose(found.mean(), 1 / 4)
    np.testing.assert_allclose(chance, 1 / 4)


# against respondents drawn from known shares


def test_noise_correction_recovers_the_truth(tiny):
    survey, truth, whole = simulated(tiny)
    positions = np.linspace(0, 1, 4)
    true_gap = (truth - whole) @ positions
    gap, noise = actual_gaps(survey)
    # the sampling variance is that of the error made, within what 400 questions allow
    np.testing.assert_allclose(noise.mean(1), ((gap - true_gap) ** 2).mean(1), rtol=0.2)
    # a method that is half the tilt, with an error of its own
    rng = np.random.default_rng(1)
    half = np.log(whole) + 0.5 * np.log(truth / whole) + rng.normal(0, 0.03, (4, 400, 1)) * positions
    half -= np.log(np.exp(half).sum(-1, keepdims=True))
    found, m = one_measure(survey, half), predicted_gaps(survey, half, "alone")

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


def test_the_floor_is_what_a_perfect_method_scores(tiny):
    survey, truth, whole = simulated(tiny)
    perfect = everyone(survey) + np.log(truth / whole)
    perfect -= np.log(np.exp(perfect).sum(-1, keepdims=True))
    floor, scored = toplines_floor(survey, 50), cell_kl(survey, perfect)
    np.testing.assert_allclose(floor.mean(1), scored.mean(1), rtol=0.1)
    assert floor.mean() == pytest.approx(scored.mean(), rel=0.05)
    # three degrees of freedom, of which the toplines know the group's part: 3 / 2n (1 - w), against 3 / 2n alone
    n = survey.effective[:, 0]
    np.testing.assert_allclose(floor.mean(1), 1.5 / n * (1 - n / n.sum()), rtol=0.1)
    assert noise_floor(survey, 50).kl.mean() > 1.15 * floor.mean()
    assert np.isnan(toplines_floor(binary(tiny, [[0.1, NAN], [0.2, 0.3]]), 2))[0].tolist() == [False, True]


def test_p_is_fair_when_two_methods_are_equally_good(tiny):
    found = []
    for seed in range(40):
        survey, truth, _ = simulated(tiny, questions=40, groups=2, seed=seed)
        rng = np.random.default_rng(seed)
        ours, theirs = (np.log(truth) + rng.normal(0, 0.1, (2, 40, 1)) * np.linspace(-1, 1, 4) for _ in range(2))
        ours, theirs = (t - np.log(np.exp(t).sum(-1, keepdims=True)) for t in (ours, theirs))
        effects = gap_effects(survey, [ours], [theirs], np.arange(40), "alone", replicates=200)
        found.append(effects["gap_r"]["g0"].p)
    assert np.mean(np.array(found) < 0.05) < 0.16 and 0.35 < np.mean(found) < 0.65


# what the measures must not depend on


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
def test_neither_the_order_of_options_nor_of_groups_matters_nor_which_end_is_first(tiny, task):
    survey, truth, _ = simulated(tiny, questions=25)
    rng = np.random.default_rng(2)
    table = np.log(truth * rng.uniform(0.9, 1.1, truth.shape))
    table -= np.log(np.exp(table).sum(-1, keepdims=True))
    plain, order = one_measure(survey, table, task), (2, 0, 3, 1)
    turned = dataclasses.replace(
        survey, questions=tuple(dataclasses.replace(q, positions=(4.0, 3.0, 2.0, 1.0)) for q in survey.questions)
    )
    others = {
        "options": one_measure(reordered(survey, order), table[..., order], task),
        "ends": one_measure(turned, table, task),
        "groups": one_measure(survey.select(groups=[3, 1, 0, 2]), table[[3, 1, 0, 2]], task),
    }
    for what, other in others.items():
        back = [0, 3, 2, 4, 1] if what == "groups" else list(range(5))
        for name in MEASURED:
            drawn = name == "group_kl_closed"  # the floor is drawn, in the order in which cells and options stand
            tolerance = {"rtol": 0.08} if drawn else {"rtol": 1e-9}
            np.testing.assert_allclose(getattr(other, name)[:, back], getattr(plain, name), **tolerance, err_msg=what)


def test_what_is_said_of_everybody_does_not_matter_from_toplines(tiny):
    survey, truth, _ = simulated(tiny, questions=25)
    table = np.log(truth)
    off = table + np.random.default_rng(0).normal(0, 2, (1, 25, 4))
    off -= np.log(np.exp(off).sum(-1, keepdims=True))
    plain, other = (one_measure(survey, t, "toplines") for t in (table, off))
    for name in MEASURED:
        np.testing.assert_allclose(getattr(other, name), getattr(plain, name), rtol=1e-9)


# tables


def test_the_table_has_its_columns_and_rows_and_its_intervals_those_of_the_means(tiny):
    survey, truth, _ = simulated(tiny, questions=40)
    clusters = np.arange(40) // 2
    tables = {"truth": [np.log(truth).astype(np.float32)], "one-by-topic": [np.log(truth[:1])]}
    found = gaps_table(survey, tables, clusters, 300, 3, {"-by-topic": "topic"})
    assert list(found.columns) == COLUMNS
    assert found["method"].unique().tolist() == ["truth", "one-by-topic", "toplines"]
    assert len(found) == (2 + 3) * 5 and found["group"].head(5).tolist() == ["all", "g0", "g1", "g2", "g3"]
    assert (found["split"] == np.where(found["method"] == "one-by-topic", "topic", "question")).all()
    assert (found["n_questions"] == 40).all() and (found["n_seeds"] == 1).all()
    row = found.set_index(["task", "method", "group"]).loc[("alone", "truth", "g2")]
    cells = cell_kl(survey, tables["truth"][0])[2]
    assert row["kl"] == pytest.approx(cells.mean())
    np.testing.assert_allclose((row["kl_low"], row["kl_high"]), bootstrap_mean(cells, clusters, 300, 3))
    assert row["gap_r_low"] < row["gap_r"] < row["gap_r_high"] and row["gap_r_corrected"] > row["gap_r"]
    assert found.equals(gaps_table(survey, tables, clusters, 300, 3, {"-by-topic": "topic"}))
    again = gaps_table(survey, tables, clusters, 300, 4)
    assert not again["gap_r_low"].equals(found["gap_r_low"]) and again["gap_r"].equals(found["gap_r"])


def test_a_replicate_is_the_measure_of_the_questions_drawn(tiny):
    survey, truth, _ = simulated(tiny, questions=12)
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


def test_seeds_are_averaged_and_drawn(tiny):
    survey, truth, _ = simulated(tiny, questions=40)
    rng = np.random.default_rng(0)
    seeds = [np.log(truth) + rng.normal(0, 0.2, truth.shape) for _ in range(3)]
    seeds = [t - np.log(np.exp(t).sum(-1, keepdims=True)) for t in seeds]
    found = gaps_table(survey, {"m": seeds, "one": seeds[:1]}, np.arange(40), 400)
    each = [one_measure(survey, seed).gap_r[0, 0] for seed in seeds]
    row = found[(found["task"] == "alone") & (found["group"] == "all")].set_index("method")
    assert row.loc["m", "gap_r"] == pytest.approx(np.mean(each)) and row.loc["m", "n_seeds"] == 3
    drawn = seed_weights(3, 50, 0)
    np.testing.assert_allclose(drawn.sum(1), 1)
    assert len(np.unique(drawn[1:, 0])) > 2 and np.array_equal(drawn, seed_weights(3, 50, 0))
    fold = np.arange(40) % 2
    parts = gaps_by_fold(survey, {"m": seeds}, fold)
    of_seed = parts[(parts["task"] == "alone") & (parts["part"] == "seed")]
    np.testing.assert_allclose(of_seed["gap_r"], each)
    of_fold = parts[(parts["task"] == "alone") & (parts["part"] == "fold")]
    np.testing.assert_allclose(of_fold["kl"].mean(), of_seed["kl"].mean())
    m, a = predicted_gaps(survey, seeds[0], "alone")[:, fold == 1], actual_gaps(survey)[0][:, fold == 1]
    m, a = (x - x.mean(1, keepdims=True) for x in (m, a))
    alone = gaps_by_fold(survey, {"m": seeds[:1]}, fold)
    assert "seed" not in set(alone["part"])
    assert alone["gap_r"].iloc[1] == pytest.approx((m * a).sum() / math.sqrt((m * m).sum() * (a * a).sum()))


def test_where_there_is_nothing_to_go_by_there_is_no_number(tiny, three):
    table = logs([[0.6, 0.5, 0.5], [0.4, 0.5, 0.5]])
    one = gaps_table(three, {"m": [table]}, np.zeros(3, int), 50)
    assert one.filter(regex="_low|_high").isna().all().all() and one["kl"].notna().all()
    # gaps that vary less than their noise: no spread to compare with, and no reliability
    quiet = one_measure(binary(tiny, [[0.5, 0.51], [0.5, 0.5]]), logs([[0.6, 0.5], [0.4, 0.5]]))
    assert np.isnan(quiet.exaggeration).all() and np.isnan(quiet.reliability).all() and np.allclose(quiet.gap_r, -1)
    # and answers that do not differ: the toplines are no further off than the floor
    alike = one_measure(binary(tiny, [[0.5, 0.5], [0.5, 0.5]]), logs([[0.6, 0.5], [0.4, 0.5]]), "toplines")
    assert np.isnan(alike.group_kl_closed).all() and np.isnan(alike.gap_r).all()
    assert interval(np.array([NAN] * 10 + [1.0] * 90)) == pytest.approx((NAN, NAN), nan_ok=True)
    assert interval(np.array([NAN] + [1.0] * 99)) == (1, 1)


def test_cells_without_a_prediction_are_left_out(tiny):
    survey, truth, _ = simulated(tiny, questions=20)
    table = np.log(truth)
    table[1, :5] = NAN
    found = gaps_table(survey, {"m": [table]}, np.arange(20), 50).set_index(["task", "method", "group"])
    assert found.loc[("alone", "m", "g1"), "n_questions"] == 15
    assert found.loc[("alone", "m", "g1"), "kl"] == pytest.approx(cell_kl(survey, table)[1, 5:].mean())
    short = one_measure(survey.select(range(5, 20)), table[:, 5:])
    assert found.loc[("alone", "m", "g1"), "gap_r"] == pytest.approx(short.gap_r[0, 2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {"m": []}, "method 'm' has no table"),
        (lambda t: {"m": [t[[0, 1, 1]]]}, r"shape \(3, 3, 2\); \(2, 3, 2\) is needed"),
        (lambda t: {"m": [np.exp(t) + 1]}, "values above 0; log p is needed"),
        (lambda t: {"m": [np.where(t == t[0, 0, 0], -np.inf, t)]}, "option 'Yes' was chosen and has probability 0"),
        (lambda t: {"m": [t, np.full_like(t, NAN)]}, "under some seeds and none under others"),
    ],
)
def test_bad_tables_are_refused(three, change, message):
    table = logs([[0.6, 0.5, 0.5], [0.4, 0.5, 0.5]])
    with pytest.raises(ValueError, match=message):
        gaps_table(three, change(table), np.arange(3), 10)
    with pytest.raises(ValueError, match="task 'both': it is one of alone, toplines"):
        one_measure(three, table, "both")


# answers and comparisons


def test_answers_by_hand(two_groups):
    p = np.full((1, 3, 4), 0.25)
    q = p * np.array([0.5, 1.5, 1, 1])
    found = answers_table(two_groups, {"even": [np.log(p)], "two": [np.log(p), np.log(q)]})
    assert list(found.columns) == ["question", "option", "group", "people", "n_effective", "even", "two"]
    assert len(found) == 2 * 2 + 4 * 2 + 3  # nobody of the second group answered the last
    row = found.iloc[2]
    assert (row["question"], row["option"], row["group"]) == ("a", "No", "Female")
    assert row["people"] == pytest.approx(0.1) and row["n_effective"] == 100
    assert row["two"] == pytest.approx((0.25 + 0.375) / 2)
    np.testing.assert_allclose(found.groupby(["question", "group"])["people"].sum(), 1)
    with pytest.raises(ValueError, match="method 'people' has the name of another column"):
        answers_table(two_groups, {"people": [np.log(p)]})


def test_a_better_method_is_found_better_and_none_than_itself(tiny):
    survey, truth, _ = simulated(tiny, questions=80)
    rng = np.random.default_rng(0)

    def noisy(amount):
        table = np.log(truth) + rng.normal(0, amount, (4, 80, 1)) * np.linspace(-1, 1, 4)
        return table - np.log(np.exp(table).sum(-1, keepdims=True))

    good, bad = [noisy(0.03) for _ in range(2)], [noisy(0.3) for _ in range(2)]
    effects = gap_effects(survey, good, bad, np.arange(80), replicates=300)
    assert list(effects) == ["gap_r", "group_kl_closed", "kl"] and list(effects["kl"])[0] == "all"
    for name in ("gap_r", "group_kl_closed"):
        found = effects[name]["all"]
        assert 0 < found.low < found.effect < found.high and found.p == 1 / 301
        assert (found.n_questions, found.n_seeds) == (80, 2)
    assert effects["kl"]["all"].high < 0
    table = gaps_table(survey, {"good": good, "bad": bad}, np.arange(80), 300).set_index(["task", "method", "group"])
    for name in effects:
        difference = table.loc[("toplines", "good", "g1"), name] - table.loc[("toplines", "bad", "g1"), name]
        assert effects[name]["g1"].effect == pytest.approx(difference)
    same = gap_effects(survey, good, good, np.arange(80), replicates=50)["gap_r"]["all"]
    assert same.effect == same.low == same.high == 0 and same.p == 1
    assert np.isfinite(holm(np.array([effects["gap_r"][g].p for g in survey.groups]))).all()
    against = gap_effects(survey, good, [everyone(survey)], np.arange(80), replicates=50)["group_kl_closed"]["all"]
    assert against.effect == pytest.approx(table.loc[("toplines", "good", "all"), "group_kl_closed"])
    with pytest.raises(ValueError, match="2 seeds and 3"):
        gap_effects(survey, good, [*bad, bad[0]], np.arange(80), replicates=5)
    few = gap_effects(survey, good, bad, np.zeros(80, int), replicates=5)["gap_r"]["all"]
    assert np.isnan(few.p) and few.effect == effects["gap_r"]["all"].effect
