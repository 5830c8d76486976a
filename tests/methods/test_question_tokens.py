"""Which tokens of a prompt are the question's."""

import numpy as np
import pytest
import torch

from opinion_sae.methods.question_tokens import OPTIONS, QUESTION, TEMPLATE, parts, question_tokens
from opinion_sae.model.prompts import build_prompts


@pytest.mark.parametrize("chat", [False, True])
def test_parts_spell_the_question_and_its_options(tiny, chat):
    lm = tiny.lm(chat=chat)
    for question, prompt in zip(tiny.questions, build_prompts(lm.tokenizer, tiny.questions, 1), strict=True):
        found = parts(lm, question, prompt)
        assert len(found) == len(prompt.tokens)

        def spelt(part, found=found, prompt=prompt):
            chosen = [token for token, of in zip(prompt.tokens, found.tolist(), strict=True) if of == part]
            return lm.tokenizer.decode(chosen).strip()

        assert spelt(QUESTION) == question.text
        lines = [f"{letter}. {option}" for letter, option in zip("ABCD", question.options, strict=False)]
        assert "\n".join(lines) == spelt(OPTIONS)
        assert found[-1] == TEMPLATE


def test_stream_is_the_models_at_every_token(tiny, lm):
    read = question_tokens(lm, tiny.questions, 2)
    for number, prompt in enumerate(build_prompts(lm.tokenizer, tiny.questions, 1)):
        alone = lm.residual(torch.tensor([prompt.tokens]), 2)[0]
        mine = read.question == number
        np.testing.assert_allclose(read.stream[mine], alone, atol=1e-5)
        np.testing.assert_allclose(read.stream[read.last[number]], alone[-1], atol=1e-5)
        asked = mine & (read.part == QUESTION) & read.content
        np.testing.assert_allclose(read.mean("question")[number], read.stream[asked].double().mean(0), atol=1e-9)
    assert read.read("prompt").sum() == read.content.sum()


def test_latents_of_the_question_are_some_of_the_prompts(tiny, lm):
    read, sae = question_tokens(lm, tiny.questions, 2), tiny.sae()
    few, more, all_ = (read.latents(sae, what) for what in ("question", "question and options", "prompt"))
    assert (few <= more).all() and (more <= all_).all() and few.sum() < more.sum() < all_.sum()
    assert all_.sum(1).max() <= 4 * torch.bincount(read.question).max()


def test_a_slow_tokenizer_is_refused(tiny, lm, monkeypatch):
    (prompt,) = build_prompts(lm.tokenizer, tiny.questions[:1], 1)
    monkeypatch.setattr(type(lm.tokenizer), "is_fast", False)
    with pytest.raises(ValueError, match="has no fast version"):
        parts(lm, tiny.questions[0], prompt)
