"""What a latent stands for: where it fires, which words go with it, what it promotes, and what removing it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from opinion_sae.delta.held_out import Split
from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.losses import kl
from opinion_sae.model.activations import content, text_windows
from opinion_sae.model.answers import AnswerPath
from opinion_sae.model.language_model import LanguageModel
from opinion_sae.progress import progress
from opinion_sae.sae.autoencoder import SparseAutoencoder

CONTEXT = 24  # tokens up to and including the one at which a latent fires
MOST_TOKENS = 60_000  # looked at for a latent's contexts
VOCABULARY = 1500  # words considered for labels, the most frequent ones


class Firing(NamedTuple):
    """Where chosen latents fire over a text: one row per content token."""

    latents: Float[Tensor, "token latent"]  # activations of the chosen latents
    contexts: list[list[int]]  # token ids up to and including each token, at most CONTEXT


@torch.no_grad()
def firing(
    lm: LanguageModel, sae: SparseAutoencoder, texts: Sequence[str], hook_layer: int, latents: Int[Tensor, "latent"]
) -> Firing:
    """Activations of `latents` at the content tokens of the texts, with what came before each: of windows spread
    evenly over the texts, about MOST_TOKENS tokens."""
    rows, contexts, windows = [], [], text_windows(lm, texts, tokens_per_batch=1024)
    step = max(1, sum(int(window.real.sum()) for window in windows) // MOST_TOKENS)
    for tokens, real in progress(windows[::step], "contexts"):
        residual = lm.residual(tokens, hook_layer).cpu()
        keep = content(residual, real)
        rows.append(sae.encode(residual[keep])[:, latents])
        for row, position in keep.nonzero().tolist():
            contexts.append(tokens[row, max(0, position + 1 - CONTEXT) : position + 1].tolist())
    return Firing(torch.cat(rows), contexts)


def top_contexts(
    lm: LanguageModel, found: Firing, latent: int, count: int = 5, words: int = 12
) -> list[tuple[str, float]]:
    """The `count` contexts in which column `latent` of `found` is largest, with its value there; ends at that token.

    Contexts that read the same are shown once.
    """
    shown: dict[str, float] = {}
    for token in found.latents[:, latent].argsort(descending=True).tolist():
        value = found.latents[token, latent].item()
        if value <= 0 or len(shown) == count:
            break
        shown.setdefault(lm.tokenizer.decode(found.contexts[token][-words:]).replace("\n", " ").strip(), value)
    return list(shown.items())


def word_table(lm: LanguageModel, contexts: list[list[int]]) -> tuple[list[str], Bool[Tensor, "token word"]]:
    """The most frequent words (tokens of three letters or more) and in which contexts they occur."""
    ids, counts = np.unique(np.concatenate(contexts), return_counts=True)
    pieces = [lm.tokenizer.decode([i]) for i in ids.tolist()]
    frequent = [j for j in counts.argsort()[::-1] if len(pieces[j].strip()) > 2 and pieces[j].strip().isalpha()]
    frequent = frequent[:VOCABULARY]
    column = {int(ids[j]): n for n, j in enumerate(frequent)}
    occurs = torch.zeros(len(contexts), len(frequent), dtype=torch.bool)
    for row, context in enumerate(contexts):
        occurs[row, [column[i] for i in context if i in column]] = True
    return [pieces[j].strip() for j in frequent], occurs


def labels(lm: LanguageModel, found: Firing, seed: int = 0, words: int = 3) -> list[tuple[str, float]]:
    """A label and its score for every latent of `found`.

    The label is the `words` words whose presence in the context differs most between where the latent fires and where
    it does not, on one half of the text. The score is the balanced accuracy of 'the context holds one of the words'
    for 'the latent fires' on the other half: 0.5 is chance. A latent that does not fire on both halves gets ('', nan).
    """
    vocabulary, occurs = word_table(lm, found.contexts)
    half = torch.rand(len(found.contexts), generator=torch.Generator().manual_seed(seed)) < 0.5
    fires = found.latents > 0
    result = []
    present = occurs[half].float()
    for column in fires.T:
        here, there = column[half], column[~half]
        if min(here.sum(), (~here).sum(), there.sum(), (~there).sum()) == 0:
            result.append(("", float("nan")))
            continue
        difference = present[here].mean(0) - present[~here].mean(0)
        chosen = difference.topk(min(words, len(vocabulary))).indices
        says = occurs[~half][:, chosen].any(1)
        score = (says[there].float().mean() + (~says[~there]).float().mean()) / 2
        result.append((", ".join(vocabulary[i] for i in chosen), score.item()))
    return result


@torch.no_grad()
def token_effects(
    lm: LanguageModel, sae: SparseAutoencoder, latents: Int[Tensor, "latent"], count: int = 6
) -> list[tuple[list[str], list[str]]]:
    """Tokens that each latent promotes and suppresses most when it writes straight to the output (logit lens).

    The decoder row, scaled by the final norm's gain, times the unembedding (nostalgebraist 2020).
    """
    norm = lm.norm
    probe = torch.ones(1, lm.width, dtype=lm.dtype, device=lm.device)
    gain = norm.weight if isinstance(norm, nn.LayerNorm) else norm(probe)[0]  # an RMS norm of ones is its gain
    head = lm.model.get_output_embeddings().weight
    effects = (sae.W_dec[latents].to(head.device) * gain.to(head.device).float()) @ head.float().T
    return [
        ([lm.tokenizer.decode([i]) for i in row.topk(count).indices.tolist()],
         [lm.tokenizer.decode([i]) for i in (-row).topk(count).indices.tolist()])
        for row in effects
    ]  # fmt: skip


def strongest(offsets: Float[Tensor, "fold group latent"], count: int) -> Int[Tensor, "group count"]:
    """Latents with the largest mean |Delta| over the folds' fits, per group."""
    return offsets.mean(0).abs().topk(count, dim=1).indices


