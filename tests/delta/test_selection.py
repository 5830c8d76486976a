"""Choices on validation questions: doses and L1 strength, kinds of offsets, and the grid over layers."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from opinion_sae.artifacts import write_json
from opinion_sae.book import select as layers
from opinion_sae.book.figures.selection import doses, layer_grid
from opinion_sae.book.profile import load_profile
from opinion_sae.delta.fit import fit_frozen
from opinion_sae.delta.held_out import Split, by_question
from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.delta.selection import choice_table, compare_kinds, select_offsets
from opinion_sae.delta.settings import FitSettings
from opinion_sae.losses import mean_kl
from opinion_sae.model.activations import activations
from opinion_sae.model.answers import AnswerPath
from opinion_sae.sae.train import untrained_sae

WIDTH, FOLDS = 64, np.array([0, 1, 2])
SPLITS = by_question(FOLDS)


@pytest.fixture
def answers(lm, tiny):
    return AnswerPath(lm, tiny.questions, hook_layer=2)


@pytest.fixture
def sae(answers):
    return untrained_sae(answers.residual, WIDTH, 8, 0).requires_grad_(False)


def test_a_dose_multiplies_each_part_and_leaves_the_offset_alone(answers):
    delta = GroupDelta(["a", "b"], untrained_sae(answers.residual, 3, 1, 0))
    with torch.no_grad():
        delta.shared[:] = torch.tensor([1.0, -4.0, 2.0])
        delta.deviation[1] = 8.0
    assert delta.dosed(0.5, 0.25).offsets().tolist() == [[0.5, -2, 1], [2.5, 0, 3]]
    assert delta.strongest_shared(2).offsets().tolist() == [[0, -4, 2]] * 2
    assert delta.offsets()[1].tolist() == [9, 4, 10]


def test_the_choice_is_the_lowest_on_validation_and_answers_the_test_questions(answers, sae, two_groups):
    fits = [
        fit_frozen(
            answers,
            sae,
            two_groups,
            split=Split("s", np.array([(f + 2) % 3]), np.arange(0), np.arange(0)),
            stages=("shared",),
            settings=FitSettings(epochs=4),
        )[0]
        for f in range(3)
    ]
    deltas = [fit.with_parts() for fit in fits]
    for delta in deltas:
        delta.deviation.data.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    found = select_offsets(
        answers, two_groups, SPLITS, fits, deltas, [1e-2], [4], FitSettings(l1=1e-3, epochs=2, lr=1.0)
    )
    grid, shares = found.grid, torch.from_numpy(two_groups.shares).float()
    assert grid.groupby("fold")["chosen"].sum().tolist() == [1, 1, 1]
    for fold, offset in enumerate(found.offsets):
        part = grid[grid.fold == fold]
        chosen = part[part.chosen].iloc[0]
        assert chosen.validation_kl == part.validation_kl.min()
        where = torch.tensor([(fold + 1) % 3])
        kl = mean_kl(shares[:, where], answers.predict(offset, where)).item()
        assert kl == pytest.approx(chosen.validation_kl, rel=1e-4)
        test = answers.predict(offset, torch.tensor([fold])).numpy()
        np.testing.assert_array_equal(found.log_probs[:, [fold]], test)
    table = choice_table(grid)
    assert (table["KL chosen"] <= table[["KL unsteered", "KL Δ_shared", "KL Δ"]].min(axis=1)).all()
    assert set(grid.kept) == {"all", "4"} and set(grid.l1) == {1e-3, 1e-2}
    assert len(doses(grid).axes) == 3


def test_every_kind_is_fitted_to_the_same_fold(answers, sae, two_groups):
    table = compare_kinds(answers, sae, two_groups, SPLITS[0], FitSettings(epochs=3, l1=1e-3), rank=1).set_index("kind")
    same = ["rectified", "rectified, group lasso", "rectified, rank 1"]
    assert list(table.index) == [*same, "additive", "multiplicative"]
    assert table.loc[same, "test KL, shared only"].nunique() == 1
    assert np.isfinite(table.to_numpy(dtype=float)).all() and (table["latents per group"] <= WIDTH).all()


def test_several_layers_at_once_give_the_activations_of_each(lm):
    texts = ["It is cold today, and the road is long.", "Good bread needs time, water and salt."]
    together = layers.layer_activations(lm, texts, [3, 1])
    for layer in (1, 3):
        torch.testing.assert_close(together[layer], activations(lm, texts, layer))
    with pytest.raises(ValueError, match="hook_layer 4: .* has 5 layers"):
        layers.layer_activations(lm, texts, [4])


@pytest.fixture
def small(tmp_path, lm, two_groups, monkeypatch):
    """A profile whose model and survey are made up, and the texts of its chapter 03."""
    changes = {"output": str(tmp_path / "small"), "hook_layer": 2, "option_orders": 2, "sae_width": WIDTH, "sae_k": 8}
    changes |= {"select_layers": [1, 2], "l1_grid": [1e-2], "kl_weights": [0.1, 10.0], "sae_batch": 16, "epochs": 1}
    monkeypatch.setattr(layers, "load_language_model", lambda *_: lm)
    monkeypatch.setattr(layers, "load_survey", lambda *_: two_groups)
    monkeypatch.setattr(layers, "question_folds", lambda *_: FOLDS)
    monkeypatch.setattr(
        layers, "open_run", lambda _: dataclasses.make_dataclass("Run", ["results", "work"])(tmp_path, tmp_path)
    )
    write_json(
        tmp_path / "texts.json",
        {"training": ["It is cold, and the road is long."] * 3, "held_out": ["Good bread."], "prompts": []},
    )
    return dataclasses.replace(load_profile("smoke"), **changes)


def test_the_grid_has_every_fit_and_goes_on_where_it_stopped(small, tmp_path, monkeypatch):
    whole = layers.select(small)
    modes = whole.groupby(["layer", "fold"])["mode"].agg(list)
    assert modes[1, 0] == ["unsteered", "shared", "shared", "both"]
    assert modes[2, 2] == [*modes[1, 0], "joint", "joint"] and len(modes) == 6
    pd.DataFrame(whole[whole.layer == 1]).to_csv(tmp_path / "selection.csv", index=False)
    fitted = []
    rows_of_split = layers.rows_of_split
    monkeypatch.setattr(layers, "rows_of_split", lambda *args: fitted.append(args[3]) or rows_of_split(*args))
    again = layers.select(small)
    assert fitted == [2, 2, 2]
    pd.testing.assert_frame_equal(again, whole)
    chosen = layers.chosen_by_fold(whole)
    fits = whole[whole["mode"].isin(["shared", "both"])]
    assert chosen.KL.tolist() == fits.groupby("fold").kl.min().tolist() and chosen["β (joint)"].isin([0.1, 10.0]).all()
    assert len(layers.means(whole)) == 10
    assert len(layer_grid(whole).axes) == 3
    other = dataclasses.replace(small, l1=3e-3)
    assert layers.settings_hash(other) != layers.settings_hash(small)


def test_without_texts_or_a_grid_it_says_so(small, tmp_path):
    (tmp_path / "texts.json").unlink()
    with pytest.raises(FileNotFoundError, match="texts that SAEs are trained on are not there; run `make book` first"):
        layers.select(small)
    empty = layers.grid_of(tmp_path / "selection.csv")
    assert empty.empty and layers.chosen_by_fold(empty).empty and layer_grid(empty)
