"""Measures of distance by hand, the noise floor, intervals and tables; a table row recomputed by plain NumPy."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opinion_sae.score.metrics import (
    Scores,
    alignment,
    alignment_table,
    bootstrap_mean,
    bootstrap_ratio,
    by_group,
    comparison_table,
    floor_table,
    kl,
    mean,
    noise_floor,
    option_positions,
    score,
    total_variation,
    transfer_matrix,
)

NAN = np.nan
shares_of_four = st.lists(st.floats(0.01, 1), min_size=4, max_size=4).map(lambda x: np.array(x) / sum(x))


def test_kl_and_tv_by_hand():
    h, p = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]), np.array([[0.25, 0.75, 0.0], [0.5, 0.5, 0.0]])
    np.testing.assert_allclose(kl(h, p), [0.5 * math.log(2) + 0.5 * math.log(2 / 3), math.log(2)])
    np.testing.assert_allclose(total_variation(h, p), [0.25, 0.5])
    assert kl(np.array([0.5, 0.5]), np.array([1.0, 0.0])) == np.inf
    assert np.isnan(kl(np.array([NAN, NAN]), np.array([0.5, 0.5])))


@given(shares_of_four, shares_of_four)
def test_kl_tv_and_alignment_keep_their_bounds(h, p):
    even = np.linspace(0, 1, 4)[None]
    distance, tv = float(kl(h, p)), float(total_variation(h, p))
    assert -1e-12 <= tv <= 1
    assert distance >= 2 * tv**2 - 1e-12  # Pinsker
    close = float(alignment(h[None], p[None], even)[0])
    assert -1e-12 <= close <= 1 + 1e-12
    assert float(alignment(p[None], h[None], even)[0]) == pytest.approx(close)
    assert float(alignment(h[None], h[None], even)[0]) == 1


def test_alignment_by_hand_with_even_steps(tiny):
    questions = tiny.question(options="abc"), tiny.question(options="ab")
    positions = option_positions(questions, 4)
    np.testing.assert_array_equal(positions, [[0, 0.5, 1, 1], [0, 1, 1, 1]])
    h = np.array([[1, 0, 0, 0], [0.5, 0.5, 0, 0]], float)
    p = np.array([[0, 0.5, 0.5, 0], [0.2, 0.8, 0, 0]], float)
    # all mass moves: half of it one step of two, half of it two steps; then 0.3 over the only step
    np.testing.assert_allclose(alignment(h, p, positions), [1 - 1.5 / 2, 1 - 0.3])


def test_alignment_with_uneven_steps_and_the_middle_option_listed_last(tiny):
    question = dataclasses.replace(tiny.question(options=("Good", "Bad", "Neither")), positions=(1.0, 2.0, 1.5))
    uneven = dataclasses.replace(tiny.question(options=("Low", "High", "Top")), positions=(0.0, 3.0, 4.0))
    positions = option_positions((question, uneven), 5)
    np.testing.assert_array_equal(positions, [[0, 1, 0.5, 0.5, 0.5], [0, 0.75, 1, 1, 1]])
    h, p = np.zeros((2, 5)), np.zeros((2, 5))
    h[0, 0] = p[0, 2] = 1  # from good to neither: half the scale
    h[1, 1] = p[1, 2] = 1  # from high to top: a quarter
    np.testing.assert_allclose(alignment(h, p, positions), [0.5, 0.75])
    h[0], p[0] = [1, 0, 0, 0, 0], [0, 1, 0, 0, 0]
    np.testing.assert_allclose(alignment(h, p, positions)[0], 0, atol=1e-12)


def test_alignment_is_for_ordinal_questions_only(tiny, two_groups):
    questions = [dataclasses.replace(two_groups.questions[0], ordinal=False), *two_groups.questions[1:]]
    survey = dataclasses.replace(two_groups, questions=tuple(questions))
    found = score(survey, np.log(np.full((1, 3, 4), 0.25)))
    assert np.isnan(found.alignment).tolist() == [[True, False, False], [True, False, True]]
    assert np.isnan(found.kl).tolist() == [[False] * 3, [False, False, True]]


def test_an_option_that_is_nearly_impossible_is_not_rounded_to_impossible(two_groups):
    log_probs = np.full((1, 3, 4), -np.inf, np.float32)
    log_probs[:, :, 0], log_probs[:, :, 1:] = 0.0, -200.0  # exp of it is 0 in float32
    found = score(two_groups, log_probs).kl
    assert found[0, 0] == pytest.approx(0.9 * math.log(0.9) + 0.1 * (math.log(0.1) + 200), rel=1e-6)


@pytest.mark.parametrize(("options", "people"), [(2, 60), (4, 200)])
def test_noise_floor_of_kl_is_that_of_a_multinomial(tiny, options, people):
    """E KL(draw || shares) = (N - 1) / (2n) to first order."""
    survey = tiny.survey(np.full((1, 2, options), 1 / options), [tiny.question("a", "abcd"[:options])] * 2, ("x",))
    survey = dataclasses.replace(survey, effective=np.array([[people, 4.0 * people]]))
    found = noise_floor(survey, replicates=4000).kl[0]
    np.testing.assert_allclose(found, (options - 1) / (2 * np.array([people, 4.0 * people])), rtol=0.06)


def test_noise_floor_is_missing_where_the_group_is_and_follows_its_seed(two_groups):
    floor = noise_floor(two_groups, 20, seed=3)
    for values in floor:
        assert np.isnan(values).tolist() == [[False] * 3, [False, False, True]]
    np.testing.assert_array_equal(floor.tv, noise_floor(two_groups, 20, seed=3).tv)
    assert (floor.tv[0] != noise_floor(two_groups, 20, seed=4).tv[0]).any()


def test_bootstrap_draws_whole_clusters():
    values = np.array([0.0, 0.0, 1.0, 1.0])
    assert bootstrap_mean(values, np.array([0, 0, 1, 1]), 500, 0) == (0, 1)  # two clusters: 0, 1/2 or 1
    low, high = bootstrap_mean(np.repeat(values, 100), np.arange(400), 2000, 0)
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.025, 0.5 + 1.96 * 0.025), abs=0.006)
    wide = bootstrap_mean(np.repeat(values, 100), np.repeat(np.arange(40), 10), 2000, 0)
    assert wide[0] < low - 0.05 and wide[1] > high + 0.05


def test_bootstrap_leaves_missing_values_out_and_needs_two_clusters():
    values, clusters = np.array([0.2, NAN, 0.4, 0.9]), np.array([0, 1, 2, 3])
    assert bootstrap_mean(values, clusters, 300, 0) == bootstrap_mean(values[[0, 2, 3]], np.arange(3), 300, 0)
    assert np.isnan(bootstrap_mean(values, np.zeros(4, int), 300, 0)).all()
    assert np.isnan(bootstrap_mean(np.full(4, NAN), clusters, 300, 0)).all()
    assert np.isnan(bootstrap_mean(values, clusters, 0, 0)).all()  # a profile may ask for no replicates


def test_means_leave_missing_cells_out(two_groups):
    cells = np.array([[1.0, 2.0, NAN], [3.0, NAN, NAN]])
    found = by_group(two_groups, cells)
    np.testing.assert_array_equal(found["all"], [2, 2, NAN])
    assert list(found) == ["all", "Female", "Male"]
    assert mean(found["Female"]) == 1.5 and np.isnan(mean(np.full(2, NAN)))


@pytest.fixture
def made_up(tiny):
    """Three groups, eight questions of two to four options, some cells missing, two methods' answers."""
    rng = np.random.default_rng(5)
    questions = [tiny.question(f"q{i}", "abcd"[: 2 + i % 3]) for i in range(8)]
    counts = np.zeros((3, 8, 4))
    log_probs = {"unsteered": np.full((1, 8, 4), -np.inf), "delta": np.full((3, 8, 4), -np.inf)}
    for i, question in enumerate(questions):
        n = len(question.options)
        counts[:, i, :n] = rng.integers(1, 50, (3, n))
        for table in log_probs.values():
            table[:, i, :n] = np.log(rng.dirichlet(np.ones(n), len(table)))
    counts[1, 2] = counts[2, 5] = counts[:, 6] = 0
    survey = tiny.survey(np.zeros((3, 8, 4)), questions, ("x", "y", "z"))
    people = counts.sum(-1)
    return dataclasses.replace(survey, counts=counts, respondents=people.astype(int), effective=people), log_probs


