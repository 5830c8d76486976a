"""The benchmarks on models small enough for a test: both ways agree, and what is written has the form promised."""

import ast
import importlib.util
import json
import math
import sys
import tomllib

import numpy as np
import pandas as pd
import pytest
import torch

from opinion_sae.book.paths import ROOT
from opinion_sae.products import Linear
from opinion_sae.sae.autoencoder import SparseAutoencoder

cases, dictionary, extraction, full_size, growth, hooked, main, offsets, precision, speed, speed_figures, timing = (
    importlib.import_module(f"benchmarks.{name}")
    for name in (
        *("cases", "dictionary", "extraction", "full_size", "growth"),
        *("hooked", "__main__", "offsets", "precision", "speed", "speed_figures", "timing"),
    )
)
CPU = torch.device("cpu")
COMMITTED = ROOT / "benchmarks" / "results.json"


@pytest.fixture(scope="module")
def case(lm, tiny):
    generator = torch.Generator().manual_seed(0)
    W_dec = torch.nn.functional.normalize(torch.randn(64, 32, generator=generator), dim=1)
    sae = SparseAutoencoder(W_dec.T.clone(), torch.zeros(64), W_dec, torch.zeros(32), k=8).requires_grad_(False)
    h = [
        [[0.9, 0.1, 0, 0], [0.1, 0.2, 0.3, 0.4], [0, 0.5, 0.5, 0]],
        [[0.2, 0.8, 0, 0], [0.7, 0.1, 0.1, 0.1], [np.nan] * 4],
    ]
    texts = ["Question: is it cold? Answer: A B C. " * 40]
    small = {
        "step_questions": 3,
        "step_groups": 2,
        "groups": 5,
        "tokens": 300,
        "window": 16,
        "sae_width": 64,
        "sae_k": 4,
    }
    return cases.Case(lm, tiny.survey(h), sae, texts, 1, **small, sae_batch=32, rounds=2)


def test_whole_passes_give_the_same_answers_and_gradients(case):
    answers = case.answers()
    delta = case.delta(answers, 3)
    ours = answers.predict(delta)
    assert not any(isinstance(module, Linear) for module in hooked.as_loaded(case.lm).modules())  # none of our products
    for tokens in (1, 10**9):  # prompt by prompt, and all at once
        theirs = hooked.HookedModel(answers, tokens).predict(case.sae, delta)
        torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(ours, answers.predict(), atol=1e-2)  # the offsets do something
    found = offsets.check_equal(case, 3, 2)
    assert found["gradients"] < 1e-3 and found["probabilities"] < 1e-4


def test_a_difference_stops_the_benchmark():
    with pytest.raises(AssertionError, match="gradients: ours and the peer's differ by 0.5"):
        offsets.check("gradients", 0.5, torch.float32)
    with pytest.raises(AssertionError, match="explained variance"):
        dictionary.check_agree({"ours": 0.5, "peer": 0.6})
    with pytest.raises(AssertionError, match="activations"):
        extraction.check_equal(torch.eye(4), torch.zeros(4, 4))


def test_the_peer_takes_one_order_of_the_options(case):
    from opinion_sae.model.answers import AnswerPath

    with pytest.raises(ValueError, match="one order of options"):
        hooked.HookedModel(AnswerPath(case.lm, case.survey.questions, 1, orders=2), 100)


def test_in_turn_calls_each_way_each_round_and_scales_parts():
    calls = []
    ways = {
        "ours": timing.Way(lambda: calls.append("o"), repeats=2),
        "peer": timing.Way(lambda: calls.append("p"), share=0.1, rounds=1),
    }
    times = timing.in_turn(ways, 2, CPU)
    assert "".join(calls) == "oopoo" and [len(found) for found in times.values()] == [2, 1]


def test_floor_and_row_by_hand():
    machine = timing.Machine({torch.float32: 10.0, torch.bfloat16: 40.0}, bandwidth=2.0)
    stages = [
        timing.Stage("arithmetic", 30.0, 1.0),  # 3 s against half a second
        timing.Stage("memory", 4.0, 1.0, torch.bfloat16),  # a tenth against half a second
    ]
    assert machine.floor(stages) == pytest.approx(3.5)
    row = timing.row("x", "s", {"ours": [8.0, 7.0, 6.0], "p": [70.0]}, "p", 3.5, "cpu")
    assert row == ("x", "s", 7.0, 70.0, "p", 10.0, 0.5, "cpu")


