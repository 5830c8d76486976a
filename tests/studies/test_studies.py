"""Both studies on a small model: every item, the tables after each, and what they say."""

import numpy as np
import pandas as pd
import pytest
import torch

from opinion_sae.artifacts import made, recalled
from opinion_sae.sae.architectures import ARCHITECTURES
from opinion_sae.studies import architectures, ground, seeds, size
from opinion_sae.studies.architectures import Name

pytestmark = pytest.mark.filterwarnings("ignore:The 'utils' module has been deprecated:DeprecationWarning")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(architectures, "SEEDS", 2)
    monkeypatch.setattr(ground, "BATCH", 64)
    monkeypatch.setattr(ground, "STEPS", 6)
    monkeypatch.setattr(size, "WIDTHS", (16, 32, 64))
    monkeypatch.setattr(size, "SEEDS", 2)
    monkeypatch.setattr(size, "SEEDED", 32)


def make(given, study, names):
    items, parts = study.items(given), {}
    for name in names:
        path = given.folder / f"{name}.safetensors"
        made(path, items[name])
        parts[name] = recalled(path, items[name].about)  # as a later run finds it
    return parts


def test_the_order_of_items_is_that_of_their_worth(given):
    names = list(architectures.items(given))
    first = [f"{name}-4-0" for name in (*ARCHITECTURES, "book")]
    assert names[: 2 * len(first)] == first + [f"gaps-{name}" for name in first]
    assert names[2 * len(first)] == "topk-4-1" and names[3 * len(first) - 1] == "topk-2-0"
    assert names[-1] == "gaps-standard-8-0"
    assert len(names) == len(set(names)) == 2 * 3 * 9 + 2 * 9 + 2 + 2 * 9
    widths = ["16", "32", "64"]
    of = [f"{width}-{seed}" for seed in range(2) for width in widths]
    assert list(size.items(given)) == [*of, *(f"gaps-{one}" for one in of if one != "64-1")]


def test_every_architecture_is_trained_measured_and_read_with(given):
    chosen = ["topk", "standard", "gated", "jumprelu", "atm"]
    parts = make(given, architectures, [f"{name}-4-0" for name in [*chosen, "book"]])
    parts |= make(given, architectures, ["topk-4-1", "gaps-topk-4-0", "gaps-book-4-0"])
    tables = architectures.tables(given, parts)
    saes = tables["saes"].set_index(["architecture", "seed"])
    assert set(saes.index) == {(name, 0) for name in [*chosen, "book"]} | {("topk", 1)}
    assert saes.loc[("topk", 0), "l0_at_answers"] <= 4 and 0 < saes.loc[("topk", 0), "fvu"] < 1.5
    assert saes.loc[("topk", 0), "ratio"] == 1 and saes["ratio"].drop(("book", 0)).gt(0).all()
    assert np.isnan(saes.loc[("topk", 0), "stability"]) and 0 < saes.loc[("topk", 1), "stability"] < 1
    long = tables["architectures"].set_index(["architecture", "measure"])
    row = long.loc[("topk", "fvu")]
    assert row["n_seeds"] == 2 and row["low"] < row["value"] < row["high"]
    assert row["value"] == pytest.approx(saes.loc["topk", "fvu"].mean())
    gap = long.loc[("topk", "gap_r")]
    assert -1 <= gap["low"] <= gap["high"] <= 1 and gap["n_seeds"] == 1
    gain = long.loc[("book", "gap_r_gain")]
    base = long.loc[("topk", "gap_r"), "value"]
    assert gain["value"] == pytest.approx(long.loc[("book", "gap_r"), "value"] - base)
    assert long.loc[("topk", "gap_r_gain"), "value"] == 0
    kept = architectures.sae_of(given, Name("topk", 4, 0))
    fvu, _, _ = ground.reconstructed(kept, given.activations.held_out)
    assert fvu == pytest.approx(parts["topk-4-0"]["fvu"].item())


def test_an_offset_needs_its_sae(given):
    with pytest.raises(FileNotFoundError, match="make the item topk-4-0 first"):
        make(given, architectures, ["gaps-topk-4-0"])
    with pytest.raises(FileNotFoundError, match="make the item 16-1 first"):
        make(given, size, ["gaps-16-1"])
    with pytest.raises(FileNotFoundError, match="make the item 16-0 first"):  # which a wide one is split against
        make(given, size, ["32-0"])


def test_tables_of_nothing_have_no_rows(given):
    for study in (architectures, size):
        assert all(len(table) == 0 or table.isna().any(axis=None) for table in study.tables(given, {}).values())


def test_widths_are_trained_split_and_fitted(given):
    parts = make(given, size, ["16-0", "32-0", "64-0", "gaps-16-0", "16-1", "32-1"])
    tables = size.tables(given, parts)
    table = tables["size"].set_index("width")
    assert list(table.index) == [16, 32, 64] and "split" not in parts["16-0"]
    assert list(table["n_seeds"]) == [2, 2, 1] and list(table["n_seeds_gaps"]) == [1, 0, 0]
    assert table.loc[16, "gap_r_low"] <= table.loc[16, "gap_r_high"] and np.isnan(table.loc[32, "gap_r"])
    both = [parts[f"32-{seed}"]["fvu"].item() for seed in range(2)]
    assert table.loc[32, "fvu"] == pytest.approx(np.mean(both)) and table.loc[32, "fvu_low"] < min(both)
    assert np.isnan(table.loc[64, "fvu_low"])
    assert size.kept_sae(given, size.Name(64, 0)).width == 64
    exponents = tables["exponents"].set_index("measure")
    assert list(exponents.index) == ["fvu", "fvu_at_answers", "processor"] and (exponents["n_seeds"] == 2).all()
    slope = np.log(parts["32-1"]["fvu"] / parts["16-1"]["fvu"]) / np.log(2)
    assert exponents.loc["fvu", "exponent_low"] < slope < exponents.loc["fvu", "exponent_high"]


