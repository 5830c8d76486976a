"""From one survey to another: fitted to the book's surveys and asked of the user's, and the other way round.

All that reads, and words, sees one side's questions only, also to choose by; the other side's are predicted, for the
groups that both have, by the book's SAE. Questions that repeat one of the other side are left out of the fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import pandas as pd

from opinion_sae.artifacts import Item
from opinion_sae.delta.held_out import Split, by_survey
from opinion_sae.methods import suite
from opinion_sae.methods.question_tokens import question_tokens
from opinion_sae.model.answers import AnswerPath
from opinion_sae.score.gaps_table import gaps_table
from opinion_sae.studies import Given, Parts
from opinion_sae.survey import Survey, load_survey, question_clusters, survey_hash

TITLE = "fitted to the book's surveys and tested on one of yours, such as OpinionQA, and back"
TIME = "six minutes of one core, with OpinionQA's 493 questions"
BOOK, OTHER = "the book's surveys", "yours"


@dataclass(frozen=True, eq=False)
class Both:
    """The two sides as one survey."""

    given: Given

    @cached_property
    def survey(self) -> Survey:
        """All questions of both, for the groups that have answers on both sides. ValueError where there is none."""
        assert self.given.data is not None
        own, path = self.given.surveys, str(self.given.data)
        there = set(load_survey(path, self.given.min_respondents).attributes)
        common = [one for one in dict.fromkeys(self.given.survey.attributes) if one in there]
        if not common:
            asked = ", ".join(dict.fromkeys(self.given.survey.attributes))
            raise ValueError(f"{path}: its attributes are {', '.join(sorted(there))}; of {asked} there is none")
        joined = load_survey([*own, path], self.given.min_respondents, common)
        of_book = np.isin([one.key for one in joined.questions], [one.key for one in self.given.survey.questions])
        sides = [(joined.respondents[:, side] > 0).any(1) for side in (of_book, ~of_book)]
        kept = np.flatnonzero(sides[0] & sides[1])
        if not len(kept):
            raise ValueError(f"{path}: no group of {', '.join(common)} has answers there and in {', '.join(own)}")
        named = [
            replace(one, survey=BOOK if mine else OTHER) for one, mine in zip(joined.questions, of_book, strict=True)
        ]
        return replace(joined, questions=tuple(named)).select(groups=kept.tolist())

    @cached_property
    def splits(self) -> list[Split]:
        """To the book's surveys, and to the user's."""
        return by_survey(self.survey, len(self.given.splits), self.given.seed)

    @cached_property
    def answers(self) -> AnswerPath:
        """The prompts of both sides, run once."""
        own = self.given.answers
        file = self.given.folder / "prompts.safetensors"
        return AnswerPath(own.lm, self.survey.questions, own.hook_layer, own.orders, file=file)

    def made(self, number: int) -> dict[str, np.ndarray]:
        """Predicted log p of one side's questions by method."""
        given, split = self.given, self.splits[number]
        given.folder.mkdir(parents=True, exist_ok=True)
        tokens = question_tokens(given.lm, self.survey.questions, given.answers.hook_layer)
        found = suite.on_other_splits(self.answers, tokens, given.sae, self.survey, [split], given.settings)
        return {name: np.ascontiguousarray(table[:, split.test]) for name, table in found.items()}


def items(given: Given) -> dict[str, Item]:
    """One per direction."""
    both = Both(given)
    about = [survey_hash(both.survey), given.sae.sha256(), repr(given.settings), len(given.splits)]
    names = {BOOK: "to-book", OTHER: "from-book"}
    found = enumerate(split.name.removeprefix("to ") for split in both.splits)
    return {names[tested]: Item([*about, tested], partial(both.made, number)) for number, tested in found}


def tables(given: Given, parts: Parts) -> dict[str, pd.DataFrame]:
    """`gaps`: rows of `gaps.csv` over all groups, with what was fitted to and what was tested on."""
    both, rows = Both(given), []
    for split in both.splits:
        to_book = split.name.endswith(BOOK)
        part = parts.get("to-book" if to_book else "from-book")
        if part is not None:
            sides = (OTHER, BOOK) if to_book else (BOOK, OTHER)
            rows.append(_rows(given, both.survey, split, part, sides))
    return {"gaps": pd.concat(rows, ignore_index=True)} if rows else {}


def _rows(
    given: Given, survey: Survey, split: Split, part: Mapping[str, np.ndarray], sides: Sequence[str]
) -> pd.DataFrame:
    tested = survey.select(questions=split.test.tolist())
    asked = {name: [table[..., : tested.counts.shape[-1]]] for name, table in part.items()}
    table = gaps_table(tested, asked, question_clusters(tested), given.replicates, given.seed)
    table = table[(table["group"] == "all") & (table["method"] != "toplines")].drop(columns=["split", "n_seeds"])
    counts = {"n_fitted": len(split.train) + len(split.validation), "n_groups": len(survey.groups)}
    said = dict(zip(("fitted_to", "tested_on"), sides, strict=True))
    return table.assign(**said, **counts, survey=survey.name)
