"""What a method of the bench does beside its answers: facts, plain text, options reversed, and at other strengths.

The same units for every method, fewer than those of `side_effects`: every `EVERY`-th group reads a text or a fact, and
answers are asked of a sample of questions. A method is judged as its user would leave it switched on: what steers at
every token of a text, a prompt set before it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int

from opinion_sae.delta.held_out import Split
from opinion_sae.effects.facts import Facts
from opinion_sae.effects.readers import Cells, OffsetReader, Passage, Reader, asked_facts, fact_cells, text_cells
from opinion_sae.effects.text_before import TextReader
from opinion_sae.methods.contract import Bench, Outcome, Scaled, Steered
from opinion_sae.methods.personas import spread
from opinion_sae.model.answers import AnswerPath
from opinion_sae.model.prompts import build_prompts

SAMPLE = 10  # of each split's test, and of its validation questions
EVERY = 8  # groups
STRENGTHS = (0.5, 1.0, 2.0)  # that are chosen from, by the product of the three factors' harmonic mean


class Beside:
    """Facts, texts and prompts, run once for all methods."""

    def __init__(self, bench: Bench, facts: Facts, texts: Sequence[str]):
        answers, questions = bench.answers, bench.survey.questions
        lm, layer = answers.lm, answers.hook_layer
        self.bench, self.groups = bench, len(bench.survey.groups)
        self.facts, self.asked = asked_facts(answers, facts)
        self.passages = [Passage(lm, text, layer) for text in texts]
        self.tested = np.sort(np.concatenate([spread(split.test, SAMPLE) for split in bench.splits]))
        turned = build_prompts(lm.tokenizer, [questions[q] for q in self.tested], 2)[1::2]
        turned = [replace(prompt, question=number) for number, prompt in enumerate(turned)]
        asked = tuple(questions[q] for q in self.tested)
        self.turned = AnswerPath(lm, asked, layer, orders=1, prompts=turned)
        self.plain = self.elsewhere([OffsetReader(None, self.asked)] * len(bench.splits))
        self.plain["option_mass"] = self._masses([None] * len(bench.splits))

    def readers(self, outcome: Outcome, strength: float = 1.0) -> Sequence[Reader]:
        """One per split; a text has no strength."""
        if len(outcome.texts):
            return [TextReader(self.bench.answers.lm, texts, self.facts) for texts in outcome.texts]
        found: list[Steered] = [one if strength == 1.0 else Scaled(one, strength) for one in outcome.steering]
        return [OffsetReader(one, self.asked) for one in found]

    def elsewhere(self, readers: Sequence[Reader]) -> Cells:
        """`fact_cells` and `text_cells`."""
        found = text_cells({"": readers}, self.passages, self.groups, EVERY)[""]
        return found | fact_cells(readers, self.facts, self.groups, EVERY if readers[0].groups > 1 else 1)

    def measure(self, outcome: Outcome) -> dict[str, np.ndarray]:
        """By name: cells at full strength (`readers.Cells`), `turned` (log p of the sample, options reversed),
        `option_mass`, `step_ms` per answer, and for each of `STRENGTHS` the log p of samples, and but at 1 the cells.
        """
        if not len(outcome.steering) and not len(outcome.texts):
            return {}
        found = self.elsewhere(self.readers(outcome))
        if not len(outcome.steering):
            return found
        found["turned"] = self._answers(outcome, self.turned, self.tested)
        found |= self._on_letters(outcome)
        for strength in STRENGTHS:
            end = f"-at-{strength:g}"
            if strength != 1:
                found |= {k + end: v for k, v in self.elsewhere(self.readers(outcome, strength)).items()}
            found["validated" + end] = self.sampled(outcome, "validation", strength)
            found["tested" + end] = self.sampled(outcome, "test", strength)
        return found

    def sampled(self, outcome: Outcome, part: str, strength: float) -> Float[np.ndarray, "split group some option"]:
        """log p of samples of each split's validation or test questions, at a strength; NaN-padded to SAMPLE."""
        bench, options = self.bench, self.bench.survey.counts.shape[-1]
        table = np.full((len(bench.splits), self.groups, SAMPLE, options), np.nan, np.float32)
        for row, split, steering in zip(table, bench.splits, outcome.steering, strict=True):
            questions = spread(getattr(split, part), SAMPLE)
            row[:, : len(questions)] = bench.answers.predict(Scaled(steering, strength), torch.from_numpy(questions))
        return table

    def _answers(
        self, outcome: Outcome, path: AnswerPath, questions: Int[np.ndarray, "some"]
    ) -> Float[np.ndarray, "group some option"]:
        """Answers of the sample along another path, each question under the steering of the split that tests it."""
        table = np.full((self.groups, len(questions), self.bench.survey.counts.shape[-1]), np.nan, np.float32)
        for split, steering in zip(self.bench.splits, outcome.steering, strict=True):
            places = np.flatnonzero(np.isin(questions, split.test))
            part = path.predict(steering, torch.from_numpy(places)).numpy()
            table[:, places, : part.shape[-1]] = part
        return table

    def _masses(self, steering: Sequence[Steered | None], count: int = 5) -> Float[np.ndarray, "some_groups some"]:
        """Option mass on a few test questions of each split."""
        masses = []
        for split, one in zip(self.bench.splits, steering, strict=True):
            part = self.bench.answers.for_questions(torch.from_numpy(spread(split.test, count)))
            masses.append(part.next_token(one).mass.mean(-1).numpy())
        return np.concatenate(masses, axis=1)

    def _on_letters(self, outcome: Outcome) -> dict[str, np.ndarray]:
        """Option mass, and the milliseconds of an answer."""
        answers = self.bench.answers
        some = torch.from_numpy(spread(self.bench.splits[0].test, 16))
        start = time.perf_counter()
        answers.predict(outcome.steering[0], some)
        spent = 1000 * (time.perf_counter() - start) / (len(some) * self.groups)
        return {"option_mass": self._masses(outcome.steering), "step_ms": np.array(spent)}


def splits_of(splits: Sequence[Split], part: str) -> list[Int[np.ndarray, "some"]]:
    """The samples' questions, split by split."""
    return [spread(getattr(split, part), SAMPLE) for split in splits]
