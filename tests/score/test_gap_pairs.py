"""Two groups held against each other, worked by hand."""

import numpy as np
import pytest

from opinion_sae.score.gap_pairs import correlations, pair_gaps, pair_to_show, pairs_table

PLACES = [[0.2, 0.5, 0.9, 0.4], [0.4, 0.5, 0.3, 0.6], [0.3, 0.6, 0.5, 0.5]]
GROUPS = ("Young", "Middle", "Old")


def survey_of(made, places=PLACES, groups=GROUPS, attributes=("age", "age", "sex")):
    return made.binary(places, groups=groups, attributes=attributes)


def test_the_pair_is_the_two_of_an_attribute_that_lie_furthest_apart(made):
    assert pair_to_show(survey_of(made)) == ("Young", "Middle")
    assert pair_to_show(survey_of(made, attributes=("age",) * 3)) == ("Young", "Middle")
    further = [[0.2, 0.5, 0.9, 0.4], [0.4, 0.5, 0.3, 0.6], [0.9, 0.1, 0.1, 0.9]]
    assert pair_to_show(survey_of(made, further, attributes=("age",) * 3)) == ("Young", "Old")
    parties = survey_of(made, groups=("Republican", "Other", "Democrat"), attributes=("party",) * 3)
    assert pair_to_show(parties) == ("Democrat", "Republican")
    with pytest.raises(ValueError, match="no two groups of one attribute"):
        pair_to_show(survey_of(made, attributes=("age", "sex", "race")))


def test_gaps_are_differences_of_places(made):
    survey = survey_of(made)
    said = made.logs([[0.3, 0.5, 0.5, 0.5], [0.5, 0.5, 0.4, 0.5], [0.5, 0.5, 0.5, 0.5]])
    actual, predicted = pair_gaps(survey, said, ("Young", "Middle"), "alone")
    np.testing.assert_allclose(actual, [-0.2, 0, 0.6, -0.2])
    np.testing.assert_allclose(predicted, [-0.2, 0, 0.1, 0])
    one_for_all = made.logs([[0.3, 0.5, 0.5, 0.5]])
    assert not pair_gaps(survey, one_for_all, ("Young", "Middle"))[1].any()
    said[:, 1] = np.nan
    actual, predicted = pair_gaps(survey, said, ("Young", "Middle"), "alone")
    assert np.isnan(actual).tolist() == np.isnan(predicted).tolist() == [False, True, False, False]
    with pytest.raises(ValueError, match="task 'both'"):
        pair_gaps(survey, said, ("Young", "Middle"), "both")


def test_the_correlation_is_pearsons_under_weights():
    actual, predicted = np.array([-0.2, 0.1, 0.6, np.nan, -0.1]), np.array([-0.1, 0.0, 0.1, np.nan, 0.2])
    weights = np.array([[1, 1, 1, 1, 1], [2, 0, 1, 3, 1], [1, 0, 0, 1, 0]], float)
    found = correlations(actual, predicted, weights)
    there = [0, 1, 2, 4]
    assert found[0] == pytest.approx(np.corrcoef(actual[there], predicted[there])[0, 1])
    repeated = [0, 0, 2, 4]
    assert found[1] == pytest.approx(np.corrcoef(actual[repeated], predicted[repeated])[0, 1])
    assert np.isnan(found[2])  # one question: people's gaps do not vary
    assert correlations(actual, 0 * predicted, weights[:1]).tolist() == [0]


def test_the_table_has_a_row_for_each_task_and_method(made):
    survey = survey_of(made)
    tables = {"right": [made.logs(PLACES)], "flat": [made.logs([[0.5] * 4])]}
    table = pairs_table(survey, tables, ("Young", "Middle"), np.arange(4), 200).set_index(["task", "method"])
    assert list(table.index) == [("alone", "right"), ("alone", "flat")] + [
        ("toplines", name) for name in ("toplines", "right", "flat")
    ]
    assert table.loc[("alone", "right"), "r"] == pytest.approx(1)
    assert table.loc[("toplines", "right"), "r"] > 0.95 and table.loc[("toplines", "toplines"), "r"] == 0
    assert (table["n_questions"] == 4).all() and (table["other"] == "Middle").all()
    few = pairs_table(survey, tables, ("Young", "Middle"), np.zeros(4, int), 200)
    assert few["r_low"].isna().all() and few["r"].notna().all()
