"""What is read after a common beginning is what whole passes read."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from opinion_sae.model.answers import AnswerPath
from opinion_sae.model.prompts import build_prompts
from opinion_sae.model.whole_pass import Beginning, common_prefix, read_answers, read_prompts


def test_a_common_prefix_leaves_a_token_of_each_row():
    assert common_prefix([[1, 2, 3, 4], [1, 2, 5]]) == 2
    assert common_prefix([[1, 2], [1, 2, 3]]) == 1  # not the whole of the shorter row
    assert common_prefix([[1, 2, 3]]) == 2 and common_prefix([[7], [7, 8]]) == 0


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3", "qwen2", "gpt-neox"])
@pytest.mark.parametrize("persona", ["", "You are asked as somebody who lives far away from the next town. " * 2])
def test_answers_are_those_of_whole_passes(family, persona, tiny):
    lm = tiny.lm(family)
    kept = AnswerPath(lm, tiny.questions, 1, 2, persona)
    expected = kept.predict()[0]
    prompts = build_prompts(lm.tokenizer, tiny.questions, 2, persona)
    log_probs, mass = read_prompts(lm, prompts)
    by_order = log_probs.exp().unflatten(0, (-1, 2))
    torch.testing.assert_close(by_order.mean(1), expected.exp(), atol=1e-5, rtol=1e-4)
    found = read_answers(lm, prompts, 2, 5)
    assert found.log_probs.shape == (3, 5) and np.isneginf(found.log_probs[:, 4]).all()
    np.testing.assert_allclose(np.exp(found.log_probs[:, :4]), expected.exp(), atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(found.option_mass, kept.next_token().mass.mean(-1)[0], atol=1e-5, rtol=1e-4)
    tv = (by_order[:, 0] - by_order[:, 1]).abs().sum(-1) / 2
    np.testing.assert_allclose(found.order_tv, tv, atol=1e-5)
    assert np.isnan(read_answers(lm, prompts[::2], 1, 4).order_tv).all()
    assert common_prefix([prompt.tokens for prompt in prompts]) > len(persona) // 2


def test_prompts_that_begin_differently_are_read_too(tiny):
    lm = tiny.lm()
    one, two = (build_prompts(lm.tokenizer, tiny.questions[:1], 1, text)[0] for text in ("", "So:"))
    two = replace(two, tokens=two.tokens[1:])
    assert common_prefix([one.tokens, two.tokens]) == 0
    both, _ = read_prompts(lm, [one, two])
    apart = torch.cat([read_prompts(lm, [prompt])[0] for prompt in (one, two)])
    torch.testing.assert_close(both, apart, atol=1e-5, rtol=1e-4)


def test_the_beginning_stays_as_it_was():
    cache, first = Beginning(), torch.ones(1, 2, 3, 4)
    cache.update(first, first, 0)
    for _ in range(2):
        keys, values = cache.update(torch.zeros(5, 2, 1, 4), torch.zeros(5, 2, 1, 4), 0)
        assert keys.shape == values.shape == (5, 2, 4, 4) and keys[:, :, :3].eq(1).all() and keys[:, :, 3].eq(0).all()
    assert cache.kept[0][0] is first
