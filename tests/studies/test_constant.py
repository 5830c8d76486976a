"""What else a constant offset can be."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest

from opinion_sae.artifacts import write_csv
from opinion_sae.book import constant_study, scratch_study
from opinion_sae.book.study_tables import ABSENT, load_tables, note
from opinion_sae.delta.files import load_answers, save_answers
from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.delta.settings import JointSettings
from opinion_sae.score.metrics import mean_over_groups, score
from opinion_sae.studies import Constant, constant


@pytest.fixture(scope="module")
def made(book, tiny, tmp_path_factory):
    """All items of a small book whose offsets are 0, with two intersections."""
    work = tmp_path_factory.mktemp("constant") / "work"
    shutil.copytree(book.work, work)
    zero = GroupDelta(book.survey.groups, book.sae)
    for number in range(len(book.splits)):
        for name in ("shared", "delta"):
            zero.save(work / f"{name}-{number}.safetensors")
    book.sae.save(work / "joint" / "sae")
    zero.save(work / "joint" / "delta.safetensors")
    plain = book.answers.predict().numpy()
    of_groups = np.repeat(plain, len(book.survey.groups), 0)
    save_answers(work / "answers.safetensors", {"unsteered": plain, "delta": of_groups})
    save_answers(work / "answers-joint.safetensors", {"delta-joint": of_groups})
    shares = np.random.default_rng(1).dirichlet(np.ones(2), (2, 24))
    both = tiny.survey(shares, book.survey.questions, ("f & d", "m & r"), ["sex x party"] * 2)
    joint = JointSettings(epochs=1, batch=8, token_batch=64, lr=0.03)
    asked = Constant(joint, scratch_steps=2, tilts=(0.0, 20.0), kind_epochs=1, crossed=both)
    given = dataclasses.replace(book, work=work, folder=work, constant=asked)
    return given, {name: item.make() for name, item in constant.items(given).items()}


@pytest.fixture(scope="module")
def tables(made):
    return constant.tables(*made)


def test_the_tilted_loss_is_held_against_the_books_own_fit(made, tables):
    given, _ = made
    tilt = tables["tilt"].set_index(["t", "measure", "which"])["value"]
    expected = mean_over_groups(given.survey, score(given.survey, load_answers(given.work)["delta"]).kl)
    assert tilt[0.0, "kl", "mean over groups"] == pytest.approx(expected)
    assert (tilt[:, "kl", "worst-off group"] >= tilt[:, "kl", "mean over groups"]).all()
    assert tables["tilt"]["t"].unique().tolist() == [0.0, 20.0]


def test_offsets_of_two_groups_that_are_nothing_add_up_to_nothing(tables):
    rows = tables["composition"].set_index("offset")
    same = rows.loc[["shared only", "first member", "second member", "sum of members"], "kl"]
    assert same.nunique() == 1 and rows.loc["fitted directly", "minus direct fit"] == 0
    assert (rows["intersections"] == 2).all()


def test_every_kind_and_every_way_of_training_along_is_there(made, tables):
    given, _ = made
    assert len(tables["kinds"]) == 5 and (tables["kinds"]["n_questions"] == len(given.splits[0].test)).all()
    joint = tables["joint"].set_index("training")
    assert joint.loc["trained SAE, e kept", "test_kl"] == pytest.approx(joint.loc["unsteered", "test_kl"], rel=1e-5)
    assert joint["fvu"].drop("unsteered").notna().all() and "from scratch, reconstruction alone" in joint.index
    assert tables["scratch"]["epoch"].tolist() == [0, 1]


def test_items_depend_on_what_the_profile_says_and_parts_that_are_missing_leave_tables_out(made):
    given, parts = made
    other = dataclasses.replace(given, constant=given.constant._replace(tilts=(3.0,), crossed=None))
    before, after = constant.items(given), constant.items(other)
    assert "crossed" not in after and before["kinds"].about == after["kinds"].about
    assert before["tilt"].about != after["tilt"].about
    assert set(constant.tables(given, {"kinds": parts["kinds"]})) == {"kinds"} and constant.tables(given, {}) == {}


def test_what_the_chapters_say_turns_with_the_tables(tables, tmp_path):
    none = load_tables("constant", tmp_path)
    for sentence in (constant_study.tilt, scratch_study.scratch, scratch_study.joint_costs):
        assert sentence(none) == ABSENT
    for figure in (constant_study.tilt_figure, scratch_study.scratch_figure):
        assert [text.get_text() for text in figure(none).axes[0].texts] == [ABSENT]
    page, caption = constant_study.composition(none)
    assert page.empty and "intersections)" not in caption and "has not been run" in note(none)
    for name, table in tables.items():
        write_csv(tmp_path / "constant" / f"{name}.csv", table)
    read = load_tables("constant", tmp_path)
    for name, table in tables.items():
        pd.testing.assert_frame_equal(read[name], table, rtol=1e-4, check_dtype=False)
    page, caption = constant_study.composition(read)
    assert "(2 intersections)" in caption and "minus direct fit_low" in page and "intersections" not in page
    assert len(constant_study.tilt_figure(read).axes) == 2 and len(scratch_study.scratch_figure(read).axes) == 4
    read["tilt"].loc[read["tilt"]["t"] == 20, "value"] = 0.5
    assert "(t = 20)" in constant_study.tilt(read) and "to 0.500" in constant_study.tilt(read)
    read["joint"].loc[read["joint"]["training"].str.startswith("from scratch"), ["fvu", "fvu_at_answers"]] = 0.5
    assert "leaves 1.00 times" in scratch_study.joint_costs(read)
    assert "Over 1 epochs" in scratch_study.scratch(read)
