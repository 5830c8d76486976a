"""Conformal intervals: factors worked by hand, and coverage that simulated questions bear out."""

import numpy as np
import pytest

from opinion_sae.score.coverage import LEVELS, coverage_table, errors, interval, scale, widening


def cells(values):
    """One group, one option: an error per question."""
    return np.array(values, dtype=float)[None, :, None]


def test_an_error_is_measured_in_standard_deviations_of_the_predicted_share_with_a_floor():
    assert scale(np.array([0.5, 0.2, 0.1, 0.0, 1.0])) == pytest.approx([0.5, 0.4, 0.3, 0.0475**0.5, 0.0475**0.5])


def test_errors_of_a_small_survey_by_hand(two_groups):
    shares = np.array([[0.5, 0.5, 0, 0], [0.1, 0.2, 0.3, 0.4], [0.2, 0.3, 0.5, 0]])
    with np.errstate(divide="ignore"):
        found = errors(two_groups, np.log(shares)[None])
    assert found[:, 0, :2] == pytest.approx(np.array([[0.8, 0.8], [0.6, 0.6]]))  # |0.9 - 0.5| / 0.5, |0.2 - 0.5| / 0.5
    assert found[0, 1] == pytest.approx([0, 0, 0, 0])
    assert np.isnan(found[:, 0, 2:]).all()  # no such option
    assert np.isnan(found[1, 2]).all() and not np.isnan(found[0, 2, :3]).any()  # nobody answered


def test_the_factor_is_the_right_order_statistic():
    nine = cells([9, 2, 7, 4, 5, 6, 3, 8, 1])
    each = np.arange(9)
    assert widening(nine, each, 0.9) == 9  # 9 of 9 + 1
    assert widening(nine, each, 0.8) == 8
    assert widening(nine, each, 0.5) == 5
    assert widening(nine, each, 0.05) == 1
    assert widening(nine, each, 0.91) == np.inf  # ten questions could not show it


def test_near_duplicates_count_once_and_so_does_a_question_of_many_cells():
    # clusters {1, 1, 1} and {5} and {9}: a quarter each and a quarter for the new one
    assert widening(cells([1, 1, 1, 5, 9]), np.array([0, 0, 0, 1, 2]), 0.5) == 5
    assert widening(cells([1, 1, 1, 5, 9]), np.arange(5), 0.5) == 1  # unclustered, the three would outvote them
    many = np.full((2, 3, 2), np.nan)
    many[:, 0], many[0, 1, 0], many[0, 2, 0] = 1, 5, 9
    assert widening(many, np.arange(3), 0.5) == 5
    assert widening(many, np.arange(3), 0.75) == 9


@pytest.mark.parametrize("nominal", [0.0, 1.0, -1.0, float("nan")])
def test_a_nominal_coverage_that_is_none(nominal):
    with pytest.raises(ValueError, match="between 0 and 1"):
        widening(cells([1, 2]), np.arange(2), nominal)


def test_intervals_are_cut_at_nothing_and_everything():
    low, high = interval(np.array([0.5, 0.1, 0.8]), 0.5)
    assert low == pytest.approx([0.25, 0.0, 0.6]) and high == pytest.approx([0.75, 0.25, 1.0])
    low, high = interval(np.array([0.0, 0.5]), np.inf)
    assert (low == 0).all() and (high == 1).all()


def test_an_interval_holds_a_share_if_its_error_is_within_the_factor():
    rng = np.random.default_rng(0)
    predicted, people = rng.random(1000), rng.random(1000)
    low, high = interval(predicted, 0.7)
    within = np.abs(people - predicted) / scale(predicted) <= 0.7
    assert ((low <= people) & (people <= high) == within).all()


def simulated(tiny, rng, questions, groups=3):
    """People around a prediction, whole questions off together: (survey, log p, clusters)."""
    predicted = rng.beta(2, 2, (groups, questions))
    off = rng.standard_t(3, questions) * 0.5 + rng.normal(size=(groups, questions)) * 0.5  # the same side within one
    people = 1 / (1 + np.exp(-(np.log(predicted / (1 - predicted)) + off)))
    asked = [tiny.question(f"q{i}") for i in range(questions)]
    names = tuple(f"g{i}" for i in range(groups))
    survey = tiny.survey(np.stack([people, 1 - people], -1), asked, names)
    return survey, np.log(np.stack([predicted, 1 - predicted], -1))


