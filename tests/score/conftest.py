"""Surveys and tables for the measures of group differences, held by `made`: tests cannot import one another."""

import dataclasses

import numpy as np
import pytest

from opinion_sae.score.gap_replicates import people, replicates_of


class Made:
    def __init__(self, tiny):
        self.tiny = tiny

    def binary(self, places, **more):
        """A survey of yes-no questions, 100 people a cell, from the groups' shares of the second option."""
        second = np.array(places, float)
        questions = [self.tiny.question(f"q{i}", ("Yes", "No"), f"Is it {i}?") for i in range(second.shape[1])]
        return self.tiny.survey(np.stack([1 - second, second], -1), questions, **more)

    @staticmethod
    def logs(places):
        """log p of yes-no questions from the second option's."""
        second = np.array(places, float)
        return np.log(np.stack([1 - second, second], -1))

    def simulated(self, questions=400, groups=4, seed=0):
        """60 to 400 respondents a group, drawn from known shares: the survey, and those of groups and of everybody."""
        rng = np.random.default_rng(seed)
        size = rng.integers(60, 400, groups)
        scale = np.linspace(-1, 1, 4)
        truth = np.exp(rng.normal(0, 0.7, (1, questions, 4)) + rng.normal(0, 0.12, (groups, questions, 1)) * scale)
        truth /= truth.sum(-1, keepdims=True)
        counts = rng.multinomial(size[:, None], truth)
        items = [self.tiny.question(f"q{i}", "abcd", f"What of {i}?") for i in range(questions)]
        names, attributes = [f"g{i}" for i in range(groups)], ["age"] * groups
        survey = self.tiny.survey(counts / size[:, None, None], items, names, attributes)
        cells = np.repeat(size[:, None], questions, 1)
        survey = dataclasses.replace(
            survey,
            counts=counts.astype(float),
            respondents=cells,
            effective=cells.astype(float),
            everyone=counts.sum(0).astype(float),
            everyone_effective=np.full(questions, float(size.sum())),
        )
        return survey, truth, np.einsum("g,gqo->qo", size / size.sum(), truth)

    @staticmethod
    def noisy(truth, amount, rng):
        """log p of the true shares, tilted along the scale by an error in each cell."""
        table = np.log(truth) + rng.normal(0, amount, (*truth.shape[:2], 1)) * np.linspace(-1, 1, truth.shape[-1])
        return table - np.log(np.exp(table).sum(-1, keepdims=True))

    @staticmethod
    def one_measure(survey, table, task="alone"):
        """The measures of one table, without replicates."""
        weights = np.ones((1, len(survey.questions)))
        return replicates_of(survey, people(survey), [table], task, weights, np.ones((1, 1)))


@pytest.fixture(scope="session")
def made(tiny):
    return Made(tiny)


@pytest.fixture
def three(made):
    """Gaps of 0.2, 0 and -0.2 for the first group and the opposite for the second; everybody is in the middle."""
    return made.binary([[0.7, 0.5, 0.3], [0.3, 0.5, 0.7]])
