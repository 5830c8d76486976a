"""What `opinion-sae compare` takes from elsewhere, and the numbers it chooses and judges by, each by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from opinion_sae.artifacts import write_csv
from opinion_sae.book import compare
from opinion_sae.book.evaluate import Elsewhere, Inputs
from opinion_sae.book.leaderboard import Board
from opinion_sae.delta.files import save_dense
from opinion_sae.delta.offsets import DenseOffset, GroupDelta
from opinion_sae.delta.settings import FitSettings
from opinion_sae.methods.contract import STRENGTHS, Bench, toplines_cost
from opinion_sae.methods.diff_means import diff_means
from opinion_sae.model.answers import AnswerPath
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.score import gaps_table

GROUPS = ("Female", "Male", "Left", "Right")
HALF = np.log([[[0.75, 0.25]], [[0.25, 0.75]]])  # half the log odds of `opposites`, but for a digit
ALONE, LEFT = 0.36806, 0.07246  # KL((.9, .1) || (.5, .5)) and KL((.9, .1) || (.75, .25))


@pytest.fixture
def opposites(tiny):
    """Two groups of one size that answer a question the opposite way."""
    return tiny.survey([[[0.9, 0.1]], [[0.1, 0.9]]], tiny.questions[:1])


@pytest.fixture(scope="module")
def bench(lm, tiny, tmp_path_factory):
    """Three questions, one for each part of a split, and four groups of two attributes."""
    rng = np.random.default_rng(0)
    questions = [tiny.question(f"q{i}", text=f"{word}?") for i, word in enumerate(("bread", "trains", "winter"))]
    survey = tiny.survey(rng.dirichlet(np.ones(2), (4, 3)), questions, GROUPS, ["sex", "sex", "party", "party"])
    rows = torch.eye(32)[:3]
    sae = SparseAutoencoder(rows.T.clone(), torch.zeros(3), rows, torch.zeros(32)).requires_grad_(False)
    answers = AnswerPath(lm, survey.questions, 1, orders=1)
    split = tiny.split([0], [1], [2])
    return Bench(answers, sae, survey, [split], FitSettings(epochs=1), tmp_path_factory.mktemp("work"))


def known(bench, *deviations):
    """The bench with a Δ per split."""
    offsets = [GroupDelta(GROUPS, bench.sae).with_parts(deviation=torch.tensor(one)) for one in deviations]
    return Bench(bench.answers, bench.sae, bench.survey, bench.splits, bench.settings, bench.folder, {"delta": offsets})


def test_the_cost_from_toplines_does_not_see_what_moves_everybody(opposites):
    assert toplines_cost(opposites, np.log(np.full((1, 1, 2), 0.5))) == pytest.approx(ALONE, abs=2e-3)
    assert toplines_cost(opposites, HALF) == pytest.approx(LEFT, abs=2e-3)
    moved = HALF + np.log([4.0, 1.0])
    moved -= np.log(np.exp(moved).sum(-1, keepdims=True))
    assert toplines_cost(opposites, moved) == pytest.approx(toplines_cost(opposites, HALF))
    padded = np.concatenate([HALF, np.full((2, 1, 2), -np.inf)], -1)  # options that only other questions have
    assert toplines_cost(opposites, padded) == toplines_cost(opposites, HALF)


def test_targets_are_the_share_of_the_way_to_the_floor_of_each_task(opposites):
    board = object.__new__(Board)
    board.survey, board.plain = opposites, np.log(np.full((1, 1, 2), 0.5))
    board.floor, board.given_floor = np.zeros((2, 1)), np.full((2, 1), 0.06806)
    found = board.targets(HALF, np.arange(1))
    assert found["target"] == pytest.approx((ALONE - LEFT) / ALONE, abs=1e-3)
    assert found["target_toplines"] == pytest.approx((ALONE - LEFT) / 0.3, abs=5e-3)
    assert board.targets(board.plain, np.arange(1)) == {"target": 0.0, "target_toplines": 0.0}
    assert board.targets(np.log(opposites.shares), np.arange(1)) == {"target": 1.0, "target_toplines": 1.0}


def test_gaps_of_methods_that_stay_are_kept_and_no_others(tmp_path):
    assert compare.kept_gaps(tmp_path, ["words"]).empty
    pairs = [("toplines", "words"), ("alone", "words"), ("toplines", "direct")]
    rows = [{"task": task, "method": name, "group": "all", "gap_r": 0.5} for task, name in pairs]
    write_csv(tmp_path / compare.GAPS, pd.DataFrame(rows).reindex(columns=gaps_table.COLUMNS))
    found = compare.kept_gaps(tmp_path, ["words", "gpo"])
    assert found["method"].tolist() == ["words", "words"] and list(found.columns) == gaps_table.COLUMNS
    assert compare.kept_gaps(tmp_path, []).empty
    write_csv(tmp_path / compare.GAPS, pd.DataFrame(rows))
    with pytest.raises(ValueError, match="n_questions"):
        compare.kept_gaps(tmp_path, ["words"])


def test_what_remains_is_the_mean_over_splits_that_have_parts(bench):
    assert compare.remains(bench) == {}
    # sex lies along latent 0, party between 0 and 1: half of either's square is left; in the last split all of it
    parts = [[1.0, 0, 0], [-1.0, 0, 0], [1.0, 1.0, 0], [-1.0, -1.0, 0]]
    apart = [[1.0, 0, 0], [-1.0, 0, 0], [0, 1.0, 0], [0, -1.0, 0]]
    found = compare.remains(known(bench, parts, [[0.0] * 3] * 4, apart))
    assert (found["splits"], found["used"]) == (3, 2)
    assert found["left"] == pytest.approx({"sex without party": 0.75, "party without sex": 0.75})
    assert compare.remains(known(bench, [[0.0] * 3] * 4)) == {"splits": 1, "used": 0, "left": {}}


def inputs(bench, folder: Path) -> Inputs:
    elsewhere = object.__new__(Elsewhere)  # which nothing here asks
    book = (bench.answers, lambda seed: bench.sae, bench.survey, bench.splits, folder, {})
    return Inputs(*book, elsewhere, [bench.settings])


def test_offsets_are_known_as_far_as_chapters_left_them(bench, tmp_path, capsys):
    given = inputs(bench, tmp_path)
    assert compare.known_offsets(tmp_path, given) == {}
    said = capsys.readouterr().out
    assert [f"{name} is fitted anew" in said for name in ("shared-delta", "delta", "dense", "reading-64")] == [True] * 4
    (delta,) = known(bench, [[1.0, 0, 0]] * 4).known["delta"]
    delta.save(tmp_path / "delta-0.safetensors")
    save_dense(tmp_path / "dense.safetensors", [DenseOffset(GROUPS, 32)])
    found = compare.known_offsets(tmp_path, given)
    assert list(found) == ["delta", "dense"] and torch.equal(found["delta"][0].deviation, delta.deviation)
    assert "dense is fitted anew" not in capsys.readouterr().out


def test_the_difference_of_means_is_that_of_training_prompts_at_a_strength_other_than_none(bench):
    residuals = np.zeros((4, 3, 32), np.float32)
    residuals[:, 0, :2] = [[4, 0], [0, 0], [0, 2], [0, 2]]  # the training question; means 1 and 1
    residuals[:, 1:] = 99 * np.arange(4)[:, None, None]  # questions that must not be read
    bench.__dict__["personas"] = residuals, np.arange(3)
    outcome = diff_means(bench)
    (offset,) = outcome.steering
    assert isinstance(offset, DenseOffset) and outcome.parameters == 4 * 32
    strength = offset.deviation[0, 0].item() / 3
    assert strength in STRENGTHS and not offset.shared.any()
    wanted = torch.tensor([[3.0, -1], [-1, -1], [-1, 1], [-1, 1]])
    torch.testing.assert_close(offset.deviation[:, :2], strength * wanted)
    assert not offset.deviation[:, 2:].any()
