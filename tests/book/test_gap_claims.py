"""Claims on group differences: both measures, Holm over all rows, and sentences for every verdict."""

import numpy as np
import pandas as pd
import pytest

from opinion_sae.book import gap_claims
from opinion_sae.book.gap_claims import GAP_CLAIMS, GapClaim, gap_claims_page, gap_claims_table
from opinion_sae.score.gap_effects import gap_effects, shares_kept
from opinion_sae.score.gaps_table import gaps_table
from opinion_sae.score.names import NAMES
from opinion_sae.score.statistics import holm


@pytest.fixture(scope="module")
def case(tiny):
    """Yes-no questions on which the second group leans one way or the other; tables that know that, more or less."""
    rng = np.random.default_rng(0)
    base, lean = rng.uniform(0.3, 0.7, 60), rng.choice([-0.15, 0.15], 60) * rng.uniform(0.5, 1, 60)
    second = np.stack([base - lean, base + lean])
    questions = [tiny.question(f"q{i}", ("Yes", "No"), f"Is it {i}?") for i in range(60)]
    survey = tiny.survey(np.stack([1 - second, second], -1), questions, ("Up", "Down"))

    def said(strength, noise):
        by = strength * lean + rng.normal(0, noise, 60)
        places = np.stack([0.5 - by, 0.5 + by])
        return [np.log(np.stack([1 - places, places], -1))]

    good, half, none = said(0.8, 0.01), said(0.7, 0.02), said(0.0, 0.05)
    return survey, {"delta-reading": good, "delta-reading-64": half, "dense-reading": none, "words": good}


def test_the_table_takes_its_effects_from_those_of_pairs(case):
    survey, tables = case
    table = gap_claims_table(survey, tables, np.arange(60), replicates=200)
    assert list(table) == gap_claims.COLUMNS
    pairs = [(claim.method, claim.reference) for claim in GAP_CLAIMS if claim.reference in {*tables, "toplines"}]
    pairs.remove(("words+direct", "words"))  # of which there is no table
    assert list(zip(table["method"], table["reference"], strict=True))[::2] == pairs
    np.testing.assert_allclose(table["p_holm"], holm(table["p"].to_numpy()))
    row = table.set_index(["reference", "measure"]).loc[("dense-reading", "gap_r")]
    alone = gap_effects(survey, tables["delta-reading"], tables["dense-reading"], np.arange(60), replicates=200)
    assert row["effect"] == alone["gap_r"]["all"].effect and row["verdict"] == "supported"
    same = table[(table["reference"] == "words")]
    assert (same["effect"] == 0).all() and (same["verdict"] == "not supported").all()
    kept = table[table["margin"] > 0].set_index("measure")
    assert kept.loc["gap_r", "verdict"] == "supported" and 0.8 < kept.loc["gap_r", "effect"] < 1.1


def test_it_contradicts_what_is_the_other_way_round(case):
    survey, tables = case
    claims = [GapClaim("dense-reading", "delta-reading"), GapClaim("dense-reading", "delta-reading", 0.7)]
    table = gap_claims_table(survey, tables, np.arange(60), claims, replicates=200)
    assert (table["verdict"] == "contradicted").all()


def test_a_share_kept_is_the_ratio_of_the_two_tables_measures(case):
    survey, tables = case
    found = shares_kept(survey, tables["delta-reading-64"], tables["delta-reading"], np.arange(60), 0.7, 200)
    rows = gaps_table(survey, tables, np.arange(60), 10)
    rows = rows[(rows["task"] == "toplines") & (rows["group"] == "all")].set_index("method")
    for measure, effect in found.items():
        expected = rows.loc["delta-reading-64", measure] / rows.loc["delta-reading", measure]
        assert effect.effect == pytest.approx(expected) and effect.low < effect.effect < effect.high
    flat = [np.log(np.full((1, 60, 2), 0.5))]
    nothing = shares_kept(survey, tables["words"], flat, np.arange(60), 0.7, 50)
    assert all(np.isnan([effect.effect, effect.low, effect.p]).all() for effect in nothing.values())


def test_the_page_says_each_verdict_and_what_is_missing():
    row = {"method": "delta-reading", "reference": "words", "margin": 0.0, "claim": GAP_CLAIMS[5].sentence}
    rows = [
        row | {"measure": "gap_r", "effect": -0.1, "low": -0.2, "high": -0.05, "p_holm": 0.0004},
        row | {"measure": "group_kl_closed", "effect": 0.01, "low": np.nan, "high": np.nan, "p_holm": np.nan},
        row
        | {"measure": "gap_r", "effect": 0.85, "low": 0.75, "high": 0.95, "p_holm": 0.012, "margin": 0.7}
        | {"method": "delta-reading-64", "reference": "delta-reading", "claim": GAP_CLAIMS[-1].sentence},
    ]
    table = pd.DataFrame(rows).assign(verdict=["contradicted", "not supported", "supported"])
    first, second = gap_claims_page(table).strip().split("\n")
    assert first == (
        "- The reading Δ tells groups apart better than the read-out of words: by gap correlation **contradicted** "
        "(-0.100, 95% interval -0.200 to -0.050, p < 0.001 after Holm); by share of the group KL closed too few "
        "questions for an interval."
    )
    assert "keeps at least 70%" in second and "**supported** (0.85 of it, 95% interval 0.75 to 0.95, p 0.012" in second
    assert "No claim could be tested" in gap_claims_page(table.iloc[:0])


def test_every_method_of_a_claim_has_a_name():
    assert {method for claim in GAP_CLAIMS for method in (claim.method, claim.reference)} <= set(NAMES)
