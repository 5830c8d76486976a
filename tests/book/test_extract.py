"""The command that extracts activations in shards, and what chapter 03 makes of its files."""

import json
from dataclasses import asdict

import pytest
import torch
import yaml

from opinion_sae.book.chapter import Chapter
from opinion_sae.book.command import main
from opinion_sae.book.extract import kept_activations, kept_texts
from opinion_sae.book.paths import ROOT
from opinion_sae.book.profile import load_profile
from opinion_sae.model.language_model import LanguageModel

SMALL = {"model": "tiny", "hook_layer": 2, "survey": "nonvoters-2020", "attributes": ["sex"], "max_questions": 6}
SMALL |= {"texts": ["self 0.5", "prompts 0.5"], "text_tokens": 2000, "shards": 3}


@pytest.fixture
def run(tmp_path, monkeypatch, lm):
    """A profile of three shards with a tiny model; a function that runs the command, and one that opens chapter 03."""
    monkeypatch.setenv("OPINION_SAE_HOME", str(tmp_path))
    monkeypatch.setattr("opinion_sae.model.language_model.load_language_model", lambda *_: lm)
    monkeypatch.setattr(LanguageModel, "tokens_per_batch", property(lambda _: 200))
    smoke, path = yaml.safe_load((ROOT / "profiles" / "smoke.yaml").read_text()), tmp_path / "mine.yaml"

    class Given:
        shards = tmp_path / "_build" / "mine" / "work" / "shards"

        def write(self, **changes):
            path.write_text(yaml.safe_dump(smoke | SMALL | {"output": "results/mine"} | changes))

        def extract(self, *flags):
            return main(["extract", *flags, "--", str(path)])

        def chapter(self):
            return Chapter(asdict(load_profile(str(path))))

    given = Given()
    given.write()
    return given


def fail(*_):
    pytest.fail("made anew")


def test_the_jobs_files_join_to_what_the_chapter_extracts_alone(run, monkeypatch, capsys):
    chapter = run.chapter()
    texts = kept_texts(chapter)  # nothing is there yet
    alone = kept_activations(chapter, texts)
    assert texts.training and texts.prompts and not run.shards.exists()
    assert run.extract() == 0 and "texts.json" in capsys.readouterr().out
    assert [run.extract("--shard", str(number)) for number in range(3)] == [0, 0, 0]
    assert sorted(path.name for path in run.shards.iterdir())[:3] == [f"shard-{n}.safetensors" for n in range(3)]
    for name in ("load_texts", "shard_streams"):
        monkeypatch.setattr(f"opinion_sae.{'book.extract' if name == 'load_texts' else 'model.texts'}.{name}", fail)
    chapter = run.chapter()
    assert kept_texts(chapter) == texts
    joined = kept_activations(chapter, texts)
    assert torch.equal(joined.tokens, alone.tokens) and torch.equal(joined.held_out, alone.held_out)


@pytest.mark.parametrize("change", [{"text_tokens": 1500}, {"seed": 1}, {"max_questions": 5}, {"texts": "self"}])
def test_texts_of_other_parameters_are_made_anew(run, change):
    assert run.extract() == 0
    run.write(**change)
    texts = kept_texts(run.chapter())
    (run.shards / "texts.json").unlink()
    assert kept_texts(run.chapter()) == texts


def test_a_changed_text_of_a_folder_is_seen(run, tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.txt").write_text(f"The road {name} is cold today.")
    run.write(texts=str(folder))
    assert run.extract() == 0
    (folder / "a.txt").write_text("The road is warm today.")
    found = kept_texts(run.chapter())
    assert any("warm" in text for text in found.training + found.held_out)


@pytest.mark.parametrize(
    ("flags", "change", "message"),
    [
        (["--shard", "3"], {}, "--shard 3: the profile has shards: 3, so it must lie in 0..2"),
        (["--shard", "-1"], {}, "--shard -1: "),
        (["--shard", "1"], {"seed": 1}, "texts.json: no texts of this profile as it is; run extract without --shard"),
        (["--shard", "1"], {"shards": 4}, "texts.json: no texts of this profile as it is"),
    ],
)
def test_what_does_not_fit_is_one_line(run, capsys, flags, change, message):
    assert run.extract() == 0
    run.write(**change)
    assert run.extract(*flags) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("error: ") == 1


def test_a_shard_without_texts_says_what_comes_first(run, capsys):
    assert run.extract("--shard", "0") == 1
    assert "texts.json: no texts of this profile as it is; run extract without --shard first" in capsys.readouterr().err


def test_damaged_texts_are_named(run):
    assert run.extract() == 0
    path = run.shards / "texts.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | {"held_out": [3]}))
    with pytest.raises(ValueError, match=f"{path}: held_out holds something else than text"):
        kept_texts(run.chapter())
