"""Whether a question is like the run's: directions, and a threshold that no question of the run passes."""

import numpy as np
import pytest
import torch

from opinion_sae.model.prompts import prompt_tokens
from opinion_sae.use.likeness import directions, threshold, unlikeness


def test_a_direction_is_the_mean_of_what_the_tokens_point_at(lm, tiny):
    (found,) = directions(lm, tiny.questions[:1], 2)
    tokens = torch.tensor([prompt_tokens(lm.tokenizer, "Is it so?\nA. Yes\nB. No")])
    with torch.no_grad():
        x = lm.residual(tokens, 2)[0]
    mean = (x / x.norm(dim=1, keepdim=True)).mean(0)
    assert torch.allclose(found, mean / mean.norm(), atol=1e-6)


def test_unlikeness_is_zero_in_the_same_direction_and_two_in_the_opposite():
    u = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    assert unlikeness(u, torch.tensor([5.0, 0.0])) == pytest.approx([0, 1, 2])


def test_the_threshold_of_few_questions_is_the_oddest_seen_from_the_others():
    u = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8]])
    assert threshold(u, np.arange(3)) == pytest.approx(0.4)  # the third, against (2, 0)
    both = torch.cat([u, u[2:]])  # asked twice: its twin must not speak for it
    assert threshold(both, np.array([0, 1, 2, 2])) == pytest.approx(0.4)
    assert threshold(both, np.arange(4)) < 0.4


def test_of_many_questions_one_in_a_hundred_lies_beyond_the_threshold():
    u = torch.nn.functional.normalize(torch.randn(300, 5, generator=torch.Generator().manual_seed(0)) + 2, dim=1)
    limit = threshold(u, np.arange(300))
    far = [unlikeness(u[i : i + 1], u.sum(0) - u[i]).item() for i in range(300)]
    assert sum(value > limit + 1e-6 for value in far) == 2 and sorted(far)[-3] == pytest.approx(limit, abs=1e-6)


def test_no_threshold_from_one_question():
    with pytest.raises(ValueError, match="no two different questions"):
        threshold(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), np.zeros(2, int))
