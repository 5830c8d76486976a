"""Studies: what the book shows but does not rerun, each a module, made from what a finished book left.

A study is a module of this room with `TITLE` (one line) and `TIME` (how long all of it takes, and where), and two
functions: `items(given)`, by name and in order of worth, and `tables(given, parts)`, tables by the name of their file
from the parts that are there. Imports from all rooms before it; `book.study` runs it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast, runtime_checkable

import numpy as np
import pandas as pd

from opinion_sae.artifacts import Item
from opinion_sae.delta.settings import JointSettings

if TYPE_CHECKING:
    from opinion_sae.delta.directions import Effects
    from opinion_sae.delta.held_out import Split
    from opinion_sae.delta.settings import FitSettings
    from opinion_sae.model.activations import Activations
    from opinion_sae.model.answers import AnswerPath
    from opinion_sae.model.language_model import LanguageModel
    from opinion_sae.sae.autoencoder import SparseAutoencoder
    from opinion_sae.survey import Survey

# modules of this room, in the order in which they are listed
STUDIES = (
    "architectures",
    "size",
    "specialised",
    "shift",
    "bios",
    "trained_on",
    "places",
    "constant",
    "audit",
    "across",
)
# what a user has to bring for some of them
DATA = {
    "bios": "Bias in Bios, a file or folder of the Hub's LabHC/bias_in_bios",
    "across": "another survey, such as OpinionQA's folder",
}
Parts = Mapping[str, Mapping[str, np.ndarray]]  # tensors by the name of their item, of those that are there


class Constant(NamedTuple):
    """What a profile says of constant offsets that the book itself does not fit."""

    joint: JointSettings = JointSettings()
    scratch_steps: int = 4  # batches of activations to each batch of questions, of an SAE from scratch
    tilts: Sequence[float] = (10.0,)
    kind_epochs: int = 1
    crossed: Survey | None = None  # intersections of groups, asked the same questions


@dataclass(frozen=True, eq=False)
class Given:
    """What a finished book left: its survey, model and prompts, and the files in `work`; and where a study's own lie.

    `training` is how the book trained its SAE: `width`, `k`, `steps`, `batch` and `lr`. `data` is the user's, for a
    study in `DATA`.
    """

    answers: AnswerPath
    survey: Survey
    splits: Sequence[Split]
    settings: FitSettings
    training: Mapping[str, int | float]
    work: Path
    folder: Path
    replicates: int = 2000
    data: Path | None = None
    constant: Constant = Constant()
    # of the profile
    texts: str | list[str] = "addresses"
    surveys: Sequence[str] = ()
    min_respondents: int = 50

    @property
    def lm(self) -> LanguageModel:
        """The language model."""
        return self.answers.lm

    @property
    def seed(self) -> int:
        """The book's."""
        return self.settings.seed

    @cached_property
    def activations(self) -> Activations:
        """What the book's SAE was trained and judged on."""
        from opinion_sae.model.activations import load_activations

        return load_activations(self.work)

    @cached_property
    def key(self) -> str:
        """A part of the hash of what SAEs are trained on, in the names of folders that keep them."""
        return hashlib.sha256(self.activations.tokens.numpy().tobytes()).hexdigest()[:12]

    @cached_property
    def held_out(self) -> list[str]:
        """The texts that SAEs are judged on. FileNotFoundError if chapter 03 has left none."""
        from opinion_sae.artifacts import check_fields, read_json

        path = self.work / "texts.json"
        found = read_json(path)
        check_fields(found, {"held_out": list}, str(path), more=True)
        return found["held_out"]

    @cached_property
    def sae(self) -> SparseAutoencoder:
        """The book's."""
        from opinion_sae.sae.autoencoder import load_sae

        return load_sae(self.work / "sae")

    @cached_property
    def effects(self) -> Effects:
        """What a change of x, as it is, does to every letter: from toplines no shared part is needed."""
        from opinion_sae.delta.directions import Effects

        return Effects(self.answers)


@runtime_checkable
class Study(Protocol):
    """What is asked of a study's module."""

    TITLE: str
    TIME: str

    def items(self, given: Given) -> dict[str, Item]: ...

    def tables(self, given: Given, parts: Parts) -> dict[str, pd.DataFrame]: ...


def load_study(name: str) -> Study:
    """The module of a study. ValueError, with those that there are, for another name."""
    if name not in STUDIES:
        raise ValueError(f"there is no study {name!r}; there are {', '.join(STUDIES)}")
    return cast(Study, import_module(f"opinion_sae.studies.{name}"))