def test_work_grows_with_the_groups_and_doubles_backward(case):
    answers = case.answers()
    one, two = (offsets.upper_stages(case, answers, groups, backward=False)[0].flops for groups in (1, 2))
    assert two == 2 * one
    assert offsets.upper_stages(case, answers, 1, backward=True)[0].flops == two
    matrices = 3 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 48)  # layers 2, 3, 4; two of four heads for keys and values
    assert offsets.layer_weights(case, range(2, 5)) == matrices


def test_one_more_group_costs_a_share(case):
    machine = timing.Machine({torch.float32: 1e11}, bandwidth=1e10)
    row, facts = offsets.add_group(case, machine)
    assert row.name == "add_group" and row.peer is row.peer_name is row.ratio is None
    assert facts["first_group"] > 0 and row.ours == pytest.approx(facts["next_group"] / facts["first_group"], rel=1e-2)


def test_growth_measures_every_kind(case):
    rows = list(
        growth.measure(case, {"groups": (1, 2), "questions": (3, 5), "SAE width": (64, 128), "prompt tokens": (60, 90)})
    )
    assert [row["size"] for row in rows] == [1, 2, 3, 5, 64, 128, 60, 90]
    assert all(row["seconds"] > 0 and (row["peak_mb"] >= 0 or math.isnan(row["peak_mb"])) for row in rows)


def test_peak_memory_sees_what_was_there_only_for_a_while():
    found = growth.peak_memory(lambda: torch.ones(25_000_000).sum(), CPU)
    assert math.isnan(found) or found == pytest.approx(1e8, rel=0.2)


def test_questions_grow_to_the_length_asked(case):
    long = growth.long_question(case, case.survey.questions[0], 200)
    (prompt,) = cases.build_prompts(case.lm.tokenizer, [long], 1)
    assert abs(len(prompt.tokens) - 200) < 10


@pytest.mark.parametrize("how", ["HookedProxyLM", "TransformerBridge"])
@pytest.mark.filterwarnings("ignore")  # the peers' own
def test_both_wrappers_of_saelens_read_the_same_stream(case, how):
    _, windows = extraction.full_windows(case)
    windows = windows[:8]
    theirs = extraction.store(case, windows, 4, how, torch.float32)()
    ours = case.lm.residual(windows, case.hook_layer).flatten(0, 1)
    assert extraction.check_equal(ours, theirs) < 1e-3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", ["saelens", "dictionary_learning"])
def test_trainers_start_equal_and_learn_alike(make):
    if make == "dictionary_learning" and importlib.util.find_spec(make) is None:
        pytest.skip("make bench installs it")
    generator = torch.Generator().manual_seed(0)
    W_dec = torch.nn.functional.normalize(torch.randn(40, 16, generator=generator), dim=1)
    x = torch.randn(200, 3, generator=generator) @ torch.randn(3, 16, generator=generator)
    start = dictionary.Start(W_dec, 4)
    ours, theirs = dictionary.ours(start, torch.float32), getattr(dictionary, make)(start)
    before = [dictionary.explained(trainer, x) for trainer in (ours, theirs)]
    assert before[0] == pytest.approx(before[1], abs=1e-4)
    for _ in range(20):
        ours.step(x), theirs.step(x)
    after = [dictionary.explained(trainer, x) for trainer in (ours, theirs)]
    assert after[0] > before[0] and after[0] == pytest.approx(after[1], abs=dictionary.AGREE)


@pytest.mark.filterwarnings("ignore")
def test_the_run_for_a_gpu_on_a_small_gemma(small, tmp_path, monkeypatch):
    monkeypatch.setattr(full_size, "WIDTH", 128)
    monkeypatch.setattr(full_size, "L0", 8)
    monkeypatch.setattr(dictionary, "dictionary_learning", dictionary.saelens)  # not there without make bench
    made = cases.gemma("cpu", small)
    sizes = {
        "step_questions": 3,
        "step_groups": 2,
        "groups": 5,
        "tokens": 600,
        "window": 16,
        "sae_width": 64,
        "sae_k": 4,
    }
    made = cases.replace(made, survey=made.survey.select(questions=range(4)), sae_batch=32, rounds=1, **sizes)
    main.run(made, None, {"groups": (1, 2, 3)}, tmp_path, "-cuda")
    found = speed.load_speed("cuda", tmp_path)
    assert set(found.rows["name"]) == set(speed.ASKED)
    assert len(speed.ratios(found)) == len(found.rows) and "GFLOP/s" in speed.on_gpu(tmp_path)
    assert found.details["precision"] == [] and list(speed.slopes(found).index) == ["groups"]