def test_new_questions_are_covered_as_often_as_promised(tiny):
    """Mean over many calibrations of 60 questions, each tried on new ones; cells within a question are dependent."""
    rng = np.random.default_rng(1)
    held = {nominal: [] for nominal in LEVELS}
    for _ in range(300):
        survey, log_probs = simulated(tiny, rng, 60)
        found = errors(survey, log_probs)
        new = errors(*simulated(tiny, rng, 40))
        for nominal in LEVELS:
            held[nominal].append((new <= widening(found, np.arange(60), nominal)).mean())
    for nominal, fractions in held.items():
        error = np.std(fractions) / np.sqrt(len(fractions))
        assert nominal - 4 * error < np.mean(fractions) < nominal + 1 / 61 + 4 * error


def test_the_table_says_what_was_promised_and_what_held(tiny):
    survey, log_probs = simulated(tiny, np.random.default_rng(2), 200)
    clusters = np.arange(200)
    table = coverage_table(survey, {"alone": log_probs, "exact": np.log(survey.shares)}, clusters, clusters % 4)
    assert list(table) == ["task", "group", "nominal", "coverage", "n_questions", "low", "high", "factor"]
    assert len(table) == 2 * 4 * len(LEVELS) and (table["n_questions"] == 200).all()
    alone, exact = (table[table["task"] == task] for task in ("alone", "exact"))
    assert ((alone["low"] < alone["nominal"]) & (alone["nominal"] < alone["high"])).all()
    first = alone[alone["group"] == "g0"]
    assert first["factor"].is_monotonic_increasing and alone["factor"].isna().sum() == len(LEVELS)
    assert exact["factor"].max() < 1e-12
    found = errors(survey, log_probs)
    assert first["factor"].tolist() == [widening(found[:1], clusters, nominal) for nominal in LEVELS]


def test_a_group_that_is_further_off_has_wider_intervals_and_no_lower_coverage(tiny):
    survey, log_probs = simulated(tiny, np.random.default_rng(4), 300, groups=2)
    near = np.log(0.7 * survey.shares + 0.3 * np.exp(log_probs))
    table = coverage_table(survey, {"alone": np.stack([near[0], log_probs[1]])}, np.arange(300), np.arange(300) % 3)
    rows = table[table["nominal"] == 0.9].set_index("group")
    assert rows.loc["g1", "factor"] > 2 * rows.loc["g0", "factor"]
    assert rows.loc[["g0", "g1"], "coverage"].to_numpy() == pytest.approx(0.9, abs=0.05)
    assert rows.loc["all", "coverage"] == pytest.approx(rows.loc[["g0", "g1"], "coverage"].mean())


def test_what_is_measured_is_on_questions_left_out(tiny):
    """A fold whose errors are twice those of the other: its own factor would hold, the other's does not."""
    survey, _ = simulated(tiny, np.random.default_rng(3), 40, groups=1)
    far = np.where(np.arange(40) < 20, 0.1, 0.2)
    people = survey.shares[0, :, 0]
    said = np.where(people > 0.5, people - far, people + far)
    log_probs = np.log(np.stack([said, 1 - said], -1))[None]
    table = coverage_table(survey, {"alone": log_probs}, np.arange(40), np.arange(40) // 20)
    assert table.loc[table["nominal"] == 0.9, "coverage"].to_numpy() == pytest.approx(0.5, abs=0.1)


def test_folds_that_measure_nothing(six_questions):
    log_probs = np.log(np.full((1, 6, 3), 1 / 3))
    with pytest.raises(ValueError, match="at least two folds"):
        coverage_table(six_questions, {"alone": log_probs}, np.arange(6), np.zeros(6, int))
    with pytest.raises(ValueError, match="in two folds"):
        coverage_table(six_questions, {"alone": log_probs}, np.zeros(6, int), np.arange(6))


def test_questions_that_nobody_answered_do_not_count(two_groups):
    only = two_groups.select(groups=[1])  # the second group, which did not answer the last question
    log_probs = np.log(np.full((1, 3, 4), 0.25))
    table = coverage_table(only, {"alone": log_probs}, np.arange(3), np.arange(3), replicates=50)
    assert (table["n_questions"] == 2).all() and table["coverage"].notna().all()
