"""The full-size measurement on a Gemma 2 small enough for a test."""

import importlib
import json

import pytest
import torch

from opinion_sae.book.paths import ROOT

full_size = importlib.import_module("benchmarks.full_size")


def test_weights_are_random_in_bfloat16_tied_and_as_many_as_the_shape_has(small):
    lm = full_size.make_model(small, full_size.make_tokenizer(full_size.make_survey()))
    assert {weight.dtype for weight in lm.model.parameters()} == {torch.bfloat16}
    assert lm.model.lm_head.weight is lm.model.get_input_embeddings().weight
    assert all(0.01 < weight.float().std() < 0.03 for weight in lm.model.parameters())
    layer = 48 * (4 + 2 + 2 + 4) * 12 + 3 * 48 * 64 + 4 * 48
    assert sum(weight.numel() for weight in lm.model.parameters()) == 4096 * 48 + 15 * layer + 48


def test_all_stages_run_and_the_sae_is_as_sparse_as_asked(small, capsys):
    found = full_size.run(small)
    assert [stage["stage"] for stage in found["stages"]] == [
        "survey and libraries", "load", "prompts", "sae", "fit delta, one epoch", "evaluate",
    ]  # fmt: skip
    assert found["work"]["questions"] == 100 and found["work"]["groups"] == 12
    assert found["sae"] == {"width": 16384, "architecture": "jumprelu", "l0": pytest.approx(70, abs=1)}
    assert found["finite"] and found["mean_kl"] > 0
    peaks = [stage["peak_gb"] for stage in found["stages"]]
    assert peaks == sorted(peaks) and capsys.readouterr().out.count("peak") == 6


def test_the_committed_figures_are_of_the_full_shape_and_within_the_limit():
    found = json.loads((ROOT / "benchmarks" / "full_size.json").read_text())
    assert found["model"]["layers"] == 26 and found["model"]["width"] == 2304
    assert found["model"]["weights_gb"] == pytest.approx(5.23, abs=0.01)  # 2.614e9 weights of two bytes
    assert found["peak_over_weights"] <= found["limit"] == 1.5
    assert found["machine"]["cores"] and found["machine"]["memory_gb"] and found["machine"]["cpu"]
