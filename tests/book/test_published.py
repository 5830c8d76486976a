"""The tables of published runs, as a chapter reads them."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from opinion_sae.book import published
from opinion_sae.book.figures.published import compare_models, groups_by_model
from opinion_sae.book.paths import ROOT
from opinion_sae.book.published import COLUMNS, COMMANDS, ON_DEFAULT, load_published, published_runs

THERE = [name for name in COMMANDS if (ROOT / "results" / name).is_dir()]
METHODS = ("unsteered", "shared-delta", "delta", "of my own")
GAPS = {"delta-reading": 0.41, "words": 0.45}


def write(folder, methods=METHODS, groups=("Women", "Men", "all"), model="packaged:small"):
    folder.mkdir()
    kl = {(m, g): 0.1 * (i + 1) + j for i, m in enumerate(methods) for j, g in enumerate(groups)}
    rows = [(*who, "question", 4, x, 0.5, 0.5, x - 0.05, x + 0.05, 0.4, 0.6, 0.5) for who, x in kl.items()]
    pd.DataFrame(rows, columns=COLUMNS).to_csv(folder / "alignment.csv", index=False)
    pd.DataFrame({"group": groups, "kl": 0.01, "alignment": 0.99}).to_csv(folder / "floor.csv", index=False)
    pair = {"group": groups, "method": "delta", "reference": "unsteered", "kl_difference": 0.1, "low": 0.0, "high": 0.2}
    pd.DataFrame(pair).to_csv(folder / "comparisons.csv", index=False)
    (folder / "numbers.json").write_text('{"n_questions": "4"}')
    chapters = {"01": {"seconds": 30.0, "peak_memory_mb": 900}, "02": {"seconds": 60.0, "peak_memory_mb": 1800}}
    profile = {"survey": "opinionqa:data/opinionqa", "model": model, "hook_layer": 7}
    (folder / "run.json").write_text(json.dumps({"profile": profile, "machine": "2 cores", "notebooks": chapters}))


@pytest.fixture
def both(tmp_path):
    """A results folder with both published runs; the second lacks a method."""
    write(tmp_path / "opinionqa")
    write(tmp_path / "opinionqa-qwen", METHODS[:3], model="models/large-q4.gguf")
    return tmp_path


def test_tables_come_back_by_method_and_by_group(tmp_path):
    write(tmp_path / "mine")
    found = load_published("mine", tmp_path)
    assert list(found.overall.index) == list(METHODS) and "group" not in found.overall
    assert found.overall.loc["delta", "kl"] == pytest.approx(2.3)
    assert list(found.by_group.index) == ["Women", "Men"]  # in the table's order, without `all`
    assert found.by_group.loc["Men", "unsteered"] == pytest.approx(1.1)
    assert len(found.table) == 12 and found.numbers["n_questions"] == "4"
    assert found.run["profile"]["survey"] == "opinionqa:data/opinionqa"


@pytest.mark.parametrize("name", ["alignment.csv", "floor.csv", "comparisons.csv", "numbers.json", "run.json"])
@pytest.mark.parametrize(
    ("run", "command"), [("mine", "make book PROFILE=mine"), ("opinionqa", "make tables PROFILE=opinionqa")]
)
def test_an_absent_table_says_how_to_make_it(tmp_path, name, run, command):
    write(tmp_path / run)
    (tmp_path / run / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{run}/{name}: not there; `{command}` writes it"):
        load_published(run, tmp_path)


def test_a_table_of_another_form_is_refused(tmp_path):
    write(tmp_path / "mine")
    path = tmp_path / "mine" / "alignment.csv"
    table = pd.read_csv(path)
    table.drop(columns="tv").to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"alignment.csv: columns \['tv'\] are missing; found"):
        load_published("mine", tmp_path)
    table[:0].to_csv(path, index=False)
    with pytest.raises(ValueError, match="alignment.csv: no rows"):
        load_published("mine", tmp_path)


def test_runs_that_are_there_stand_side_by_side(both):
    runs = published_runs("results/default", both)
    assert [found.model for found in runs.values()] == ["small", "large-q4"]
    table = published.run_table(runs)
    assert list(table.loc["minutes"]) == [1.5, 1.5] and list(table.loc["peak memory (GB)"]) == [1.8, 1.8]
    assert list(table.loc["command"]) == [COMMANDS[name] for name in runs] and list(table.loc["groups"]) == [2, 2]
    wide = published.side_by_side(runs, ("kl", "gap_closed"))
    assert wide.loc["delta", ("large-q4", "kl")] == pytest.approx(2.3)
    assert np.isnan(wide.loc["of my own", ("large-q4", "kl")])
    assert published.differences(runs).loc[("delta", "unsteered"), ("small", "high")] == 0.2
    third, *others = published.absent(runs, "results/default").splitlines()
    assert (
        third.startswith("results/opinionqa-qwen-1.5b is not in this checkout: `opinion-sae run") and len(others) == 2
    )


def test_an_absent_run_is_said_with_its_command_and_breaks_nothing(both):
    shutil.rmtree(both / "opinionqa-qwen")
    (both / "opinionqa-qwen").mkdir()  # a run that has begun
    runs = published_runs("results/default", both)
    assert list(runs) == ["opinionqa"]
    assert "results/opinionqa-qwen is not in this checkout: `opinion-sae run" in published.absent(
        runs, "results/default"
    )
    assert published.absent({}, "results/default").count("\n") == len(COMMANDS) - 1
    assert (
        len(published.run_table({})) == len(published.side_by_side({}, ("kl",))) == len(published.differences({})) == 0
    )


def test_a_run_does_not_show_what_it_is_still_writing(both):
    runs = published_runs("results/opinionqa", both.parent / both.name)
    assert list(runs) == ["opinionqa", "opinionqa-qwen"]  # another results folder than the repository's
    runs = published_runs(str(both / "opinionqa"), both)
    assert list(runs) == ["opinionqa-qwen"]
    assert "results/opinionqa is what this run writes" in published.absent(runs, str(both / "opinionqa"))


def test_the_figure_has_a_row_per_method_and_a_mark_per_model(both):
    runs = published_runs("results/default", both)
    overall = {found.model: found.overall for found in runs.values()}
    figure = compare_models(overall, {"small": 0.01, "large-q4": 0.02})
    kl, gap = figure.axes
    assert kl.texts[-1].get_text() == "of my own"  # a method without a mark of its own
    assert len(kl.get_yticks()) == len(METHODS) and len(kl.containers) == 2
    assert [len(line.get_xdata()) for line in gap.lines[:2]] == [4, 3]
    tables, floors = (
        {found.model: part(found) for found in runs.values()} for part in (lambda f: f.table, lambda f: f.floor)
    )
    panels = groups_by_model(tables, floors, METHODS[:3]).axes
    assert [axes.get_title(loc="left") for axes in panels] == ["small", "large-q4"] and len(panels[0].containers) == 3
    for empty in (compare_models({}, {}), groups_by_model({}, {}, ())):
        assert empty.axes[0].texts[0].get_text() == "no published run in this checkout"


def test_runs_on_the_default_surveys_stand_beside_the_default(tmp_path):
    for name in ("default", "gss-qwen-1.5b", "opinionqa"):
        write(tmp_path / name, model=f"models/{name}.gguf")
    runs = published.default_runs(tmp_path)
    assert list(runs) == ["default", "gss-qwen-1.5b"]
    table = published.run_table(published_runs("results/default", tmp_path) | runs)
    assert list(table) == ["opinionqa", "gss-qwen-1.5b"]  # the default's machine and time are the README's
    assert table.loc["command", "gss-qwen-1.5b"] == "opinion-sae run 01,02,03,04,17,18,07 -- gss-qwen-1.5b"
    said = published.absent(published_runs("results/default", tmp_path) | runs, "results/default")
    assert [line.split()[0] for line in said.splitlines()] == [
        f"results/{name}" for name in ("opinionqa-qwen", "opinionqa-qwen-1.5b", "gss-qwen")
    ]


def test_the_original_size_is_told_from_its_measurement(tmp_path):
    numbers = published.full_size_numbers()
    assert float(numbers["full_size_ratio"]) <= float(numbers["full_size_limit"]) == 1.5
    assert numbers["full_size_work"] == "100 questions and 12 groups"
    stages = published.full_size_stages()
    assert {"prompts", "fit delta, one epoch", "evaluate"} <= set(stages.index) and (stages["seconds"] >= 0).all()
    with pytest.raises(FileNotFoundError, match="`make full-size` writes it"):
        published.full_size_stages(tmp_path / "full_size.json")


def test_gaps_of_a_run_with_offsets_that_read_stand_beside_words(both):
    one = {"task": "toplines", "group": "all", "split": "question", "n_questions": 493}
    rows = [one | {"method": name} | dict.fromkeys(published.GAPS, value) for name, value in GAPS.items()]
    rows += [row | {"group": "Women"} for row in rows] + [row | {"task": "alone"} for row in rows]
    table = pd.DataFrame(rows).assign(gap_r_low=0.1, gap_r_high=0.9)
    table.to_csv(both / "opinionqa" / "gaps.csv", index=False)
    runs = published_runs("results/default", both)
    said = published.group_gaps_sentence(runs)
    assert "has a gap correlation of 0.41 (0.10 to 0.90) on 493 held-out questions and closes 0.41 of" in said
    assert "words alone have 0.45 and 0.45." in said and "With large-q4 no offset that reads has been run." in said
    wide = published.group_gaps(runs)
    assert list(wide.index) == ["delta-reading", "words"] and wide.shape[1] == 2
    assert wide.iloc[1, 0] == "0.45 (0.10 to 0.90)" and wide.iloc[1, 1] == "0.45"
    assert published.group_gaps({}).empty and published.group_gaps_sentence({}).startswith("No published run")


@pytest.mark.skipif(not THERE, reason="no published run in this checkout")
@pytest.mark.parametrize("name", THERE)
class TestCommitted:
    """Pew's terms forbid passing answers on; of the questions not even the wording is here."""

    def test_the_run_is_whole_and_its_methods_stand_for_every_group(self, name):
        found = load_published(name)
        survey = found.run["profile"]["survey"]
        assert survey == ["gss", "nonvoters-2020"] if name in ON_DEFAULT else survey.startswith("opinionqa:")
        assert found.run["profile"]["output"] == f"results/{name}" and found.run["machine"]
        assert all(found.run["hashes"][what] for what in ("data", "model", "sae"))
        of = {"04_delta": {"unsteered", "shared-delta", "delta", "dense"}, "05_joint": {"delta-joint"}}
        of["06_controls"] = {"everyone"}
        for chapter in {"04_delta", *found.run["notebooks"]} & set(of):
            assert of[chapter] <= set(found.overall.index)
        assert len(found.by_group) >= 12 and (found.overall["n_questions"] >= 370).all()
        assert not found.table.duplicated(["method", "group", "split"]).any()
        groups = {"all", *found.by_group.index}
        assert all(set(part["group"]) == groups for _, part in found.table.groupby(["method", "split"]))
        assert set(found.floor["group"]) == groups

    def test_it_holds_figures_only(self, name):
        for path in set((ROOT / "results" / name).glob("*.csv")) - {ROOT / "results" / name / "open_answers.csv"}:
            for name, column in pd.read_csv(path, dtype=str).drop(columns="claim", errors="ignore").items():
                assert not column.str.len().max() >= 100, (path.name, name)  # OpinionQA's questions are longer