def test_precision_compares_within_the_spread_of_seeds(case, monkeypatch):
    monkeypatch.setattr(precision, "SEEDS", 2)
    rows = precision.compare(case, case.lm, steps=3, epochs=1)
    assert [row["measure"] for row in rows] == ["explained_variance", "held_out_kl"]
    assert all(row["difference"] == 0 and row["within"] and row["seeds"] == 2 for row in rows)


def test_the_committed_results_have_the_form_of_the_design():
    rows = json.loads(COMMITTED.read_text())
    assert {row["name"] for row in rows} == set(speed.ASKED)
    for row in rows:
        assert list(row) == ["name", "unit", "ours", "peer", "peer_name", "ratio", "limit_fraction", "device"]
        assert 0 < row["limit_fraction"] < 1.5 and row["ours"] > 0 and row["device"] == "cpu"
        assert (row["peer"] is None) == (row["name"] == "add_group")
        if row["peer"] is not None:
            assert row["ratio"] == pytest.approx(row["peer"] / row["ours"], rel=2e-3)


def test_tables_and_figures_show_the_committed_files():
    found = speed.load_speed()
    assert "packaged:" not in speed.machine(found)
    assert "GFLOP/s" in speed.machine(found) and speed.notes(found).startswith("evaluate_groups")
    table = speed.ratios(found)
    assert set(table["reached"]) <= {"aim", "at least", "below"} and table["share of the limit"].gt(0).all()
    for one in (speed.settings(found), speed.equality(found), speed.precision(found), speed.where_time_goes(found)):
        assert len(one)
        assert "difference" not in one  # in the tables of chapters that is one in nats
    assert "option probabilities, largest" in set(speed.equality(found)["of"])
    assert list(speed.precision(found).index) == ["explained variance (share)", "held-out KL (nats)"]
    fits = speed.slopes(found)
    assert list(fits.index) == ["groups", "questions", "SAE width", "prompt tokens"]
    assert len(speed_figures.growth(found.growth, fits).axes) == 8
    assert len(speed_figures.speed_ratios(found.rows, speed.ASKED).axes) == 2


def test_what_was_asked_by_hand():
    assert [speed.met("train_sae_step", ratio) for ratio in (4.9, 5.0, 8.0)] == ["below", "at least", "aim"]
    assert [speed.met("add_group", share) for share in (0.03, 0.015, 0.01)] == ["below", "at least", "aim"]


def test_slope_is_the_power_of_the_upper_half():
    sizes = np.array([1.0, 2, 4, 8, 16, 32])
    assert speed.slope(sizes, 3 * sizes**2) == pytest.approx(2)
    assert speed.slope(sizes, np.where(sizes < 8, 1.0, sizes)) == pytest.approx(1)  # what is there once does not count
    assert speed.slope(sizes[:2], sizes[:2]) == pytest.approx(1)


def test_files_that_are_not_there_are_named_with_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="results-cuda.json.*make bench DEVICE=cuda"):
        speed.load_speed("cuda", tmp_path)
    with pytest.raises(FileNotFoundError, match="growth.csv.*`make bench`"):
        speed.load_speed(folder=tmp_path)
    assert "not measured" in speed.on_gpu(tmp_path)


def test_what_the_benchmarks_import_is_declared_and_the_peers_are_pinned():
    lines = (ROOT / "benchmarks" / "peers.txt").read_text().splitlines()
    peers = dict(line.split("==") for line in lines if not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    known = {*project["dependencies"], *project["optional-dependencies"]["bench"], *peers, "benchmarks", "opinion-sae"}
    for path in (ROOT / "benchmarks").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            tops = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
            assert {name.replace("_", "-") for name in tops} <= known, path.name


def test_profile_rows_add_up():
    table = pd.read_csv(ROOT / "benchmarks" / "profile.csv")
    assert table.groupby("name")["share"].sum().sub(1).abs().max() < 1e-3
