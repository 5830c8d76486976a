"""Sentences and small tables that the chapters make from their numbers."""

import numpy as np
import pandas as pd
import pytest
import torch

from opinion_sae.book import report
from opinion_sae.book.paths import ROOT
from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.sae.autoencoder import SparseAutoencoder


def history(*validation):
    """Two stages of two folds: the first always keeps epoch 1, the second what `validation` says, a list per fold."""
    rows = []
    for fold, kls in enumerate(validation):
        rows += [("delta", epoch, kl, 0.0, "shared", fold) for epoch, kl in enumerate((0.3, 0.2))]
        rows += [("delta", epoch, kl, 5.0 * epoch, "deviation", fold) for epoch, kl in enumerate(kls)]
        rows += [("shared-delta", 0, 0.3, 0.0, "shared", fold)]
    return pd.DataFrame(rows, columns=["method", "epoch", "validation_kl", "latents_deviation", "stage", "fold"])


def test_a_part_that_lost_to_its_start_is_not_used():
    kept = report.kept_epochs(history([0.2, 0.25, 0.19], [0.2, 0.21, 0.2]))
    assert list(kept.index) == [("delta", 0), ("delta", 1)]
    assert kept.loc[("delta", 0)].tolist() == [1, 2, 0.2, 0.19, 10.0]
    assert kept.loc[("delta", 1)].tolist() == [1, "not used", 0.2, "not used", "not used"]


@pytest.mark.parametrize(
    ("validation", "said"),
    [
        (([0.2, 0.1], [0.2, 0.1]), "is used in all 2 folds."),
        (([0.2, 0.1], [0.2, 0.3]), "is used in 1 of 2 folds; in fold 1 no epoch"),
        (([0.2, 0.3], [0.2, 0.3]), "is used in none of 2 folds; in folds 0 and 1 no epoch"),
        (([0.2, 0.3],) * 3, "is used in none of 3 folds; in folds 0, 1 and 2 no epoch"),
    ],
)
def test_the_sentence_names_the_folds(validation, said):
    table = history(*validation)
    assert said in report.own_part(table) and said in report.own_part(table.astype({"fold": float, "epoch": float}))


@pytest.mark.parametrize(
    "path", sorted((ROOT / "results").glob("*/delta_history.csv")), ids=lambda path: path.parent.name
)
def test_the_committed_fits_by_hand(path):
    """Epoch 0 of the second stage against all later ones, row by row."""
    table, best = pd.read_csv(path), {}
    for row in table[(table["method"] == "delta") & (table["stage"] == "deviation")].to_dict("records"):
        if row["fold"] not in best or row["validation_kl"] < best[row["fold"]][0]:
            best[row["fold"]] = row["validation_kl"], row["epoch"], row["latents_deviation"]
    kept = report.kept_epochs(table).loc["delta", "own part, epoch"]
    assert kept.to_dict() == {fold: epoch or "not used" for fold, (_, epoch, _) in best.items()}
    assert all((latents > 0) == (epoch > 0) for _, epoch, latents in best.values())


SAE = SparseAutoencoder(torch.ones(3, 4), torch.zeros(4), torch.ones(4, 3), torch.zeros(3))


def deltas(*deviations):
    found = []
    for deviation in deviations:
        delta = GroupDelta(("x", "y"), SAE)
        with torch.no_grad():
            delta.shared.copy_(torch.tensor([1.0, 2.0, 0.0, 0.0]))
            delta.deviation.copy_(torch.tensor(deviation))
        found.append(delta)
    return found


def test_fits_that_stayed_at_their_start_are_counted():
    rows = [(15, 0, "shared", 8), (15, 0, "both", 8), (15, 1, "shared", 8), (15, 1, "both", 9), (15, 0, "unsteered", 0)]
    grid = pd.DataFrame(rows, columns=["layer", "fold", "mode", "latents"]).assign(l1=0.1)
    assert report.idle_fits(grid).startswith("Of 2 fits of both parts, one per layer and fold, 1 do not use")
    assert report.idle_fits(grid.iloc[:0]).startswith("`make select` has not been run")


def test_tables_of_the_choice_in_a_sentence():
    choices = pd.DataFrame({"KL Δ": [0.3, 0.2], "KL chosen": [0.28, 0.2]})
    assert "by 0.0100 nats on average over folds (0.0000 to 0.0200)" in report.choice_sentence(choices)
    references = {"reference": ["unsteered", "dense", "delta"], "low": [-0.2, -0.1, 0.1], "high": [-0.1, 0.1, 0.2]}
    said = report.chosen_sentence(pd.DataFrame(references))
    assert "closer to the groups than the unsteered model, and further than Δ, of 3 references." in said
    assert "than none, and further than none, of 1" in report.chosen_sentence(pd.DataFrame(references).iloc[1:2])
    fixed = pd.DataFrame({"constant share": [0.9, 1.0], "silent latents": [0.5, 0.7]})
    assert "folds 95.0% of what the chosen" in report.fixed_sentence(fixed) and "60.0%" in report.fixed_sentence(fixed)


def test_no_dose_of_a_part_that_is_not_there_is_reported():
    choices = pd.DataFrame({"fold": [0, 1], "dose of Δ_shared": 1.0, "dose of D": [0.5, 0.5]})
    page = report.choice_page(choices, deltas([[0.0, 1, 0, 0], [0.0] * 4], [[0.0] * 4] * 2))
    assert page["dose of D"].tolist() == [0.5, "not used"] and choices["dose of D"].tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("shift", "said"),
    [
        (-0.05, "is closer to the groups than"),
        (0.05, "is further from the groups than"),
        (0.0, "could not be shown to be closer to the groups than"),
    ],
)
def test_a_dose_is_held_against_equal_shares(tiny, shift, said):
    people = tiny.survey(np.full((2, 30, 2), 0.5), [tiny.question(f"q{i}") for i in range(30)], ("x", "y"))
    uniform = np.full((2, 30), 0.2)
    kl = uniform + shift + np.random.default_rng(0).normal(0, 0.01, (2, 30))
    text = report.against_uniform(people, "Δ at half strength", kl, uniform, np.arange(30), 300, 0)
    assert said in text and "read no question and have 0.200 (" in text
    few = report.against_uniform(people, "Δ", kl, uniform, np.zeros(30, int), 300, 0)
    assert "too few questions" in few and "could not be shown" in few
