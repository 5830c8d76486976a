"""What a latent promotes, and what a constant offset consists of."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.model.answers import AnswerPath
from opinion_sae.model.language_model import LanguageModel
from opinion_sae.sae.autoencoder import SparseAutoencoder


@torch.no_grad()
def logit_effects(
    lm: LanguageModel, sae: SparseAutoencoder, latents: Int[Tensor, "latent"]
) -> Float[Tensor, "latent vocabulary"]:
    """What each latent adds to every token's logit when it writes straight to the output (logit lens).

    The decoder row, scaled by the final norm's gain, times the unembedding (nostalgebraist 2020).
    """
    norm = lm.norm
    probe = torch.ones(1, lm.width, dtype=lm.dtype, device=lm.device)
    gain = norm.weight if isinstance(norm, nn.LayerNorm) else norm(probe)[0]  # an RMS norm of ones is its gain
    head = lm.model.get_output_embeddings().weight
    return (sae.W_dec[latents].to(head.device) * gain.to(head.device).float()) @ head.float().T


def token_effects(
    lm: LanguageModel, sae: SparseAutoencoder, latents: Int[Tensor, "latent"], count: int = 6
) -> list[tuple[list[str], list[str]]]:
    """Tokens that each latent promotes and suppresses most, by `logit_effects`."""
    return [
        ([lm.tokenizer.decode([i]) for i in row.topk(count).indices.tolist()],
         [lm.tokenizer.decode([i]) for i in (-row).topk(count).indices.tolist()])
        for row in logit_effects(lm, sae, latents)
    ]  # fmt: skip


@torch.no_grad()
def fixed_part(answers: AnswerPath, deltas: Sequence[GroupDelta]) -> pd.DataFrame:
    """Per fold, means over groups: how much of the offset is the same for every prompt, and its size beside x.

    constant share: |mean shift|^2 / mean |shift|^2 over the survey prompts, with shift = x_g - x; silent latents: share
    of the latents of Delta that fire on no prompt; norm: mean |shift|; spread: mean |x - mean x|; both in the units of
    the residual stream.
    """
    x, sae = answers.residual, deltas[0].sae
    fires = torch.zeros(sae.width, dtype=torch.bool)
    code = sae.encode_sparse(x)
    fires[code.indices[code.values > 0]] = True
    rows = []
    for fold, delta in enumerate(deltas):
        shift = torch.cat([delta.steer(part) - part[:, None] for part in x.split(32)])
        size = shift.pow(2).sum(-1).mean(0)
        touched = delta.offsets() != 0
        silent = (touched & ~fires).sum(1) / touched.sum(1).clamp_min(1)
        constant = shift.mean(0).pow(2).sum(-1) / size.clamp_min(1e-12)
        spread = (x - x.mean(0)).norm(dim=1).mean().item()
        rows.append((fold, constant.mean().item(), silent.mean().item(), shift.norm(dim=-1).mean().item(), spread))
    return pd.DataFrame(rows, columns=["fold", "constant share", "silent latents", "norm", "spread"]).set_index("fold")


def quoted(tokens: Sequence[str]) -> str:
    return " ".join(f"‘{token.strip()}’" for token in tokens)
