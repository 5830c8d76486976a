"""Intervals, p-values, Holm's correction and verdicts, by hand and by simulation."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opinion_sae.score.metrics import bootstrap_mean
from opinion_sae.score.statistics import COLUMNS, Claim, claims_table, holm, paired_effect
from opinion_sae.score.statistics import verdicts as claim_verdicts


def test_holm_by_hand():
    found = holm(np.array([0.01, 0.04, 0.03, np.nan, 0.005]))
    np.testing.assert_allclose(found, [0.03, 0.06, 0.06, np.nan, 0.02])
    np.testing.assert_allclose(holm(np.array([0.6, 0.7])), [1, 1])
    assert len(holm(np.array([]))) == 0 and np.isnan(holm(np.array([np.nan]))).all()


@given(st.lists(st.floats(0.0001, 1), min_size=1, max_size=30))
def test_holm_lies_between_p_and_bonferroni_and_keeps_the_order(p):
    p = np.array(p)
    found = holm(p)
    assert (found >= p).all() and (found <= np.minimum(1, len(p) * p) + 1e-12).all()
    assert (np.diff(found[np.argsort(p, kind="stable")]) >= 0).all()


def test_one_seed_gives_the_interval_of_the_metrics():
    values = np.random.default_rng(1).normal(0.1, 1, 60)
    clusters = np.repeat(np.arange(30), 2)
    found = paired_effect(values[None], clusters, replicates=500, seed=3)
    assert (found.low, found.high) == bootstrap_mean(values, clusters, 500, 3)
    assert found.effect == values.mean() and (found.n_questions, found.n_seeds) == (60, 1)


def test_p_is_that_of_a_normal_mean_and_of_the_margin():
    values = np.random.default_rng(0).normal(0, 1, 400)
    values += 0.1 - values.mean()  # two standard errors of 1/20
    values /= values.std() / 1.0
    far = paired_effect(values[None], np.arange(400), replicates=20000)
    assert far.p == pytest.approx(0.0455, abs=0.012)
    assert paired_effect(values[None], np.arange(400), margin=far.effect, replicates=200).p == 1
    assert paired_effect(values[None], np.arange(400), margin=1.0, replicates=200).p == 1 / 201


def test_p_is_uniform_when_there_is_no_difference():
    rng = np.random.default_rng(2)
    found = [paired_effect(rng.normal(0, 1, (1, 60)), np.arange(60), replicates=200, seed=i).p for i in range(300)]
    assert 0.02 < np.mean(np.array(found) < 0.05) < 0.10
    assert 0.4 < np.mean(found) < 0.6


def test_seeds_that_disagree_widen_the_interval():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, (1, 80))
    agree = np.repeat(noise, 5, 0)
    disagree = noise + np.array([-0.2, -0.1, 0, 0.1, 0.2])[:, None]
    narrow, wide = (paired_effect(x, np.arange(80)) for x in (agree, disagree))
    assert narrow.effect == pytest.approx(wide.effect) and wide.n_seeds == 5
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_missing_questions_and_too_few_clusters():
    values, clusters = np.array([[0.1, np.nan, 0.4, 0.2]]), np.arange(4)
    assert paired_effect(values, clusters) == paired_effect(values[:, [0, 2, 3]], np.arange(3))
    lonely = paired_effect(values, np.zeros(4, int))
    assert lonely.effect == pytest.approx(0.7 / 3) and np.isnan([lonely.low, lonely.high, lonely.p]).all()
    empty = paired_effect(np.full((2, 4), np.nan), clusters)
    assert np.isnan(empty.effect) and empty.n_questions == 0
    with pytest.raises(ValueError, match="some seeds"):
        paired_effect(np.array([[0.1, 0.2], [0.1, np.nan]]), np.arange(2))


@pytest.fixture
def people(tiny):
    questions = [tiny.question(f"q{i}") for i in range(40)]
    return tiny.survey(np.full((2, 40, 2), 0.5), questions, ("x", "y"))


def verdicts(people, effects, margin=0.0):
    """A claim on a method whose KL is the reference's plus a known effect per group and a little noise."""
    rng = np.random.default_rng(0)
    theirs = rng.uniform(0.1, 0.2, (2, 40))
    cells = {"ours": [theirs + np.array(effects)[:, None] + rng.normal(0, 0.01, (2, 40))], "theirs": [theirs]}
    table = claims_table(people, cells, [Claim("Ours.", "ours", "theirs", margin)], np.arange(40), 500)
    assert list(table) == COLUMNS and table["group"].tolist() == ["all", "x", "y"]
    return table["verdict"].tolist()