def test_a_row_of_the_alignment_table_by_plain_numpy(made_up):
    survey, log_probs = made_up
    clusters = np.array([0, 0, 1, 2, 3, 4, 5, 6])
    floor = noise_floor(survey, 30)
    scores = {name: score(survey, table) for name, table in log_probs.items()}
    table = alignment_table(survey, scores, floor, clusters, "question", 50, 0).set_index(["method", "group"])

    def cell(method, group, question):
        """KL, TV and alignment of one cell from the raw counts, one option at a time; None if nobody answered."""
        n = len(survey.questions[question].options)
        counts = [survey.counts[group, question, o] for o in range(n)]
        answers = log_probs[method][0 if method == "unsteered" else group, question]
        if sum(counts) == 0:
            return None
        h, p = [c / sum(counts) for c in counts], [math.exp(answers[o]) for o in range(n)]
        moved = sum(abs(sum(h[: o + 1]) - sum(p[: o + 1])) for o in range(n - 1))
        return (
            sum(a * math.log(a / b) for a, b in zip(h, p, strict=True)),
            sum(abs(a - b) for a, b in zip(h, p, strict=True)) / 2,
            1 - moved / (n - 1),
        )

    for method in scores:
        cells = [[cell(method, g, q) for q in range(8)] for g in range(3)]
        for g, name in enumerate(survey.groups):
            there = [values for values in cells[g] if values is not None]
            row = table.loc[(method, name)]
            np.testing.assert_allclose(row[["kl", "tv", "alignment"]].astype(float), np.mean(there, axis=0), rtol=1e-9)
            assert row["n_questions"] == len(there)
        by_question = [[cells[g][q] for g in range(3) if cells[g][q] is not None] for q in range(8)]
        overall = np.mean([np.mean(answered, axis=0) for answered in by_question if answered], axis=0)
        row = table.loc[(method, "all")]
        np.testing.assert_allclose(row[["kl", "tv", "alignment"]].astype(float), overall, rtol=1e-9)
        assert row["n_questions"] == 7 and row["kl_low"] < row["kl"] < row["kl_high"]
    least = np.nanmean(np.nanmean(np.delete(floor.kl, 6, axis=1), axis=0))
    unsteered, ours = (table.loc[(method, "all"), "kl"] for method in ("unsteered", "delta"))
    assert table.loc[("delta", "all"), "gap_closed"] == pytest.approx((unsteered - ours) / (unsteered - least))
    assert table.loc[("unsteered", "all"), "gap_closed"] == 0


