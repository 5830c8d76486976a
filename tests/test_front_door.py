"""What `opinion_sae` offers by name, and that it costs nothing until it is used."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import opinion_sae
from opinion_sae.book.paths import ROOT

NAMES = "load_survey load_language_model AnswerPath load_sae train_sae fit_delta GroupDelta load_offset steer score"
NAMES = NAMES.split()
PROBE = """
import json, sys, time
start = time.perf_counter()
import opinion_sae
seconds = time.perf_counter() - start
names = dir(opinion_sae)
print(json.dumps([seconds, names, sorted(sys.modules)]))
"""


@pytest.mark.alone
def test_importing_the_package_loads_nothing_of_it():
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    runs = [
        subprocess.run([sys.executable, "-c", PROBE], env=environment, capture_output=True, check=True) for _ in "123"
    ]
    found = [json.loads(run.stdout) for run in runs]
    assert min(seconds for seconds, _, _ in found) < 0.2
    assert set(NAMES) <= set(found[0][1])
    assert not {"torch", "pandas", "numpy", "matplotlib", "transformers"} & set(found[0][2])


def test_every_name_is_there_and_documented():
    assert sorted(opinion_sae.__all__) == sorted(NAMES) == sorted(opinion_sae.PLACES)
    for name in NAMES:
        assert callable(getattr(opinion_sae, name)) and getattr(opinion_sae, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'load_sea'"):
        _ = opinion_sae.load_sea


def test_names_are_those_of_their_modules():
    from opinion_sae import GroupDelta, load_survey
    from opinion_sae.delta import offsets
    from opinion_sae.survey import load

    assert GroupDelta is offsets.GroupDelta and load_survey is load.load_survey


def test_score_is_a_room_and_a_function(two_groups):
    from opinion_sae import score
    from opinion_sae.score import metrics

    log_probs = np.log(np.full(two_groups.shares.shape, 0.25))
    np.testing.assert_array_equal(score(two_groups, log_probs).kl, metrics.score(two_groups, log_probs).kl)


def test_an_offset_of_either_kind_comes_back_by_the_front_door(tiny, six_questions, tmp_path):
    from opinion_sae import AnswerPath, GroupDelta, fit_delta, load_offset

    answers, sae = AnswerPath(tiny.lm(), six_questions.questions, 2), tiny.sae()
    reads, _ = fit_delta(answers, sae, six_questions, reads="question", axes=1)
    constant = GroupDelta(six_questions.groups, sae)
    for delta in (reads, constant):
        delta.save(tmp_path / "deltas.safetensors")
        again = load_offset(str(tmp_path / "deltas.safetensors"), sae)
        assert type(again) is type(delta) and again.reads == delta.reads
        np.testing.assert_array_equal(answers.predict(again), answers.predict(delta))
    reads.save(tmp_path / "reads.safetensors")
    with pytest.raises(ValueError, match="`load_offset` reads offsets that read the question too"):
        GroupDelta.load(tmp_path / "reads.safetensors", sae)


@pytest.mark.parametrize("family, file", [("gemma2", "params.npz"), ("gemma3", "params.safetensors")])
def test_gemma_and_gemma_scope_from_folders_take_an_offset_that_reads(tiny, six_questions, tmp_path, family, file):
    """Both in the form in which the hub has them; Gemma 3 turns its layers by two kinds of rotary angles."""
    from opinion_sae import AnswerPath, fit_delta, load_language_model, load_sae, steer

    tiny.model(family).save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    drawn = torch.randn(96, 32, generator=torch.Generator().manual_seed(0))
    decoder = torch.nn.functional.normalize(drawn, dim=1)
    params = {"b_enc": torch.zeros(96), "b_dec": torch.zeros(32), "threshold": torch.full((96,), 0.5)}
    if file.endswith("npz"):
        np.savez(tmp_path / file, W_enc=decoder.T, W_dec=decoder, **params)
    else:
        save_file(params | {"w_enc": decoder.T.contiguous(), "w_dec": decoder}, tmp_path / file)
    lm, sae = load_language_model(str(tmp_path / "model"), "float32"), load_sae(tmp_path)
    answers = AnswerPath(lm, six_questions.questions, 2, orders=1)
    offset, _ = fit_delta(answers, sae, six_questions, reads="question", axes=1)
    moved = (answers.predict(offset).exp() - answers.predict().exp()).abs()
    assert moved.isfinite().all() and moved.max() > 1e-3
    tokens = torch.tensor([list(answers.prompts[0].tokens)])
    plain = lm.model(tokens).logits[0, -1]
    with steer(lm, offset, six_questions.groups[0], hook_layer=2, asked=slice(*answers.prompts[0].asked)):
        steered = lm.model(tokens).logits[0, -1]
    by_hand = answers.predict(offset)[0, 0].exp()
    letters = answers.letters[0][: len(six_questions.questions[0].options)]
    torch.testing.assert_close(steered[letters].softmax(-1), by_hand[: len(letters)], atol=1e-4, rtol=1e-3)
    assert not torch.equal(plain, steered)


@pytest.mark.parametrize("given", [None, "else"])
@pytest.mark.parametrize("name, ours", [("OMP_WAIT_POLICY", "passive"), ("MKL_CBWR", "AUTO,STRICT")])
def test_threads_sleep_and_change_no_product_whatever_imports_the_package_unless_asked_otherwise(name, ours, given):
    environment = {key: value for key, value in os.environ.items() if key != name}
    environment |= {"PYTHONPATH": str(ROOT / "src")} | ({name: given} if given else {})
    code = f"import opinion_sae, os; print(os.environ['{name}'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (given or ours)
