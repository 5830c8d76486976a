"""What else a trained unembedding changes: the option letters' rows weigh in wherever the model reads on.

logit_letter = (W + V_g)_letter . h at every position, h the final stream; all other tokens' logits stay. The layers run
once for all groups: V_g acts on what the unsteered model leaves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor

from opinion_sae.artifacts import check_numbers, read_tensors, replacing
from opinion_sae.delta.held_out import Split
from opinion_sae.effects.facts import Facts
from opinion_sae.effects.readers import Cells, Passage, asked_facts, fact_cells, text_cells
from opinion_sae.effects.side_effects import answer_cells
from opinion_sae.model.answers import AnswerPath
from opinion_sae.model.language_model import LanguageModel
from opinion_sae.score.metrics import total_variation
from opinion_sae.survey import Survey

Rows = Float[Tensor, "group letter d"]  # V_g of one fold


def save_rows(path: Path, rows: Float[Tensor, "fold group letter d"]) -> None:
    """Write the rows that `unembedding` fitted, in float32."""
    with replacing(path) as side:
        save_file({"rows": rows.float().contiguous()}, side)


def load_rows(path: Path) -> Float[Tensor, "fold group letter d"]:
    """What `save_rows` wrote; FileNotFoundError if it is not there."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no rows of the unembedding there; run chapter 06_controls first")
    _, tensors = read_tensors(path)
    check_numbers(path, tensors)
    if list(tensors) != ["rows"] or tensors["rows"].ndim != 4:
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        raise ValueError(f"{path}: expected rows of shape (fold, group, letter, d), found {shapes}")
    return tensors["rows"]


def letter_tokens(answers: AnswerPath) -> Int[Tensor, "letter"]:
    """The tokens of A, B and so on, as many as the question with the most options has."""
    longest = max(answers.prompts, key=lambda prompt: len(prompt.order))
    return torch.tensor([longest.letters[option] for option in longest.order])


def moved_logits(
    lm: LanguageModel, stream: Float[Tensor, "token d"], rows: Rows, letters: Int[Tensor, "letter"]
) -> Float[Tensor, "token group vocabulary"]:
    """Logits of all tokens under each group's rows, from the stream after the last layer; a soft cap acts before."""
    with lm.mixed_precision():
        h = lm.norm(stream).float()
    logits = lm.logits(stream)[:, None].repeat(1, len(rows), 1)
    logits[..., letters.to(logits.device)] += torch.einsum("td,gld->tgl", h, rows.to(h.device)).to(logits.device)
    return logits


@torch.no_grad()
def option_cells(
    answers: AnswerPath, items: Int[Tensor, "item"], rows: Rows, letters: Int[Tensor, "letter"], batch: int = 8
) -> tuple[Float[np.ndarray, "group item option"], Float[np.ndarray, "group item"]]:
    """Probabilities of each prompt's options among themselves, and the share of the next token's that lies on them."""
    found = []
    for some in items.split(batch):
        stream = answers.run_upper(some, answers.steered(some))[:, 0]
        p = moved_logits(answers.lm, stream, rows, letters).softmax(-1).cpu().double()
        options = answers.letters[some][:, None].expand(-1, len(rows), -1)
        found.append(p.gather(-1, options) * answers.has_option[some][:, None])
    p = torch.cat(found).transpose(0, 1).numpy()
    return p / p.sum(-1, keepdims=True), p.sum(-1)


class RowsReader:
    """The model with the rows of one split added to its unembedding."""

    def __init__(self, rows: Rows, letters: Int[Tensor, "letter"], asked: AnswerPath):
        self.rows, self.letters, self.asked, self.groups = rows, letters, asked, len(rows)

    def choose(self, items: Int[np.ndarray, "item"], which: slice) -> Int[np.ndarray, "row item"]:
        return option_cells(self.asked, torch.from_numpy(items), self.rows, self.letters)[0].argmax(-1)[which]

    def next_logits(self, passage: Passage, which: slice) -> Iterable[Float[Tensor, "token vocabulary"]]:
        rows = self.rows[which].split(1)
        return (moved_logits(passage.lm, passage.top, row, self.letters)[:, 0] for row in rows)


def letter_cells(
    answers: AnswerPath,
    survey: Survey,
    splits: Sequence[Split],
    log_probs: Float[np.ndarray, "group question option"],
    rows: Float[Tensor, "fold group letter d"],
    facts: Facts,
    texts: Sequence[str],
) -> Cells:
    """All cells of `side_effects` for the held-out answers `log_probs` of rows that were fitted for each split."""
    letters, orders = letter_tokens(answers), answers.orders
    cells = answer_cells(survey, np.exp(log_probs.astype(float)))
    cells |= {name: np.full(survey.respondents.shape, np.nan) for name in ("option_mass", "order_tv")[: min(orders, 2)]}
    for of_split, (_, _, _, test) in zip(rows, splits, strict=True):
        p, mass = option_cells(answers, answers.items(torch.from_numpy(test)), of_split, letters)
        cells["option_mass"][:, test] = mass.reshape(len(p), -1, orders).mean(-1)
        if orders > 1:
            by_order = p.reshape(len(p), len(test), orders, -1)
            cells["order_tv"][:, test] = total_variation(by_order[:, :, 0], by_order[:, :, 1])
    known, asked = asked_facts(answers, facts)
    readers, groups = [RowsReader(of_split, letters, asked) for of_split in rows], len(survey.groups)
    text = text_cells({"": readers}, (Passage(answers.lm, one, answers.hook_layer) for one in texts), groups)
    return cells | fact_cells(readers, known, groups) | text[""]
