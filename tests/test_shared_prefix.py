"""What is read after a common beginning is what whole passes read."""

from dataclasses import replace

import pytest
import torch

from opinion_sae.answers import AnswerPath
from opinion_sae.prompts import build_prompts
from opinion_sae.shared_prefix import Beginning, common_prefix, read_prompts


def test_a_common_prefix_leaves_a_token_of_each_row():
    assert common_prefix([[1, 2, 3, 4], [1, 2, 5]]) == 2
    assert common_prefix([[1, 2], [1, 2, 3]]) == 1  # not the whole of the shorter row
    assert common_prefix([[1, 2, 3]]) == 2 and common_prefix([[7], [7, 8]]) == 0


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen2", "gpt-neox"])
@pytest.mark.parametrize("persona", ["", "You are asked as somebody who lives far away from the next town. " * 2])
def test_answers_are_those_of_whole_passes(family, persona, tiny):
    lm = tiny.lm(family)
    expected = AnswerPath(lm, tiny.questions, 1, 2, persona).predict()[0]
    prompts = build_prompts(lm.tokenizer, tiny.questions, 2, persona)
    found = read_prompts(lm, prompts).exp().unflatten(0, (-1, 2)).mean(1)
    torch.testing.assert_close(found, expected.exp(), atol=1e-5, rtol=1e-4)
    assert common_prefix([prompt.tokens for prompt in prompts]) > len(persona) // 2


def test_prompts_that_begin_differently_are_read_too(tiny):
    lm = tiny.lm()
    one, two = (build_prompts(lm.tokenizer, tiny.questions[:1], 1, text)[0] for text in ("", "So:"))
    two = replace(two, tokens=two.tokens[1:])
    assert common_prefix([one.tokens, two.tokens]) == 0
    both = read_prompts(lm, [one, two])
    torch.testing.assert_close(both, torch.cat([read_prompts(lm, [one]), read_prompts(lm, [two])]), atol=1e-5, rtol=1e-4)


def test_the_beginning_stays_as_it_was():
    cache, first = Beginning(), torch.ones(1, 2, 3, 4)
    cache.update(first, first, 0)
    for _ in range(2):
        keys, values = cache.update(torch.zeros(5, 2, 1, 4), torch.zeros(5, 2, 1, 4), 0)
        assert keys.shape == values.shape == (5, 2, 4, 4) and keys[:, :, :3].eq(1).all() and keys[:, :, 3].eq(0).all()
    assert cache.kept[0][0] is first