def cost_of_removal(
    answers: AnswerPath,
    deltas: Sequence[GroupDelta],
    splits: Sequence[Split],
    shares: Float[Tensor, "group question option"],
    latents: Int[Tensor, "group count"],
) -> Float[np.ndarray, "group count"]:
    """Rise of a group's held-out KL when one latent is taken out of its Delta, in nats; negative if that helps.

    Each split's fit is judged on that split's test questions.
    """
    rises = np.full((*latents.shape, len(answers.questions)), np.nan)
    for delta, split in zip(progress(deltas, "removal"), splits, strict=True):
        test = torch.from_numpy(split.test)
        for group, chosen in enumerate(latents):
            log_probs = answers.predict(delta.without(group, chosen), test)
            cells = kl(shares[group, test].expand_as(log_probs), log_probs)
            rises[group][:, test.numpy()] = (cells[:-1] - cells[-1]).numpy()
    return np.nanmean(rises, axis=-1)


def latents_touched(deltas: Sequence[GroupDelta]) -> pd.DataFrame:
    """Non-zero latents per fold and part, means over groups; last, how many have one sign in all folds with the part.

    A part that a fold does not use (all zero, since the start won on validation) is NaN, and its fold is left out of
    the last row.
    """
    parts = {
        "shared": torch.stack([delta.shared.detach()[None] for delta in deltas]),
        "group": torch.stack([delta.deviation.detach() for delta in deltas]),
        "shared + group": torch.stack([delta.offsets().detach() for delta in deltas]),
    }
    columns = {}
    for name, offsets in parts.items():
        used = (offsets != 0).any(-1).any(-1)
        counts = (offsets != 0).float().sum(-1).mean(-1).where(used, torch.nan)
        signs = offsets[used].sign().sum(0).abs() == used.sum()
        columns[name] = [*counts.tolist(), signs.float().sum(-1).mean().item() if used.any() else np.nan]
    index = [*(f"fold {fold}" for fold in range(len(deltas))), "one sign in all folds that use it"]
    return pd.DataFrame(columns, index=index)


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


class Description(NamedTuple):
    """What is known of one latent."""

    label: str
    score: float
    contexts: list[tuple[str, float]]
    promoted: list[str]
    suppressed: list[str]


def describe_latents(
    lm: LanguageModel,
    sae: SparseAutoencoder,
    texts: Sequence[str],
    hook_layer: int,
    latents: Int[Tensor, "latent"],
    seed: int,
) -> dict[int, Description]:
    """Label, contexts and token effects of each latent."""
    found = firing(lm, sae, texts, hook_layer, latents)
    named, effects = labels(lm, found, seed), token_effects(lm, sae, latents)
    return {
        latent: Description(*named[n], top_contexts(lm, found, n), *effects[n])
        for n, latent in enumerate(latents.tolist())
    }


def context_table(described: dict[int, Description], latents: Sequence[int], contexts: int = 3) -> pd.DataFrame:
    """Strongest contexts and the tokens promoted and suppressed, a row per latent."""
    rows = [
        {
            "latent": latent,
            "label": described[latent].label,
            "score": round(described[latent].score, 2),
            "fires on": " / ".join(f"…{text} ({value:.0f})" for text, value in described[latent].contexts[:contexts]),
            "promotes": quoted(described[latent].promoted),
            "suppresses": quoted(described[latent].suppressed),
        }
        for latent in latents
    ]
    return pd.DataFrame(rows).set_index("latent")


def quoted(tokens: Sequence[str]) -> str:
    return " ".join(f"‘{token.strip()}’" for token in tokens)


def latent_table(
    groups: Sequence[str],
    latents: Int[Tensor, "group count"],
    offsets: Float[Tensor, "fold group latent"],
    at_answers: Float[Tensor, "item latent"],
    described: dict[int, Description],
    removal: Float[np.ndarray, "group count"],
) -> pd.DataFrame:
    """Rows of `latents.csv`: the groups' strongest latents, in the order of |Delta|.

    mean_activation is over the survey prompts, `at_answers`.
    """
    rows = []
    for g, group in enumerate(groups):
        for n, latent in enumerate(latents[g].tolist()):
            about = described[latent]
            rows.append(
                {
                    "group": group,
                    "latent": latent,
                    "delta": offsets[:, g, latent].mean().item(),
                    "folds": int((offsets[:, g, latent] != 0).sum()),
                    "mean_activation": at_answers[:, latent].mean().item(),
                    "top_tokens": quoted(about.promoted),
                    "label": about.label,
                    "score": about.score,
                    "kl_if_removed": removal[g, n],
                }
            )
    return pd.DataFrame(rows)
