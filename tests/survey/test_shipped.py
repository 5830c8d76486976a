"""The shipped surveys: hand-checked numbers, and the counts derived again from the sources."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from opinion_sae.survey import load_survey, shipped_surveys, survey_hash
from opinion_sae.survey.load import SHIPPED


def assert_same_cells(derived: pd.DataFrame, survey: str) -> None:
    shipped = pd.read_csv(next((SHIPPED / survey).glob("counts.csv*")))
    pd.testing.assert_frame_equal(derived.reset_index(drop=True), shipped, check_dtype=False, rtol=0, atol=1e-5)


def test_gss_counts_derive_again(derive, gss_source):
    assert_same_cells(derive.derive_gss(gss_source), "gss")


def test_nonvoters_counts_derive_again(derive):
    source = os.environ.get("OPINION_SAE_NONVOTERS_CSV")
    if not source:
        pytest.skip("OPINION_SAE_NONVOTERS_CSV does not name the poll's nonvoters_data.csv")
    assert_same_cells(derive.derive_nonvoters(Path(source)), "nonvoters-2020")


def test_nonvoters_numbers_by_hand():
    survey = load_survey("nonvoters-2020")
    assert len(survey.questions) == 46
    assert "ideology" not in survey.attributes
    # Q2_1 has 35 refusals among 5,836 people
    women, men = (survey.groups.index(g) for g in ("Female", "Male"))
    assert survey.respondents[women, 0] + survey.respondents[men, 0] == 5801
    assert (survey.everyone_effective < 5836).all()  # weights cost something
    # democracy is a good way to govern for most, rule by the army for few
    keys = [q.key for q in survey.questions]
    good = survey.everyone_shares[[keys.index("Q9_1"), keys.index("Q9_4")], :2].sum(1)
    assert good[0] > 0.85 and good[1] < 0.2


@pytest.mark.parametrize("name", shipped_surveys())
def test_attributes_partition_no_more_than_everyone(name):
    survey = load_survey(name, min_respondents=1)
    for attribute in set(survey.attributes):
        members = [g for g, a in enumerate(survey.attributes) if a == attribute]
        assert (survey.counts[members].sum(0) <= survey.everyone + 1e-6).all()
    both = [survey.groups.index("Female"), survey.groups.index("Male")]
    np.testing.assert_allclose(survey.counts[both].sum(0), survey.everyone, atol=1e-3)


@pytest.mark.parametrize("name", shipped_surveys())
def test_intersections_add_up(name):
    whole = load_survey(name, attributes=["sex", "party", "sex x party"], min_respondents=1)
    assert "Republican & Female" in whole.groups
    for party in ("Democrat", "Independent", "Republican"):
        parts = [whole.groups.index(f"{party} & {sex}") for sex in ("Female", "Male")]
        np.testing.assert_allclose(whole.counts[parts].sum(0), whole.counts[whole.groups.index(party)], atol=1e-3)


@pytest.mark.parametrize("name", shipped_surveys())
def test_questions_read_well(name):
    survey = load_survey(name)
    for question in survey.questions:
        assert question.topic != "general"
        assert max(map(len, question.options)) <= 50, question
        assert question.text[-1] in '?"'
    assert len({q.text for q in survey.questions}) == len(survey.questions)
    assert {"title", "source", "licence", "attribution", "population"} <= set(survey.provenance[name])


def test_hash_follows_content_only():
    one, again = load_survey("nonvoters-2020"), load_survey("nonvoters-2020")
    assert survey_hash(one) == survey_hash(again)
    assert survey_hash(one) != survey_hash(load_survey("nonvoters-2020", max_questions=24))
    assert survey_hash(one) != survey_hash(one.select(groups=range(1, len(one.groups))))
