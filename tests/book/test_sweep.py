"""A sweep: its cells, what is wrong with its file, and the table of what came to its end."""

import os
import re
import subprocess

import pandas as pd
import pytest
import yaml

from opinion_sae.book import sweep as sweeps
from opinion_sae.book.sweep import TABLES, read_sweep, sweep
from opinion_sae.book.workflow import command

GIVEN = {"profile": "smoke", "output": "results/try", "hook_layer": [12, 15], "seed": [0, 1]}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("OPINION_SAE_HOME", str(tmp_path))
    return tmp_path


def write(place, **changes):
    path = place / "mine.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in (GIVEN | changes).items() if value is not None}))
    return path


def test_the_cells_are_all_combinations_each_with_a_profile_of_its_own(place):
    found = read_sweep(write(place, survey=["gss", ["gss", "nonvoters-2020"]]))
    assert [cell.name for cell in found.cells][:3] == ["try-12-gss-0", "try-12-gss-1", "try-12-gss_nonvoters_2020-0"]
    assert len(found.cells) == 8 and found.run.results == place / "results" / "try"
    last = found.cells[-1]
    assert last.profile.run.results == place / "results" / "try-15-gss_nonvoters_2020-1"
    assert (last.profile.hook_layer, last.profile.survey, last.profile.seed) == (15, ["gss", "nonvoters-2020"], 1)
    base = sweeps.load_profile(GIVEN["profile"])
    assert (last.profile.sae_width, last.profile.model) == (base.sae_width, base.model)
    assert last.values["survey"] == ["gss", "nonvoters-2020"] and last.path.parent == place / "_build" / "try"


def test_a_base_beside_the_file_and_an_sae_for_each_layer(place):
    base = yaml.safe_load((sweeps.find_profile("smoke")).read_text())
    (place / "base.yaml").write_text(yaml.safe_dump(base | {"shards": 3}))
    found = read_sweep(write(place, profile="base.yaml", seed=4, sae="release/layer_{hook_layer}/width_16k"))
    assert [(cell.name, cell.profile.sae) for cell in found.cells] == [
        ("try-12-4", "release/layer_12/width_16k"),
        ("try-15-4", "release/layer_15/width_16k"),
    ]
    assert all(cell.profile.shards == 3 for cell in found.cells)


def test_a_cells_profile_is_written_anew_only_if_it_changed(place):
    first, second = (cell.path for cell in read_sweep(write(place, seed=None)).cells)
    for path in (first, second):
        os.utime(path, (1, 1))
    second.write_text("seed: 3\n")
    read_sweep(write(place, seed=None))
    assert first.stat().st_mtime == 1 and yaml.safe_load(second.read_text())["hook_layer"] == 15


def test_the_workflow_has_a_job_for_each_cell(place):
    path = write(place)
    call = [part for part in command(str(path), [], ["--dry-run"], "sweep.smk") if part not in ("host", "reason")]
    call.remove("--quiet")
    said = subprocess.run(call, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    jobs = re.findall(r"Job \d+: (\S+)", said.stdout + said.stderr)
    assert sorted(jobs) == [cell.name for cell in read_sweep(path).cells]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"profile": None}, "required keys are missing: profile"),
        ({"strengths": [3]}, "unknown key strengths; known keys: profile, output"),
        ({"hook_layers": [3]}, "did you mean hook_layer?"),
        ({"profile": "none"}, "no profile .*none.yaml; there are default"),
        ({"profile": ["smoke"]}, "profile must be text, not"),
        ({"output": "results/.."}, "output must end in the name of a folder"),
        ({"output": "results/default"}, "is where profiles/default.yaml publishes"),
        ({"hook_layer": []}, "hook_layer has no values"),
        ({"hook_layer": [12, "x"]}, "hook_layer must be int, not str 'x'"),
        ({"seed": [1, -1]}, "seed must not be negative"),
        ({"seed": [1, 1]}, "seed: 1 and 1 would have the same name"),
        ({"model": ["a b", "a/b"]}, "model: 'a b' and 'a/b' would have the same name"),
    ],
)
def test_what_is_wrong_is_said_with_the_file(place, changes, message):
    path = write(place, **changes)
    with pytest.raises(ValueError, match=f"{path}: .*{message}"):
        read_sweep(path)


def test_an_sae_that_does_not_fit_is_named_with_its_cell_before_anything_runs(place, monkeypatch):
    monkeypatch.setattr(sweeps, "watch", lambda *_, **__: pytest.fail("something ran"))
    path = write(place, sae=str(place / "none_{hook_layer}"))
    with pytest.raises(ValueError, match=f"{path}: the cell try-12-0: .*none_12"):
        sweep(path, [])


def test_a_failed_cell_is_named_and_the_table_has_the_others(place, monkeypatch):
    path, calls = write(place, seed=None), []

    def run(call, log, everything):
        calls.append(call)
        done, failed = read_sweep(path).cells
        for number, (table, file) in enumerate(zip(TABLES, done.tables, strict=True)):
            file.parent.mkdir(parents=True, exist_ok=True)
            rows = {"method": ["delta", "delta"], "group": ["all", "Male"], f"of_{table}": [number, 9]}
            pd.DataFrame(rows).to_csv(file, index=False)
        done.done.touch()
        failed.log.write_text("05_joint\nerror: out of luck\nwhere: there\n")
        raise ValueError("one failed")

    monkeypatch.setattr(sweeps, "watch", run)
    monkeypatch.setattr(sweeps, "fetch", lambda *_, **__: None)
    with pytest.raises(
        ValueError, match=r"1 of 2 cells .*holds the others:\n  try-15: out of luck \(_build/try/try-15"
    ):
        sweep(path, ["--jobs", "2"])
    assert "--keep-going" in calls[0] and calls[0][calls[0].index("--jobs") + 1] == "2"
    table = pd.read_csv(place / "results" / "try" / "sweep.csv")
    assert list(table.columns[:6]) == ["model", "hook_layer", "survey", "seed", "table", "method"]
    assert table["hook_layer"].tolist() == [12, 12] and table["table"].tolist() == list(TABLES)
    assert table["of_alignment"].tolist()[0] == 0 and table["of_gaps"].tolist()[1] == 1
    assert "group" not in table


def test_a_cell_whose_tables_are_gone_runs_again(place, monkeypatch):
    path = write(place, seed=None, hook_layer=12)
    (cell,) = read_sweep(path).cells
    cell.done.touch()
    monkeypatch.setattr(sweeps, "watch", lambda *_, **__: None)
    monkeypatch.setattr(sweeps, "fetch", lambda *_, **__: None)
    with pytest.raises(
        ValueError, match="1 of 1 cells have no tables, there is no table:\n  try-12: it was not started"
    ):
        sweep(path, [])
    assert not cell.done.exists()
