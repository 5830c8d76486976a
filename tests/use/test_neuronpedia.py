"""What is written for Neuronpedia: its tables' fields, and in them what the corpus and the SAE say."""

import gzip
import json
from datetime import datetime

import pytest
import torch

from opinion_sae.use.neuronpedia import Explained, Origin, write_neuronpedia

ORIGIN = Origin("some-model", "res-opinion-sae", 2, "me", datetime(2026, 1, 2, 3, 4, 5))
LABELS = {3: [Explained("roads </b>", "by statistics"), Explained("", "by m")], 5: [Explained("nothing", "by m")]}
# of the tables `Neuron`, `Activation` and `Explanation`, those that SAEDashboard and Neuronpedia's own tools fill
FEATURE = """modelId layer index creatorId createdAt maxActApprox hasVector vector vectorLabel
vectorDefaultSteerStrength hookName topkCosSimIndices topkCosSimValues
neuron_alignment_indices neuron_alignment_values neuron_alignment_l1
correlated_neurons_indices correlated_neurons_pearson correlated_neurons_l1 correlated_features_indices
correlated_features_pearson correlated_features_l1 neg_str neg_values pos_str pos_values frac_nonzero
freq_hist_data_bar_heights freq_hist_data_bar_values logits_hist_data_bar_heights logits_hist_data_bar_values
decoder_weights_dist sourceSetName"""
ACTIVATION = """id tokens index layer modelId maxValue maxValueTokenIndex minValue values creatorId dataSource dataIndex
dfaValues dfaTargetIndex dfaMaxValue createdAt lossValues logitContributions binMin binMax binContains
qualifyingTokenIndex"""
EXPLANATION = """id modelId layer index description authorId triggeredByUserId typeName explanationModelName notes
createdAt"""


@pytest.fixture(scope="module")
def corpus(tiny):
    texts = [["is", "the", f"road{n}", "<b>", "good"] for n in range(30)]
    fires = {5 * n + 2: 1.0 + n for n in range(30)} | {5 * 29 + 4: 7.0}
    return tiny.corpus(texts, [{}, {}, {}, fires, *[{}] * 20])


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny, lm, corpus):
    place = tmp_path_factory.mktemp("export")
    return [write_neuronpedia(place / name, lm, tiny.sae(), corpus, LABELS, ORIGIN) for name in "ab"]


def rows(folder, name):
    lines = gzip.decompress((folder / name / "batch-0.jsonl.gz").read_bytes()).decode().splitlines()
    return [json.loads(line) for line in lines]


def test_files_lie_where_they_are_looked_for_and_are_the_same_each_time(made):
    first, second = made
    assert first.parts[-2:] == ("some-model", "2-res-opinion-sae")
    files = sorted(path.relative_to(first).as_posix() for path in first.rglob("*") if path.is_file())
    batches = [f"{name}/batch-0.jsonl.gz" for name in ("activations", "explanations", "features")]
    assert files == sorted([*batches, "model.jsonl", "release.jsonl", "source.jsonl", "sourceset.jsonl"])
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in files)


def test_rows_have_the_tables_fields_and_name_one_another(made):
    one = {name: json.loads((made[0] / f"{name}.jsonl").read_text()) for name in ("model", "release", "source")}
    sourceset = json.loads((made[0] / "sourceset.jsonl").read_text())
    assert one["source"]["setName"] == sourceset["name"] and sourceset["releaseName"] == one["release"]["name"]
    assert {one["model"]["id"], sourceset["modelId"]} == {one["source"]["modelId"]}
    assert (one["model"]["layers"], one["model"]["neuronsPerLayer"], one["model"]["instruct"]) == (5, 48, False)
    for name, fields in (("features", FEATURE), ("activations", ACTIVATION), ("explanations", EXPLANATION)):
        for row in rows(made[0], name):
            assert set(row) == set(fields.split())
            assert (row["modelId"], row["layer"]) == ("some-model", one["source"]["id"]) and row["index"] in ("3", "5")


def test_activations_are_the_strongest_of_different_texts(made, corpus):
    shown = rows(made[0], "activations")
    assert len(shown) == 20 and {row["index"] for row in shown} == {"3"} and len({row["id"] for row in shown}) == 20
    assert [row["maxValue"] for row in shown] == [30.0 - n for n in range(20)]
    first = shown[0]
    assert "".join(first["tokens"]) == " is the road29 <b> good" and len(first["values"]) == len(first["tokens"])
    assert first["values"][first["maxValueTokenIndex"]] == 30.0 and sorted(first["values"])[-2:] == [7.0, 30.0]
    assert (first["binMin"], first["binMax"], first["binContains"]) == (-1, 30.0, -1)


def test_features_say_how_often_and_what_they_promote(made, corpus, lm, tiny):
    fires, silent = rows(made[0], "features")
    assert fires["frac_nonzero"] == pytest.approx(31 / len(corpus.ids)) and fires["maxActApprox"] == 30.0
    assert sum(fires["freq_hist_data_bar_heights"]) == 31 and len(fires["freq_hist_data_bar_values"]) == 50
    assert sum(fires["logits_hist_data_bar_heights"]) == 320
    assert (silent["frac_nonzero"], silent["maxActApprox"], silent["freq_hist_data_bar_heights"]) == (0, 0, [])
    sae = tiny.sae()
    effects = lm.model.get_output_embeddings().weight @ (sae.W_dec[3] * lm.norm.weight)
    assert fires["pos_values"] == pytest.approx(effects.topk(10).values.tolist(), abs=1e-3)
    assert fires["neg_values"] == pytest.approx((-(-effects).topk(10).values).tolist(), abs=1e-3)
    assert fires["pos_str"][0] == lm.tokenizer.decode([int(effects.argmax())])
    unit = torch.nn.functional.normalize(sae.W_dec, dim=1)
    assert fires["topkCosSimValues"][0] == pytest.approx(float((unit @ unit[3]).topk(2).values[1]), abs=1e-3)


def test_explanations_are_the_labels_that_there_are(made):
    said = [(row["index"], row["description"], row["notes"], row["typeName"]) for row in rows(made[0], "explanations")]
    assert said == [("3", "roads </b>", "by statistics", None), ("5", "nothing", "by m", None)]