def test_splitting_by_hand():
    tokens = torch.eye(4)
    narrow = tokens[:, :3]  # each fires on a token of its own
    wide = torch.stack([tokens[0], 2 * tokens[0] + 0.1 * tokens[3], tokens[1], tokens.sum(0), tokens[3]], dim=1)
    # two with the first, one with the second, none with the third; one fires always, one where no narrow one does
    mean, share = size.split(narrow, wide)
    assert mean == pytest.approx(1.5) and share == pytest.approx(2 / 3)
    assert np.isnan(size.split(narrow, wide[:, 4:])[0])


def test_only_latents_that_fire_often_are_held_against_each_other(given, monkeypatch):
    z = (given.sae.encode(given.activations.held_out) > 0).sum(0)
    monkeypatch.setattr(size, "OFTEN", int(z.median()))
    found = size.fired(given.sae, given.activations.held_out)
    assert found.shape[1] == (z >= z.median()).sum() < given.sae.width


def test_the_exponent_of_a_power_law_is_found():
    width = np.array([1.0, 2.0, 4.0, 8.0])
    assert size.exponent(width, 3 * width**-0.5) == pytest.approx((-0.5, np.log(3)))


def test_intervals_over_seeds_by_hand():
    low, high = seeds.student(np.array([1.0, 2.0, 3.0]))  # mean 2, s = 1, t = 4.303, n = 3
    assert (low, high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))
    assert np.isnan(seeds.student(np.array([1.0]))[0])
    of = np.array([[0.0, *[0.0] * 400], [2.0, *[2.0] * 400]])  # nothing hangs on the questions, all on the seed
    assert seeds.over_questions("r", of, 0) == {"r": 1.0, "r_low": 0.0, "r_high": 2.0}


def test_variance_unexplained_is_compared_at_the_same_l0():
    rows = [("gated", l0, seed, l0, 8 / l0 + 0.01 * seed) for l0 in (4.0, 16.0) for seed in range(2)]
    rows += [("topk", 4, 0, 16.0, 0.5), ("topk", 8, 0, 32.0, 0.4)]  # both above the L0 asked for
    saes = pd.DataFrame(rows, columns=["architecture", "target_l0", "seed", "l0", "fvu"])
    found = list(architectures._at_equal_l0(saes, 8))
    assert [row[:4] for row in found] == [("gated", 8, "fvu_at_l0", 2)]
    halfway = [np.sqrt((2 + 0.01 * seed) * (0.5 + 0.01 * seed)) for seed in range(2)]
    assert found[0][4] == pytest.approx(np.mean(halfway))


def test_stability_is_a_mean_over_pairs():
    group = pd.DataFrame({"architecture": "topk", "target_l0": 4, "seed": [0, 1, 2], "dead": [0.0, 0.0, 0.3]})
    rows = {row[2]: row for row in architectures._means(("topk", 4), group.assign(stability=[np.nan, 0.2, 0.5]))}
    assert rows["stability"][3:5] == (3, pytest.approx(0.4)) and np.isnan(rows["stability"][5])  # (0.2 + 2 x 0.5) / 3
    assert rows["dead"][5] == 0 and rows["dead"][6] < 1  # a share below 0 there is not


def test_the_ratio_is_to_topk_of_the_same_sparsity_and_seed():
    saes = pd.DataFrame(
        [("topk", 4, 0, 2.0), ("gated", 4, 0, 6.0), ("topk", 8, 0, 3.0), ("gated", 8, 0, 6.0), ("gated", 4, 1, 1.0)],
        columns=["architecture", "target_l0", "seed", "processor"],
    )
    assert architectures.with_ratio(saes)["ratio"].tolist()[:4] == [1, 3, 1, 2]
    assert np.isnan(architectures.with_ratio(saes)["ratio"][4])


def test_words_are_of_one_token_and_evenly_drawn(lm, given, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(ground, "WORDS", 2)
    found = ground.words(lm, 1)
    assert found["words"].shape == (0, lm.width) and len(found["letters"]) == 0  # it was trained on one sentence
    vocabulary = {1: " apple", 2: " angle", 3: " arrow", 4: " ape", 5: "beach", 6: " Berry", 7: " beach"}
    monkeypatch.setattr(type(lm.tokenizer), "batch_decode", lambda self, ids: [vocabulary.get(i, "") for [i] in ids])
    found = ground.words(lm, 1)
    assert found["letters"].tolist() == [0, 0, 1]  # apple, arrow; beach
    before = lm.tokenizer(ground.BEFORE, add_special_tokens=False)["input_ids"]
    last = lm.residual(torch.tensor([[*before, 7]]), 1)[0, -1]
    torch.testing.assert_close(torch.from_numpy(found["words"][2]), last, rtol=1e-4, atol=1e-4)
