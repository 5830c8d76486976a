"""An offset that reads, trained on through the model."""

import dataclasses

import pandas as pd
import pytest
import torch

from opinion_sae.artifacts import write_csv
from opinion_sae.book.study_tables import load_tables
from opinion_sae.book.trained_on import fits_sentence, trained_on_page, trained_on_sentence
from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.studies import trained_on


@pytest.fixture(scope="module")
def parts(book, tmp_path_factory):
    """Every item of a small book, with two weights and one round of timing."""
    given = dataclasses.replace(book, folder=tmp_path_factory.mktemp("trained"))
    for number in range(len(given.splits)):
        shared = GroupDelta(given.survey.groups, given.sae)
        shared.save(given.work / f"shared-{number}.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trained_on, "L1", (0.0, 1e4))
        patch.setattr(trained_on, "RATES", (0.03, 0.001))
        patch.setattr(trained_on, "ROUNDS", 1)
        patch.setattr(trained_on, "LATENTS", 8)
        made = {name: item.make() for name, item in trained_on.items(given).items()}
        yield given, made, trained_on.tables(given, made)


def test_what_is_kept_is_no_worse_on_validation_and_a_heavy_weight_leaves_nothing(parts):
    given, made, tables = parts
    splits = tables["splits"].set_index(["split", "rate", "l1"])
    assert len(splits) == 4 * len(given.splits)
    assert (splits["validation_kl"] <= splits["validation_kl_start"]).all()
    assert splits["chosen"].groupby("split").sum().tolist() == [1] * len(given.splits)
    for number in range(len(given.splits)):
        heavy, light = made[f"split-{number}-l1-10000.0"], made[f"split-{number}-l1-0.0"]
        assert heavy["entries_b"][-1] == 0 < light["entries_b"][-1]
        assert heavy["entries_a"][0] == light["entries_a"][0] >= light["entries_a"].max()  # none is recruited
        assert (heavy["before"] == light["before"]).all()


def test_before_and_after_are_scored_on_every_question(parts):
    given, _, tables = parts
    gaps = tables["gaps"].set_index(["task", "method"])
    assert set(gaps.index) == {(task, when) for task in ("alone", "toplines") for when in ("before", "after")}
    assert (gaps["n_questions"] == len(given.survey.questions)).all()
    step = tables["steps"].iloc[0]
    assert step["least"] <= step["ratio"] <= step["most"] and step["seconds_constant"] > 0


def test_parts_that_are_missing_leave_their_tables_out(parts):
    given, made, _ = parts
    assert trained_on.tables(given, {}) == {}
    some = trained_on.tables(given, {"split-1-l1-0.0": made["split-1-l1-0.0"]})
    assert list(some) == ["splits"] and some["splits"]["split"].tolist() == [1] and not some["splits"]["chosen"].any()


def test_the_sentence_turns_with_the_tables(parts, tmp_path):
    tables = {name: table.copy() for name, table in parts[2].items()}
    for name, table in tables.items():
        write_csv(tmp_path / "trained_on" / f"{name}.csv", table)
    read = load_tables("trained_on", tmp_path)
    pd.testing.assert_frame_equal(read["steps"], tables["steps"], rtol=1e-5)
    assert set(read.tables) == set(tables) and "γ" in trained_on_page(read)
    chosen = read["splits"]["chosen"]
    read["splits"].loc[chosen, "epoch"] = 0
    read["steps"]["ratio"] = 1.07
    best = read["splits"]["rate"] == 0.001
    read["splits"].loc[best & (read["splits"]["l1"] == 0), "train_kl_last"] = 0.0012
    read["gaps"].loc[read["gaps"]["method"] == "after", "gap_r"] = 0.61
    said = trained_on_sentence(read)
    assert f"changes in none of {chosen.sum()} splits, and the gap correlation stays at" in said
    assert "takes 1.07 times" in said
    rows = read["splits"]
    ends = {"validation_kl_start": 0.2, "validation_kl_last": [0.3, *[0.1] * (len(rows) - 1)], "epoch": 1}
    worse = read._replace(tables={**read.tables, "splits": rows.assign(**ends)})
    said_of_fits = f"Of {len(rows)} fits 1 end with a higher validation KL than they began with, and 0 keep their start"
    assert said_of_fits in fits_sentence(worse)
    assert "learning rate 0.001, γ = 0), their KL comes down to 0.0012 nats" in said
    read["splits"].loc[read["splits"].index[chosen][0], "epoch"] = 2
    said = trained_on_sentence(read)
    assert f"changes in 1 of {chosen.sum()} splits, and the gap correlation goes from" in said and "to 0.61 (" in said
    none = load_tables("trained_on", tmp_path / "nowhere")
    assert "has not been run" in trained_on_sentence(none) and trained_on_page(none).empty
    (tmp_path / "trained_on" / "steps.csv").write_text("ratio\n1.0\n")
    with pytest.raises(ValueError, match=r"steps\.csv"):
        load_tables("trained_on", tmp_path)


def test_the_start_is_the_fit_to_the_training_questions(parts):
    given, made, _ = parts
    split, offset = trained_on.begun(given, 0)
    before = given.answers.predict(offset, torch.from_numpy(split.test)).numpy()
    assert made["split-0-l1-0.0"]["before"] == pytest.approx(before, abs=1e-5)