def test_tables_have_the_columns_that_others_read(made_up):
    survey, log_probs = made_up
    scores = {name: score(survey, table) for name, table in log_probs.items()}
    floor, clusters = noise_floor(survey, 5), np.arange(8)
    table = alignment_table(survey, scores, floor, clusters, "question", 20, 0)
    assert list(table) == (
        "method group split n_questions kl tv alignment kl_low kl_high alignment_low alignment_high gap_closed "
        "gap_low gap_high".split()
    )
    assert table["group"].tolist() == 2 * ["all", "x", "y", "z"] and set(table["split"]) == {"question"}
    pairs = comparison_table(survey, scores, [("delta", "unsteered")], clusters, 20, 0)
    assert list(pairs) == "method reference group kl_difference low high n_questions".split()
    both = table.set_index(["method", "group"])["kl"]
    found = pairs.set_index("group")["kl_difference"]
    np.testing.assert_allclose(found, both["delta"] - both["unsteered"])
    floors = floor_table(survey, floor)
    assert list(floors) == ["group", "kl", "tv", "alignment", "kl_low", "kl_high"]
    assert floors["group"].tolist() == ["all", "x", "y", "z"]
    assert floors["kl"][1] == pytest.approx(np.nanmean(floor.kl[0]))


def test_the_interval_of_a_ratio():
    rng, clusters = np.random.default_rng(0), np.arange(300)
    below = rng.normal(1, 0.1, 300)
    assert bootstrap_ratio(0.5 * below, below, clusters, 300, 0) == pytest.approx((0.5, 0.5))
    low, high = bootstrap_ratio(rng.normal(0.5, 0.2, 300), below, clusters, 2000, 0)
    assert low == pytest.approx(0.5 - 1.96 * 0.2 / 300**0.5, abs=0.01) and high == pytest.approx(1 - low, abs=0.02)
    for odd in (rng.normal(0, 1, 300), np.full(300, NAN)):  # no room above the floor; no answers
        assert np.isnan(bootstrap_ratio(below, odd, clusters, 300, 0)).all()


def test_the_floor_of_a_small_sample_has_the_wider_interval(tiny):
    survey = tiny.survey(np.full((2, 20, 2), 0.5), [tiny.question(f"q{i}", "ab") for i in range(20)], ("few", "many"))
    survey = dataclasses.replace(survey, effective=np.array([[50.0] * 20, [5000.0] * 20]))
    floors = floor_table(survey, noise_floor(survey, 100)).set_index("group")
    assert (floors["kl_low"] < floors["kl"]).all() and (floors["kl"] < floors["kl_high"]).all()
    width = floors["kl_high"] - floors["kl_low"]
    assert width["few"] > 20 * width["many"]


def test_a_difference_of_two_infinite_kls_is_refused(made_up):
    """inf - inf is NaN, which would pass for a question that nobody answered."""
    survey, _ = made_up
    worst = Scores(*(np.full((3, 8), np.inf),) * 3)
    with pytest.raises(ValueError, match="'a' minus 'b': both are infinite"):
        comparison_table(survey, {"a": worst, "b": worst}, [("a", "b")], np.arange(8), 20, 0)


def test_transfer_has_own_offsets_on_its_diagonal_and_the_offset_in_its_rows(made_up):
    survey, log_probs = made_up
    found = transfer_matrix(survey, log_probs["delta"])
    assert (np.diag(found) == 0).all() and list(found) == list(survey.groups)
    p, h = np.exp(log_probs["delta"]), survey.shares
    expected = np.nanmean(kl(h[2], p[0])) - np.nanmean(kl(h[2], p[2]))
    assert found.loc["x", "z"] == pytest.approx(expected)
