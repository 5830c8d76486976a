"""How an offset is fitted, checked when the settings are made."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

LEAST = {"epochs": 0, "batch": 1, "patience": 1, "token_batch": 1, "token_steps": 1, "tilt": -math.inf}  # else 0


@dataclass(frozen=True)
class FitSettings:
    """Raises ValueError, naming the field, for what is not a number in its range."""

    epochs: int = 15  # at most, over the training questions
    batch: int = 16  # questions
    lr: float = 0.3  # share of the residual's spread that one step may move
    shared_lr: float = 1.0  # the same for the shared part, where it is fitted first
    l1: float = 0.0  # weight of |Delta|_1
    group_lasso: bool = False  # one vocabulary of latents for all groups in place of the L1 term
    tilt: float = 0.0  # t of the tilted loss over groups; 0 is the plain mean
    patience: int = 5  # epochs without a better validation KL before stopping
    seed: int = 0  # of the order of the questions

    def __post_init__(self) -> None:
        for field in fields(self):
            value, least = getattr(self, field.name), LEAST.get(field.name, 0)
            whole, yes_or_no = field.type == "int", field.type == "bool"
            if isinstance(value, bool) != yes_or_no or not isinstance(value, int if whole else int | float):
                raise ValueError(f"{field.name} must be {field.type}, not {type(value).__name__} {value!r}")
            if not (math.isfinite(value) and value >= least):
                raise ValueError(f"{field.name} must be finite and at least {least}, not {value!r}")

    @property
    def first_stage(self) -> FitSettings:
        """For one offset that all groups share: it is cheap, so it may take more and bolder steps."""
        return replace(self, lr=self.shared_lr, epochs=2 * self.epochs, patience=2 * self.patience)


@dataclass(frozen=True)
class JointSettings(FitSettings):
    """Of joint training, whose SAE learns beside the offset."""

    kl_weight: float = 1.0  # beta
    sparsity: float = 0.01  # lambda, with the sparsity in units of its value at the start
    sae_lr: float = 3e-5
    token_batch: int = 1024
    token_steps: int = 1  # batches of tokens for each batch of questions
    keep_error: bool = True
