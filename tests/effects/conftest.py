"""Factual questions small enough for a test."""

import numpy as np
import pytest

from opinion_sae.effects.facts import Facts


@pytest.fixture(scope="module")
def facts(tiny):
    options = [("A", "B", "C", "D"), ("H", "G", "E", "F"), ("C", "D", "E", "F"), ("B", "E", "A", "G"), "ABCD"]
    questions = [tiny.question(f"f{i}", some, f"Which is {i}?", topic="ab"[i % 2]) for i, some in enumerate(options)]
    return Facts(tuple(questions), np.array([0, 1, 2, 3, 0]))
