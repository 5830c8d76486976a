"""An SAE as SAELens puts it on the Hugging Face hub: the folder, checked by SAELens' own loader, and the upload."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from opinion_sae.artifacts import replacing, scratch
from opinion_sae.sae.autoencoder import SparseAutoencoder

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
TOKEN = "HF_TOKEN"  # the environment variable, which the hub's client reads too
ALIKE = 1e-4  # of the largest value: how far reconstructions may be apart
README = """---
library_name: saelens
tags:
- sparse-autoencoder
---

# A sparse autoencoder of {model}

{architecture}, {width} latents, trained on the residual stream of width {d_in} at `{hook}`. Made by opinion-sae.

| | |
|:--|--:|
{facts}

```python
from sae_lens import SAE

sae = SAE.from_pretrained("{repository}", "{sae_id}")
```
"""


def hub_folder(
    sae: SparseAutoencoder, folder: Path, repository: str, x: Float[Tensor, "row d"], facts: Mapping[str, object]
) -> str:
    """Write to `folder` what the repository would hold: `<id>/cfg.json`, `<id>/sae_weights.safetensors` as SAELens'
    `save_model` writes them, and `README.md`. Returns the id, the SAE's hook.

    Raises ValueError for a name that no repository has, and where SAELens, reading the folder, reconstructs `x`
    differently.
    """
    if not REPOSITORY.fullmatch(repository):
        raise ValueError(f"--repo {repository!r}: a repository of the hub is <owner>/<name>")
    from sae_lens import SAE  # takes ten seconds to import

    sae_id = str(sae.metadata.get("hook_name", "sae"))
    named = {"model": sae.metadata.get("model_name", "a language model"), "hook": sae_id, "repository": repository}
    named |= {"architecture": sae.architecture, "width": sae.width, "d_in": sae.d_in, "sae_id": sae_id}
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    with scratch(folder.parent) as place, replacing(folder) as side:
        sae.save(place / "ours")
        SAE.load_from_disk(str(place / "ours"), device="cpu").save_model(side / sae_id)
        (side / "README.md").write_text(README.format(facts=rows, **named), encoding="utf-8")
        with torch.no_grad():
            expected, found = sae(x), SAE.load_from_disk(str(side / sae_id), device="cpu")(x)
        off = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
        if not off < ALIKE:
            raise ValueError(f"{folder}: read by SAELens, the SAE reconstructs otherwise than here, by {off:.0e}")
    return sae_id


def upload(folder: Path, sae_id: str, repository: str) -> None:
    """Put such a folder on the hub; ValueError without a token in the environment."""
    if not os.environ.get(TOKEN):
        raise ValueError(f"--upload: put a token that may write to {repository} into the environment variable {TOKEN}")
    from huggingface_hub import HfApi
    from sae_lens import upload_saes_to_huggingface

    upload_saes_to_huggingface({sae_id: folder / sae_id}, repository, add_default_readme=False)
    HfApi(token=os.environ[TOKEN]).upload_file(
        path_or_fileobj=folder / "README.md", path_in_repo="README.md", repo_id=repository
    )
