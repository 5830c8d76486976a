"""What a run keeps: read back as written, refused once changed, carried by a wheel."""

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from opinion_sae.artifacts import write_json
from opinion_sae.book.paths import ROOT
from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.model.answers import AnswerPath
from opinion_sae.model.wheels import intact, model_folder, sha256_of
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.use import published_run
from opinion_sae.use.published_run import (
    as_sae,
    checked_coverage,
    in_float16,
    keep_published,
    load_published_run,
)

LAYER = 2
PUBLISHED = ROOT / "src" / "opinion_sae" / "data" / "published"


def make_offset(sae, groups=("Female", "Male"), size=3.0):
    delta = GroupDelta(groups, sae)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for part in (delta.shared, delta.deviation):
            part.copy_(size * torch.randn(part.shape, generator=generator))
    return delta


@pytest.fixture
def kept(tmp_path, lm, tiny, six_questions):
    """Folder, what `keep_published` returned, and what it was given."""
    answers = AnswerPath(lm, six_questions.questions, LAYER)
    offset = make_offset(tiny.sae())
    held_out = answers.predict(offset).numpy()
    hashes = keep_published(
        tmp_path / "kept", answers, offset, six_questions, held_out, np.arange(6) % 2, {3: "roads, $5"}
    )
    return tmp_path / "kept", hashes, answers, offset


def test_what_is_read_is_what_was_kept(kept, six_questions):
    folder, hashes, answers, offset = kept
    run = load_published_run(folder)
    assert run.groups == ("Female", "Male") and run.attributes == ("sex", "sex")
    assert run.people == pytest.approx([100, 100])  # the cell without answers does not count
    assert run.about["model"] == "tiny-llama" and run.about["hook_layer"] == LAYER
    assert run.about["option_orders"] == 2 and run.about["dtype"] == "float32" and run.about["n_questions"] == 6
    assert run.labels == {3: "roads, $5"}
    assert set(run.coverage["task"]) == {"alone", "toplines"}
    assert run.factors("alone", 0.5).tolist() == run.coverage.loc[1:2, "factor"].tolist()
    # what moves is the same but for the SAE's rounding
    then, now = (answers.predict(one).exp() for one in (offset, run.offset))
    assert torch.allclose(then, now, atol=5e-3) and not torch.equal(then, now)
    assert hashes == {name: sha256_of(folder / name) for name in ("about.json", *published_run.FILES)}


def test_keeping_twice_gives_the_same_bytes(kept, six_questions):
    folder, hashes, answers, offset = kept
    held_out = answers.predict(offset).numpy()
    again = keep_published(folder, answers, offset, six_questions, held_out, np.arange(6) % 2, {3: "roads, $5"})
    assert again == hashes
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="kept: holds 'thesis.txt', which would be lost"):
        keep_published(folder, answers, offset, six_questions, held_out, np.arange(6) % 2)
    assert (folder / "thesis.txt").read_text() == "years of work" and len(list(folder.iterdir())) == 7


@pytest.mark.parametrize("name", published_run.FILES)
def test_a_file_that_was_changed_or_is_gone(kept, name):
    folder = kept[0]
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    with pytest.raises(ValueError, match=f"{name}: its SHA-256 is not the one that about.json names"):
        load_published_run(folder)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name}: not there, but about.json names it"):
        load_published_run(folder)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format": "other"}, "format is 'other'"),
        ({"hook_layer": -1}, "hook_layer is at least 0"),
        ({"hook_layer": "2"}, "hook_layer is '2', which is not of the kind int"),
        ({"hook_layer": True}, "hook_layer is True, which is not of the kind int"),
        ({"option_orders": 0}, "option_orders at least 1"),
        ({"unlike": None}, "unlike is None"),
        ({"groups": [{"group": "Female"}]}, r"groups\[0\]: fields \['group'\]"),
        ({"groups": [{"group": "Female", "attribute": "sex", "people": 0.0}]}, "people is 0.0; more than 0"),
        ({"groups": [{"group": "Male", "attribute": "sex", "people": 9.0}]}, "but about.json names"),
        ({"sae": {"k": "4", "subtract_b_dec": True, "metadata": {}}}, "sae: k is '4'"),
        ({"files": {}}, r"files names \[\], expected"),
        ({"extra": 1}, "fields .*'extra'"),
    ],
)
def test_about_is_checked_field_by_field(kept, change, message):
    folder = kept[0]
    about = json.loads((folder / "about.json").read_text())
    write_json(folder / "about.json", about | change)
    with pytest.raises(ValueError, match=message):
        load_published_run(folder)


def test_every_field_is_needed(kept):
    folder = kept[0]
    about = json.loads((folder / "about.json").read_text())
    assert set(about) == set(published_run.FIELDS)
    for name in about:
        write_json(folder / "about.json", {key: value for key, value in about.items() if key != name})
        with pytest.raises(ValueError, match="about.json: fields"):
            load_published_run(folder)


def test_another_sae_under_the_same_name(kept):
    """Its hash made to fit: the offset still knows that it was fitted with another."""
    folder, _, _, offset = kept
    _, tensors = in_float16(offset.sae)
    save_file({**tensors, "b_dec": tensors["b_dec"] + 1}, folder / "sae.safetensors")
    about = json.loads((folder / "about.json").read_text())
    about["files"]["sae.safetensors"] = sha256_of(folder / "sae.safetensors")
    write_json(folder / "about.json", about)
    with pytest.raises(ValueError, match="offset.safetensors: fitted with the SAE"):
        load_published_run(folder)


