"""The plan of a larger run: its units by hand, and the page from the committed figures."""

import json

import pytest

from opinion_sae.book.paths import ROOT
from opinion_sae.book.plan import (
    GEMMA_2_2B,
    GEMMA_2_9B,
    SMOLLM2_135M,
    Job,
    Measured,
    Shape,
    _saved,
    checked,
    plan_page,
    sizes_gb,
    steps,
    wall,
)

TINY = Shape(layers=4, width=10, mlp=20, heads=2, kv_heads=1, head_dim=5, vocabulary=100)
FOUND = {
    "work": {"questions": 10, "groups": 2, "option_orders": 1, "prompt_tokens": 50},
    "model": {"weights_gb": 2.0},
    "peak_gb": 3.0,
    "stages": [
        {"stage": "load", "seconds": 4.0},
        {"stage": "prompts", "seconds": 2.0},
        {"stage": "fit delta, one epoch", "seconds": 1.0},
        {"stage": "evaluate", "seconds": 0.5},
    ],
}
PROFILE = {"folds": 3, "option_orders": 1, "text_tokens": 100}


def test_the_shapes_have_as_many_weights_as_the_models():
    measured = json.loads((ROOT / "benchmarks" / "full_size.json").read_text())["model"]["weights_gb"]
    assert 2 * GEMMA_2_2B.weights / 1e9 == pytest.approx(measured, rel=0.002)
    assert GEMMA_2_9B.weights == pytest.approx(9.24e9, rel=0.002)
    assert SMOLLM2_135M.weights == pytest.approx(134.5e6, rel=0.002)


def test_what_was_measured_by_hand():
    assert TINY.layer == 2 * 10 * 15 + 600 and TINY.weights == 4 * 900 + 1000 and TINY.kept == 20
    one = Measured.of(FOUND, TINY, hook_layer=1, trained=6)
    assert (one.tokens, one.loading) == (5, 2)
    assert one.prompts == pytest.approx(2 * 3600 * 50 / 1e9 / 2)
    row = 2 * 2 * 900 / 1e9  # two layers above the hook
    assert one.answering == pytest.approx(row * 10 * 2 / 0.5)
    assert one.training == pytest.approx(row * 2 * (2 * 6 + 2 * 4) / 1)


def test_the_same_work_takes_the_time_that_was_measured():
    measured = Measured.of(FOUND, TINY, hook_layer=1, trained=6)
    job = Job(TINY, range(1, 2), questions=10, groups=2)
    found = {step.name: step for step in steps(job, measured, PROFILE, {"shared": 3, "deviation": 6}, methods=0)}
    assert 3600 * found["prompts"].cpu_hours == pytest.approx(2.0)
    assert 3600 * found["answers"].cpu_hours == pytest.approx(4 * 0.5)  # four methods
    train = 10 / 3 * (3 + 6 * 2)
    assert found["constant offsets"].passes == pytest.approx(2 * train + train)
    assert found["reading offsets"].passes == 2 * 4 * 10 * 5
    twice = steps(Job(TINY, range(1, 3), 10, 2), measured, PROFILE, {"shared": 3, "deviation": 6}, 0)
    assert twice[-1].tflop == pytest.approx(1.5 * found["answers"].tflop)  # two layers above, then one


def test_memory_and_disk_add_up():
    measured = Measured.of(FOUND, TINY, hook_layer=1, trained=6)
    found = sizes_gb(Job(TINY, range(1, 3), 10, 2), measured, PROFILE)
    assert found["kept"] == pytest.approx(10 * 5 * 2 * 20 / 1e9)
    assert found["memory"] == pytest.approx(found["weights"] + found["kept"] + found["rest"])
    assert found["disk"] == pytest.approx(found["weights"] + 2 * (found["activations"] + found["sae"]))


def test_shards_divide_the_texts_and_load_the_weights_twice_more():
    assert wall(texts=4.0, hours=10.0, load=0.5, shards=1) == 10
    assert wall(texts=4.0, hours=10.0, load=0.5, shards=4) == 6 + 1 + 2 * 0.5


def test_the_check_says_how_far_off_the_count_is():
    said = checked(1600.0, 160.0)
    assert said == "So the count is 10.0 times too high for this run, and the hours on this page are an upper bound."
    assert "is 2.0 times too low for this run, and the hours on this page are a lower bound." in checked(80.0, 160.0)
    assert checked(170.0, 160.0) == "So the count holds for this run."


def test_shards_that_save_nothing_are_said_to():
    assert _saved("an hour", "an hour", "on GPUs") == "an hour on GPUs either way, where nothing is saved"
    assert _saved("an hour", "a minute", "on GPUs") == "a minute rather than an hour on GPUs"


def test_the_page_is_made_of_committed_figures(tmp_path):
    page = plan_page()
    assert "Extracted by 8 jobs side by side (`shards: 8`)" in page
    assert "a sweep over 26 hook layers" in page and "1,498 questions, 60 groups" in page and "nan" not in page
    assert "`make full-size` and `make book` write" in plan_page(tmp_path)
