"""A Gemma 2 small enough for a test."""

import importlib

import pytest
from transformers import Gemma2Config


@pytest.fixture(scope="module")
def small():
    sizes = importlib.import_module("benchmarks.full_size").GEMMA_2_2B.to_dict()
    sizes |= {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 15}
    for derived in ("layer_types", "rope_parameters", "architectures"):
        sizes.pop(derived)
    heads = {"vocab_size": 4096, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12}
    return Gemma2Config(**{**sizes, **heads})