def test_no_run_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no published run there"):
        load_published_run(tmp_path)


def test_an_sae_that_float16_cannot_hold(tiny):
    sae = tiny.sae()
    sae.b_dec.data[0] = 1e5
    with pytest.raises(ValueError, match="float16 does not"):
        in_float16(sae)


def test_an_sae_that_is_too_large():
    wide = SparseAutoencoder(torch.zeros(500, 6000), torch.zeros(6000), torch.zeros(6000, 500), torch.zeros(500), k=4)
    with pytest.raises(ValueError, match=r"takes 12.0 MB in float16; at most 10"):
        in_float16(wide)


def test_rounding_twice_changes_nothing(tiny):
    sae = tiny.sae()
    rounded, tensors = in_float16(sae)
    again = as_sae(in_float16(rounded)[1], {"k": sae.k})
    assert rounded.sha256() == again.sha256() != sae.sha256()
    assert all(tensor.dtype == torch.float16 for tensor in tensors.values())


def test_groups_that_differ(tmp_path, lm, tiny, six_questions):
    answers = AnswerPath(lm, six_questions.questions, LAYER)
    offset = make_offset(tiny.sae(), ("Male", "Female"))
    with pytest.raises(ValueError, match="the offset is for .*Male.*, the survey has"):
        keep_published(tmp_path / "kept", answers, offset, six_questions, np.zeros((1, 6, 3)), np.arange(6))
    assert not (tmp_path / "kept").exists()


def test_nothing_is_left_where_keeping_fails(tmp_path, lm, tiny, six_questions):
    answers = AnswerPath(lm, six_questions.questions, LAYER)
    offset = make_offset(tiny.sae())
    with pytest.raises(ValueError, match="at least two folds"):
        keep_published(tmp_path / "kept", answers, offset, six_questions, answers.predict().numpy(), np.zeros(6, int))
    assert list(tmp_path.iterdir()) == []


def test_other_weights_than_the_runs(kept, tiny, monkeypatch):
    run = load_published_run(kept[0])
    monkeypatch.setattr(published_run, "load_language_model", lambda model, dtype: tiny.lm())
    assert run.load_model().sha256 == "none"
    run.about["model_hash"] = "sha256:other"
    with pytest.raises(ValueError, match="has the hash none, but the run was made with sha256:other"):
        run.load_model()
    run.about["model"] = "packaged:tiny"  # whose source has a hash of its own
    run.load_model()


def unpacked_wheel(folder, run):
    """The package built from a copy with this run in its data, unpacked."""
    source, target = folder / "source", folder / "target"
    source.mkdir()
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(
        ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__", "published")
    )
    shutil.copytree(run, source / "src" / "opinion_sae" / "data" / "published")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(source)], check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(target)
    return target


def outside(folder, target, *command):
    """What another process says that has the package from there alone."""
    environment = {**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout


def test_a_wheel_carries_it_to_where_there_is_no_repository(kept, tmp_path):
    target = unpacked_wheel(tmp_path, kept[0])
    code = "from opinion_sae.use import published_run as p; print(p.__file__, p.load_published_run().groups)"
    said = outside(tmp_path, target, "-c", code)
    assert said.startswith(str(target)) and said.strip().endswith("('Female', 'Male')")


@pytest.mark.skipif(
    not intact(model_folder("smollm2-135m-instruct")), reason="the packaged model is not in the cache: make book"
)
def test_predict_answers_from_a_wheel_within_two_minutes(tmp_path):
    """The published run and the packaged model, as a user has them who installed the package and nothing else."""
    target, start = unpacked_wheel(tmp_path, PUBLISHED), time.monotonic()
    (tmp_path / "mine.csv").write_text(
        "question,options,toplines\nShould the government raise taxes on the rich?,Yes|No,0.6|0.4\n"
    )
    outside(tmp_path, target, "-m", "opinion_sae", "predict", "mine.csv")
    assert time.monotonic() - start < 120
    found = pd.read_csv(tmp_path / "mine-predictions.csv")
    of_all = found.groupby(["task", "group"])["share"].sum()
    assert set(of_all.index.get_level_values("task")) == {"alone", "toplines"} and len(of_all) == 2 * 22
    np.testing.assert_allclose(of_all, 1, atol=1e-3)


def test_the_package_has_what_the_published_run_wrote():
    hashes = json.loads((ROOT / "results" / "default" / "run.json").read_text())["hashes"]["published"]
    assert {path.name: sha256_of(path) for path in PUBLISHED.iterdir()} == hashes


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda table: table.iloc[1:], "a row for each of the tasks alone, toplines"),
        (lambda table: table.drop(columns="low"), "expected the columns task, group, nominal"),
        (lambda table: table.assign(factor=table["factor"] - 9), "a factor is negative or missing"),
        (lambda table: table.assign(factor=np.nan), "a factor is negative or missing"),
    ],
)
def test_a_table_of_coverage_that_does_not_fit(kept, change, message):
    path = kept[0] / "coverage.csv"
    checked_coverage(path, ("Female", "Male"))
    table = change(pd.read_csv(path))
    table.to_csv(path, index=False)
    with pytest.raises(ValueError, match=message):
        checked_coverage(path, ("Female", "Male"))
