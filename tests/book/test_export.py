"""The command that exports: what of a finished run goes where, and what is said of labels."""

import gzip
import json
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from opinion_sae.artifacts import write_csv, write_json
from opinion_sae.book import export as module
from opinion_sae.book.cards import COLUMNS
from opinion_sae.book.command import main
from opinion_sae.model.activations import Activations

pytestmark = pytest.mark.filterwarnings("ignore:The 'utils' module has been deprecated:DeprecationWarning")
CARD = {"latent": 3, "label": "roads", "label_score": 0.75, "fuzzing_score": None}


@pytest.fixture
def run(tmp_path, monkeypatch, tiny, lm):
    sae = tiny.sae()
    sae.metadata = {"model_name": "some", "hook_name": "blocks.15.hook_resid_post"}
    folders = SimpleNamespace(results=tmp_path / "results", work=tmp_path / "work", build=tmp_path / "build")
    chapter = SimpleNamespace(run=folders, lm=lm, sae=sae)
    corpus = tiny.corpus([["a", "road"], ["rain"]], [{}, {}, {}, {1: 2.0}, *[{}] * 20])
    x = torch.randn(20, 32, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(module, "finished", lambda profile: (chapter, [CARD]))
    monkeypatch.setattr(module, "corpus_of", lambda chapter: corpus)
    monkeypatch.setattr(module, "load_activations", lambda folder: Activations(x, x))
    write_json(folders.results / "sae.json", {"fvu": 0.5, "l0": 4.0})
    rows = [(3, by, by, f"label by {by}", 0.5, 0.5, 0.25, 0.5, 20, 20, sae.sha256()) for by in ("statistics", "m")]
    rows.append((3, "other", "other", "label of another SAE", 0.5, 0.5, 0.25, 0.5, 20, 20, "another"))
    write_csv(folders.results / "labels.csv", pd.DataFrame(rows, columns=list(COLUMNS)))
    return folders


def test_latents_go_to_neuronpedia_with_all_their_labels(run, capsys):
    assert main(["export", "--to", "neuronpedia", "--creator", "me", "--", "smoke"]) == 0
    folder = run.build / "export" / "neuronpedia" / "smollm2-135m-instruct" / "15-res-opinion-sae"
    assert f"written: {folder}" in capsys.readouterr().out
    said = gzip.decompress((folder / "explanations" / "batch-0.jsonl.gz").read_bytes()).decode().splitlines()
    assert [(row["description"], row["notes"], row["authorId"]) for row in map(json.loads, said)] == [
        ("roads", "by statistics; judged by the label's words: detection 0.75, fuzzing not measured", "me"),
        ("label by m", "by m; judged by m: detection 0.50, fuzzing 0.25", "me"),
    ]


def test_the_sae_is_written_as_for_the_hub_and_not_sent(run, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert main(["export", "--to", "hub", "--repo", "me/mine", "--", "smoke"]) == 0
    assert "nothing was uploaded" in capsys.readouterr().out
    assert "| active latents per token | 4.000 |" in (run.build / "export" / "hub" / "README.md").read_text()
    assert main(["export", "--to", "hub", "--repo", "me/mine", "--upload", "--", "smoke"]) == 1
    assert "into the environment variable HF_TOKEN" in capsys.readouterr().err