@pytest.mark.parametrize(
    ("effects", "margin", "expected"),
    [
        ((-0.1, -0.1), 0.0, ["supported", "supported", "supported"]),
        ((0.1, 0.1), 0.0, ["contradicted"] * 3),
        ((0.0, 0.0), 0.0, ["not supported"] * 3),
        ((-0.1, 0.05), 0.0, ["mixed", "supported", "contradicted"]),  # lower in all, but surely higher in one
        ((-0.1, 0.2), 0.0, ["contradicted", "supported", "contradicted"]),  # higher in all, whatever one group says
        ((-0.1, 0.1), 0.0, ["mixed", "supported", "contradicted"]),  # neither in all, lower in one
        ((-0.1, 0.0), 0.0, ["supported", "supported", "not supported"]),
        ((0.1, 0.0), 0.0, ["contradicted", "contradicted", "not supported"]),
        ((0.001, 0.001), 0.02, ["supported"] * 3),  # no worse by more than the margin
        ((0.03, 0.03), 0.02, ["contradicted"] * 3),
        ((0.02, 0.02), 0.02, ["not supported"] * 3),
    ],
)
def test_verdict_by_effect_and_margin(people, effects, margin, expected):
    assert verdicts(people, effects, margin) == expected


@pytest.mark.parametrize(
    ("low", "high", "p_holm", "margin", "expected"),
    [
        (-0.02, -0.01, 0.01, 0.0, "supported"),
        (-0.02, -0.01, 0.06, 0.0, "not supported"),  # the interval alone is not enough
        (-0.02, 0.001, 0.01, 0.0, "not supported"),  # nor is p
        (-0.02, 0.001, 0.01, 0.005, "supported"),  # no worse by a margin
        (0.0048, 0.013, 0.014, 0.0, "contradicted"),
        (0.0048, 0.013, 0.014, 0.005, "not supported"),  # which side of the margin is open
        (0.006, 0.013, 0.014, 0.005, "contradicted"),
        (0.006, 0.013, 0.05, 0.005, "not supported"),  # alpha itself is not below alpha
        (np.nan, np.nan, np.nan, 0.0, "not supported"),  # too few questions
    ],
)
def test_each_verdict_by_hand(low, high, p_holm, margin, expected):
    row = {"method": "a", "reference": "b", "low": low, "high": high, "p_holm": p_holm, "margin": margin}
    assert claim_verdicts(pd.DataFrame([row | {"group": group} for group in ("all", "x")])) == [expected] * 2


def test_the_verdict_on_the_mean_by_those_of_its_groups():
    """Where the mean is not sure, one group that supports makes it mixed; one that contradicts does not."""
    sure, open_, against = (-0.02, -0.01), (-0.01, 0.01), (0.01, 0.02)

    def found(overall, *groups):
        rows = [(f"g{n}" if n else "all", *ends) for n, ends in enumerate((overall, *groups))]
        table = pd.DataFrame(rows, columns=["group", "low", "high"])
        return claim_verdicts(table.assign(method="a", reference="b", margin=0.0, p_holm=0.001))[0]

    assert found(sure, sure, open_) == "supported" and found(sure, sure, against) == "mixed"
    assert found(open_, sure, open_) == found(open_, sure, against) == "mixed"
    assert found(open_, open_, against) == found(open_, open_, open_) == "not supported"
    assert found(against, sure, against) == found(against, open_, against) == "contradicted"


def test_harm_on_new_topics_is_called_so():
    """The first edition's row: the groups' own part took the answers further away on topics it was not fitted to."""
    row = {"method": "delta-by-topic", "reference": "shared-delta-by-topic", "group": "all", "margin": 0.0}
    row |= {"effect": 0.0086, "low": 0.0048, "high": 0.0130, "p_holm": 0.013}
    helped = row | {"group": "Democrat", "effect": -0.004, "low": -0.006, "high": -0.002, "p_holm": 0.01}
    assert claim_verdicts(pd.DataFrame([row, helped])) == ["contradicted", "supported"]


def test_table_pairs_seeds_corrects_and_leaves_out_what_was_not_run(people):
    rng = np.random.default_rng(1)
    cells = {"a": [rng.uniform(0, 1, (2, 40)) for _ in range(3)], "b": [rng.uniform(0, 1, (2, 40))]}
    cells["c"] = [a + 0.1 for a in cells["a"]]
    claims = [Claim("One.", "a", "b"), Claim("Two.", "a", "c"), Claim("Three.", "a", "absent")]
    table = claims_table(people, cells, claims, np.arange(40), 300)
    assert table["claim"].unique().tolist() == ["One.", "Two."] and (table["n_seeds"] == 3).all()
    overall = table[table["group"] == "all"]
    np.testing.assert_allclose(overall["p_holm"], holm(overall["p"].to_numpy()))
    groups = table[(table["group"] != "all") & (table["claim"] == "One.")]
    np.testing.assert_allclose(groups["p_holm"], holm(groups["p"].to_numpy()))
    two = table[table["claim"] == "Two."]
    np.testing.assert_allclose(two["effect"], -0.1)
    by_hand = np.mean([a - cells["b"][0] for a in cells["a"]])
    assert overall["effect"].iloc[0] == pytest.approx(by_hand)


def test_seeds_that_do_not_pair_and_infinite_kl_are_refused(people):
    flat = np.zeros((2, 40))
    with pytest.raises(ValueError, match="a has 2 seeds and b 3"):
        claims_table(people, {"a": [flat] * 2, "b": [flat] * 3}, [Claim("One.", "a", "b")], np.arange(40))
    with pytest.raises(ValueError, match="'One.': a KL is infinite"):
        claims_table(people, {"a": [flat + np.inf], "b": [flat]}, [Claim("One.", "a", "b")], np.arange(40))
