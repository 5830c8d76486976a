"""The whole chain on a tiny Gemma 2, an SAE in Gemma Scope's format and OpinionQA's processed form, all from folders.

Gemma's own files cannot be had without an account, so model, SAE and answers are made here in the same formats.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml

from opinion_sae.book.paths import ROOT, run_at

WIDTH, LATENTS = 32, 96  # of the tiny model, of its SAE
SUBJECTS = (
    "bridges ferries gardens harbours islands kitchens libraries mountains orchards painters railways theatres"
).split()
OPTIONS = (("Good", "Bad"), ("Always", "Sometimes", "Never"), ("A lot", "Some", "Little", "None"))
SEXES, PARTIES = ("Female", "Male"), ("Democrat", "Republican")
COLUMNS = (
    "method group split n_questions kl tv alignment kl_low kl_high alignment_low alignment_high gap_closed".split()
)


def write_survey(folder, seed=0):
    """info.csv and counts by sex, by party and by both; women and Democrats lean to the first answer."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    rows, by_sex, by_party, by_both = [], {}, {}, {}
    for number, subject in enumerate(SUBJECTS):
        key, options = f"ITEM{number}_W26", OPTIONS[number % len(OPTIONS)]
        text = f"What do you make of {subject} these days?"
        rows.append((key, text, [*options, "Refused"], [float(i + 1) for i in range(len(options))]))
        about = {"MC_options": [*options, "Refused"], "question_text": text}
        cells = {
            (party, sex): rng.multinomial(90, rng.dirichlet(np.linspace(4 - i - j, 1 + i + j, len(options))))
            for i, party in enumerate(PARTIES)
            for j, sex in enumerate(SEXES)
        }

        def answers(counts, options=options):
            return dict(zip([*options, "Refused"], [*map(int, counts), 3], strict=True))

        by_both[key] = about | {p: {s: answers(cells[p, s]) for s in SEXES} for p in PARTIES}
        by_party[key] = about | {p: answers(sum(cells[p, s] for s in SEXES)) for p in PARTIES}
        by_sex[key] = about | {s: answers(sum(cells[p, s] for p in PARTIES)) for s in SEXES}
    pd.DataFrame(rows, columns=["key", "question", "references", "option_ordinal"]).to_csv(folder / "info.csv")
    for name, counts in (("SEX", by_sex), ("POLPARTY", by_party), ("POLPARTY_SEX", by_both)):
        (folder / f"{name}_data.json").write_text(json.dumps(counts))


def write_inputs(folder, tiny):
    """Everything that the profile names, in `folder`; real answers in place of made-up ones if a path is given."""
    tiny.model("gemma2").save_pretrained(folder / "model")
    tiny.tokenizer().save_pretrained(folder / "model")
    rng = np.random.default_rng(0)
    decoder = rng.normal(size=(LATENTS, WIDTH))
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    params = {
        "W_enc": decoder.T,
        "b_enc": np.zeros(LATENTS),
        "W_dec": decoder,
        "b_dec": np.zeros(WIDTH),
        "threshold": np.full(LATENTS, 0.5),
    }
    (folder / "sae").mkdir()
    np.savez(folder / "sae" / "params.npz", **{name: array.astype(np.float32) for name, array in params.items()})
    (folder / "texts").mkdir()
    for number in range(6):
        words = " ".join(SUBJECTS[number:] + SUBJECTS[:number])
        (folder / "texts" / f"{number}.txt").write_text(f"Question: are there {words}? Answer: yes, yes and yes. " * 4)
    given = os.environ.get("OPINION_SAE_OPINIONQA")
    if given is None:
        write_survey(folder / "survey")
    return {
        "model": str(folder / "model"),
        "sae": str(folder / "sae"),
        "survey": f"opinionqa:{given or folder / 'survey'}",
        "texts": str(folder / "texts"),
        "attributes": ["sex", "party"] if given else ["sex", "party", "party x sex"],
        "crossed": [] if given else ["party x sex"],
        "max_questions": len(SUBJECTS),
        "hook_layer": 2,
        "dtype": "float32",
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny):
    """The smoke profile with these inputs, run in the Snakefile's order up to run.json."""
    folder = tmp_path_factory.mktemp("gemma")
    output = folder / f"tiny-gemma-{os.getpid()}"
    values = yaml.safe_load((ROOT / "profiles" / "smoke.yaml").read_text())
    profile = folder / "gemma.yaml"
    profile.write_text(yaml.safe_dump(values | write_inputs(folder, tiny) | {"output": str(output)}))
    command = [Path(sys.executable).with_name("snakemake"), "--cores", "all", "--nolock", "--quiet", "all"]
    try:
        done = subprocess.run(
            [*command, "--snakefile", ROOT / "Snakefile", "--config", f"profile={profile}", "--", "summary"],
            cwd=ROOT, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        yield run_at(output)
    finally:
        shutil.rmtree(run_at(output).build, ignore_errors=True)


def test_every_chapter_ran_and_none_shows_an_error(run):
    chapters = sorted(run.chapters.glob("*.ipynb"))
    assert [path.stem for path in chapters] == sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    for path in chapters:
        for cell in nbformat.read(path, as_version=4).cells:
            assert not any(out.output_type == "error" for out in cell.get("outputs", [])), path.name


def test_the_alignment_table_keeps_its_contract(run):
    table = pd.read_csv(run.results / "alignment.csv")
    assert list(table.columns) == [*COLUMNS, "gap_low", "gap_high", "n_seeds"]
    assert {"unsteered", "uniform", "everyone", "shared-delta", "delta", "dense"} <= set(table["method"])
    assert "all" in set(table["group"]) and {"Female", "Male"} < set(table["group"])
    assert not table.duplicated(["method", "group", "split"]).any()
    assert np.isfinite(table[["kl", "tv", "alignment"]]).all(axis=None)
    assert (table["kl"] > 0).all() and table["alignment"].between(0, 1).all()


def test_intersections_are_groups_like_any_other(run):
    if "OPINION_SAE_OPINIONQA" in os.environ:
        pytest.skip("the real files hold no counts by party and sex together")
    groups = set(pd.read_csv(run.results / "alignment.csv")["group"])
    assert {f"{party} & {sex}" for party in PARTIES for sex in SEXES} < groups


def test_the_sae_is_the_one_given_and_was_not_trained(run, tmp_path):
    assert len(pd.read_csv(run.results / "sae_history.csv")) == 0
    quality = json.loads((run.results / "sae.json").read_text())
    assert 0 < quality["l0"] < LATENTS and 0 < quality["l0_at_answers"] < LATENTS
    config = json.loads((run.work / "sae" / "cfg.json").read_text())
    assert config["architecture"] == "jumprelu" and (config["d_in"], config["d_sae"]) == (WIDTH, LATENTS)


def test_the_run_says_what_it_ran_on(run):
    said = json.loads((run.results / "run.json").read_text())
    assert said["profile"]["model"].endswith("/model") and said["profile"]["hook_layer"] == 2
    hashes = json.dumps(said["hashes"])
    assert "sha256:" in hashes and all(said["hashes"][what] for what in ("data", "model", "sae"))
