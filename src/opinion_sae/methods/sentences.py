"""Sentence embeddings of a small encoder that knows nothing of the model under study: a text-only reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from jaxtyping import Float

from opinion_sae.model.weights import check_complete
from opinion_sae.model.wheels import encoder_folder
from opinion_sae.survey import Question

MOST_TOKENS = 256  # what the encoder was trained on; longer texts are cut


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
    model, loading = transformers.AutoModel.from_pretrained(
        folder, use_safetensors=True, local_files_only=True, output_loading_info=True
    )
    check_complete(f"sentence encoder {folder}", loading)
    tokenizer, found = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True), []
    for start in range(0, len(texts), batch):
        part = list(texts[start : start + batch])
        rows = tokenizer(part, padding=True, truncation=True, max_length=MOST_TOKENS, return_tensors="pt")
        hidden, mask = model.eval()(**rows).last_hidden_state, rows["attention_mask"][..., None]
        found.append((hidden * mask).sum(1) / mask.sum(1))
    return torch.nn.functional.normalize(torch.cat(found), dim=1).double().numpy()
