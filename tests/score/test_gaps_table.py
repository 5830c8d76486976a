"""The tables of group differences: columns, intervals, seeds, what is left out and what is refused."""

import math

import numpy as np
import pytest

from opinion_sae.score.gap_replicates import interval, seed_weights
from opinion_sae.score.gaps import actual_gaps, cell_kl, predicted_gaps
from opinion_sae.score.gaps_table import COLUMNS, gaps_by_fold, gaps_table
from opinion_sae.score.metrics import bootstrap_mean

NAN = np.nan


def test_the_table_has_its_columns_and_rows_and_its_intervals_those_of_the_means(made):
    survey, truth, _ = made.simulated(questions=40)
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


def test_seeds_are_averaged_and_drawn(made):
    survey, truth, _ = made.simulated(questions=40)
    rng = np.random.default_rng(0)
    seeds = [made.noisy(truth, 0.2, rng) for _ in range(3)]
    found = gaps_table(survey, {"m": seeds, "one": seeds[:1]}, np.arange(40), 400)
    each = [made.one_measure(survey, seed).gap_r[0, 0] for seed in seeds]
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


def test_where_there_is_nothing_to_go_by_there_is_no_number(made, three):
    table = made.logs([[0.6, 0.5, 0.5], [0.4, 0.5, 0.5]])
    one = gaps_table(three, {"m": [table]}, np.zeros(3, int), 50)
    assert one.filter(regex="_low|_high").isna().all().all() and one["kl"].notna().all()
    # gaps that vary less than their noise: no spread to compare with, and no reliability
    quiet = made.one_measure(made.binary([[0.5, 0.51], [0.5, 0.5]]), made.logs([[0.6, 0.5], [0.4, 0.5]]))
    assert np.isnan(quiet.exaggeration).all() and np.isnan(quiet.reliability).all() and np.allclose(quiet.gap_r, -1)
    # and answers that do not differ: the toplines are no further off than the floor
    alike = made.one_measure(made.binary([[0.5, 0.5], [0.5, 0.5]]), made.logs([[0.6, 0.5], [0.4, 0.5]]), "toplines")
    assert np.isnan(alike.group_kl_closed).all() and np.isnan(alike.gap_r).all()
    assert interval(np.array([NAN] * 10 + [1.0] * 90)) == pytest.approx((NAN, NAN), nan_ok=True)
    assert interval(np.array([NAN] + [1.0] * 99)) == (1, 1)


def test_cells_without_a_prediction_are_left_out(made):
    survey, truth, _ = made.simulated(questions=20)
    table = np.log(truth)
    table[1, :5] = NAN
    found = gaps_table(survey, {"m": [table]}, np.arange(20), 50).set_index(["task", "method", "group"])
    assert found.loc[("alone", "m", "g1"), "n_questions"] == 15
    assert found.loc[("alone", "m", "g1"), "kl"] == pytest.approx(cell_kl(survey, table)[1, 5:].mean())
    short = made.one_measure(survey.select(range(5, 20)), table[:, 5:])
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
def test_bad_tables_are_refused(made, three, change, message):
    table = made.logs([[0.6, 0.5, 0.5], [0.4, 0.5, 0.5]])
    with pytest.raises(ValueError, match=message):
        gaps_table(three, change(table), np.arange(3), 10)
    with pytest.raises(ValueError, match="task 'both': it is one of alone, toplines"):
        made.one_measure(three, table, "both")
