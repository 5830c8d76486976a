"""What a chapter works with, from the parameters of its notebook: made when first used, and once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from opinion_sae.book.paths import Run, open_run
from opinion_sae.book.profile import Profile
from opinion_sae.survey import Survey, load_survey, question_clusters, question_folds

if TYPE_CHECKING:
    from opinion_sae.delta.held_out import Split
    from opinion_sae.model.answers import AnswerPath
    from opinion_sae.model.language_model import LanguageModel
    from opinion_sae.sae.autoencoder import SparseAutoencoder


def open_chapter(names: Mapping[str, Any]) -> Chapter:
    """A chapter from the variables of its notebook, `globals()`: those that are parameters (keys of a profile).

    Makes the run's folders. Raises ValueError without `output`, or as `open_run` does.
    """
    return Chapter({name: names[name] for name in Profile.__dataclass_fields__ if name in names})


@dataclass(frozen=True)
class Chapter:
    """The parts of one run of the book; each raises ValueError that names a parameter which the notebook lacks."""

    parameters: Mapping[str, Any]

    def __post_init__(self):
        _ = self.run

    @cached_property
    def run(self) -> Run:
        """The folders to write to."""
        return open_run(self["output"])

    @cached_property
    def survey(self) -> Survey:
        """Questions, groups and their answers."""
        return load_survey(self["survey"], self["min_respondents"], self["attributes"], self["max_questions"])

    @cached_property
    def lm(self) -> LanguageModel:
        """The language model."""
        from opinion_sae.model.language_model import load_language_model

        return load_language_model(self["model"], self["dtype"])

    @cached_property
    def sae(self) -> SparseAutoencoder:
        """The SAE that chapter 03 trained or loaded, frozen."""
        from opinion_sae.sae.autoencoder import load_sae

        return load_sae(self.run.work / "sae")

    @cached_property
    def answers(self) -> AnswerPath:
        """The survey's prompts, run once for all chapters."""
        from opinion_sae.model.answers import AnswerPath

        questions, layer, orders = self.survey.questions, self["hook_layer"], self["option_orders"]
        return AnswerPath(self.lm, questions, layer, orders, file=self.run.prompts)

    @cached_property
    def folds(self) -> Int[np.ndarray, "question"]:
        """The fold in which each question is held out."""
        return question_folds(self.survey, self["folds"], self["seed"])

    @cached_property
    def splits(self) -> list[Split]:
        """For each fold the questions to train on, to choose by and to test on."""
        from opinion_sae.delta.held_out import by_question

        return by_question(self.folds)

    @cached_property
    def clusters(self) -> Int[np.ndarray, "question"]:
        """Questions that nearly repeat each other share a number; the bootstrap draws these."""
        return question_clusters(self.survey)

    def __getitem__(self, name: str) -> Any:
        if name not in self.parameters:
            raise ValueError(
                f"the notebook has no parameter {name!r}, which this needs; it has {', '.join(self.parameters)}"
            )
        return self.parameters[name]
