"""What one chapter leaves for the others."""

import numpy as np
import pytest

from opinion_sae.delta.files import load_all_answers, save_answers

FILES = ("answers.safetensors", "answers-joint.safetensors")


def answers(*names):
    return {name: np.log(np.full((2, 3, 2), 0.5, np.float32)) for name in names}


def test_a_chapter_that_was_not_run_leaves_no_rows(tmp_path):
    save_answers(tmp_path / FILES[0], answers("unsteered", "delta"))
    assert sorted(load_all_answers(tmp_path, FILES)) == ["delta", "unsteered"]
    save_answers(tmp_path / FILES[1], answers("delta-joint"))
    assert sorted(load_all_answers(tmp_path, FILES)) == ["delta", "delta-joint", "unsteered"]


def test_without_any_the_first_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"/answers\.safetensors: no held-out answers there"):
        load_all_answers(tmp_path, FILES)