def test_what_was_aimed_at_is_reached_or_not(both):
    one = {"task": "toplines", "group": "all", "split": "question", "n_questions": 493, "method": "delta-reading"}
    row = dict(gap_r=0.45, gap_r_low=0.38, gap_r_high=0.52)
    row |= dict(group_kl_closed=0.24, group_kl_closed_low=0.19, group_kl_closed_high=0.29)
    folder = both / "opinionqa"

    def said(shares=(0.6, 0.3, 0.4), **change):
        pd.DataFrame([one | row | change]).to_csv(folder / "gaps.csv", index=False)
        rows = [("delta", 0, 0.99), *(("delta-reading-64", fold, share) for fold, share in enumerate(shares))]
        table = pd.DataFrame(rows, columns=["method", "fold", "constant_share"])
        table.to_csv(folder / "constant_share.csv", index=False)
        page = published.aims_page(published_runs("results/default", both))
        head, *lines = [line.removeprefix("- ") for line in page.splitlines() if line]
        assert head == "With small:"
        return lines

    by_r, by_kl, constant, other = said()
    assert "A gap correlation of at least 0.48 was aimed at: the reading Δ has 0.45 (0.38 to 0.52)" in by_r
    assert by_r.endswith("not reached, though its interval holds that too.")
    assert "at least 0.17" in by_kl and by_kl.endswith(
        "0.24 (0.19 to 0.29), so that is reached, and its whole interval lies above."
    )
    assert "0.43 (fold by fold 0.60, 0.30, 0.40), so that is reached on average but in only 2 of 3 folds." in constant
    assert "`results/opinionqa-qwen-1.5b` is reached is not known here" in other
    assert said(gap_r_high=0.47)[0].endswith("not reached, nor by any of its interval.")
    assert said(gap_r=0.49)[0].endswith("reached, but its interval begins below that.")
    assert "0.60), so that is not reached on average, nor in any of 2 folds." in said((0.7, 0.6))[2]
    assert "is not reached on average, though in 1 of 2 folds." in said((0.7, 0.4))[2]
    assert "is reached on average and in all 2 folds." in said((0.3, 0.4))[2]
    assert said((np.nan,))[2].endswith("is not used, so it has no constant share.")
    assert len(published.aims_page({}).split("\n\n")) == 2

    claim = dict(claim="it does better than x.", measure="gap_r", method="delta-reading", reference="dense-reading")
    claim |= dict(effect=0.1, margin=0, low=0.05, high=0.15, n_questions=493, n_seeds=1, p=0.001, p_holm=0.01)
    claim |= dict(verdict="supported")
    others = [{**claim, "reference": "toplines"}, {**claim, "method": "delta"}, {**claim, "measure": "group_kl_closed"}]
    pd.DataFrame([claim, *others]).to_csv(folder / "gap_claims.csv", index=False)
    *_, shown, other = said()
    assert shown.startswith("It was to be shown that it does better than x: by gap correlation **supported** (+0.100")
    assert shown.count("**supported**") == 2
