"""The sentence encoder: pooling by hand on a tiny one, and what is refused."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from opinion_sae.methods.sentences import sentence_embeddings


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """A BERT of one layer in a folder, with the tiny models' tokenizer."""
    path = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    BertModel(BertConfig(vocab_size=320, pad_token_id=1, **sizes)).save_pretrained(path)
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = "</s>"
    tokenizer.save_pretrained(path)
    return path


def test_embedding_is_the_mean_over_tokens_whatever_stands_beside_it(tiny, folder):
    questions = [tiny.question("a", ("Yes", "No"), "Is it so?"), tiny.question("b", ("Never", "Always"), "Often " * 20)]
    together, alone = sentence_embeddings(questions, folder), sentence_embeddings(questions[:1], folder)
    np.testing.assert_allclose(together[:1], alone, atol=1e-6)  # padding counts for nothing
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1)
    model = BertModel.from_pretrained(folder).eval()
    tokens = tiny.tokenizer()("Is it so? Yes No", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        hidden = model(tokens).last_hidden_state[0].mean(0).double().numpy()
    np.testing.assert_allclose(alone[0], hidden / np.linalg.norm(hidden), atol=1e-5)
