"""What may be read of a prompt: which tokens are the question, and the bag of latents that fire there."""

from types import SimpleNamespace

import pytest
import torch

from opinion_sae.model.answers import AnswerPath
from opinion_sae.model.prompts import Prompt, build_prompts, question_text
from opinion_sae.model.reading import (
    Kept,
    Tokens,
    bag_of_latents,
    inverse_frequency,
    mean_stream,
    turned,
    weighted_bag,
)


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("persona", ["", "Is it so? I am old."])
def test_the_tokens_of_the_question_are_the_question(chat, persona, tiny):
    tokenizer = tiny.tokenizer(chat)
    questions = (*tiny.questions, tiny.question("d", ("Né", "Is it so?"), " Où? \n€: Is it so?"))
    for prompt in build_prompts(tokenizer, questions, 3, persona):
        question = questions[prompt.question]
        first, after = prompt.asked
        text = question_text(question, prompt.order)
        assert tokenizer.decode(prompt.tokens[first:after]).strip() == text.strip()
        for option, end in zip(question.options, prompt.ends, strict=True):
            assert first < end < after
            until = tokenizer.decode(prompt.tokens[first : end + 1]).strip()
            letter = "ABCD"[prompt.order.index(question.options.index(option))]
            assert until.endswith(f"\n{letter}. {option}")


def test_a_tokenizer_without_places_leaves_prompts_as_they_were_and_reading_says_so(tiny):
    known = build_prompts(tiny.tokenizer(), tiny.questions, 1)
    plain = [Prompt(p.question, p.order, p.tokens, p.letters) for p in known]
    last = torch.randn(3, 32)
    kept = Kept(plain, last, torch.float32)
    assert torch.equal(kept.tokens("last").stream, last)
    with pytest.raises(ValueError, match="reading 'question': it is not known which of the prompt's tokens"):
        kept.tokens("question")
    with pytest.raises(ValueError, match="may read last, question, options, not 'answer'"):
        kept.tokens("answer")


def test_the_stream_kept_is_that_of_a_whole_pass(lm, tiny):
    answers = AnswerPath(lm, tiny.questions, 1, orders=2, tokens_per_batch=150)
    for item, prompt in enumerate(answers.prompts):
        whole = lm.residual(torch.tensor([prompt.tokens]), 1)[0]
        mine = answers.kept.item == item
        torch.testing.assert_close(answers.kept.stream[mine], whole[slice(*prompt.asked)], atol=1e-4, rtol=1e-4)
        ends = answers.kept.tokens("options")
        at_ends = ends.stream[ends.item == item]
        torch.testing.assert_close(at_ends, whole[[prompt.ends[o] for o in prompt.order]], atol=1e-4, rtol=1e-4)


def test_reversing_the_options_turns_what_is_read(lm, tiny):
    answers = AnswerPath(lm, tiny.questions, 1, orders=2)
    assert [turned(prompt) for prompt in answers.prompts] == [1, -1] * 3
    weights = answers.kept.tokens("options")
    assert weights.weight[weights.item == 4].tolist() == [-1, 0, 1]
    # the same sign for all of a prompt's tokens
    question = answers.kept.tokens("question")
    assert set(question.weight[question.item == 1].tolist()) == {-1}
    assert turned(Prompt(0, (1, 2, 0), (), ())) == -1 and turned(Prompt(0, (1, 0, 3, 2), (), ())) == 1


def two_latents(x):
    """Latent 0 fires where x_0 > 0, latent 2 where x_1 > 0; latent 1 never."""
    values = torch.stack([x[:, 0], x[:, 1]], 1).relu()
    return values, torch.tensor([0, 2]).expand(len(x), 2)


def test_a_bag_counts_the_tokens_on_which_a_latent_fires():
    stream = torch.tensor([[1.0, 2.0], [3.0, -1.0], [-1.0, 0.0], [5.0, 5.0], [0.0, 1.0]])
    tokens = Tokens(stream, torch.tensor([0, 0, 0, 2, 2]), torch.tensor([1.0, 1, 1, -1, 1]))
    bag = bag_of_latents(SimpleNamespace(width=3, encode_sparse=two_latents), tokens, 3, batch=2)
    assert bag.rows(torch.tensor([0, 1, 2])).tolist() == [[2, 0, 1], [0, 0, 0], [-1, 0, 0]]
    assert bag.rows(torch.tensor([2, 0, 0])).tolist() == [[-1, 0, 0], [2, 0, 1], [2, 0, 1]]
    assert mean_stream(tokens, 3)[2].tolist() == [-2.5, -2.0]


def test_the_weighted_bag_by_hand():
    counts = torch.tensor([[1.0, 3.0, 0.0], [0.0, -1.0, 2.0], [0.0, 1.0, 0.0]])
    weight = inverse_frequency(counts)
    torch.testing.assert_close(weight, torch.tensor([3.0, 1.0, 3.0]).log())
    r = weighted_bag(counts, weight)
    assert r[0].tolist() == [1, 0, 0] and r[1].tolist() == [0, 0, 1] and r[2].tolist() == [0, 0, 0]
    assert inverse_frequency(counts[2:]).tolist() == [0, 0, 0]  # nothing to tell by
    r = weighted_bag(counts, torch.ones(3))
    torch.testing.assert_close(r[1] * (2**0.5 * 1.0), r[1] * 2**0.5)
    torch.testing.assert_close(r[0, 1] / r[0, 0], torch.tensor(2.0))  # log 4 / log 2
    torch.testing.assert_close(r.norm(dim=1), torch.ones(3))


def test_latents_are_found_once_per_sae_and_place(lm, tiny):
    answers, sae = AnswerPath(lm, tiny.questions, 1, orders=1), tiny.sae()
    calls = []
    counted = SimpleNamespace(width=sae.width, encode_sparse=lambda x: calls.append(len(x)) or sae.encode_sparse(x))
    items = torch.arange(3)
    first = answers.read(counted, "question", items)
    again = answers.read(counted, "question", items)
    assert torch.equal(first, again) and sum(calls) == len(answers.kept.stream)
    assert first.sum() == 4 * len(answers.kept.stream)  # four latents fire on every token
    answers.forget()
    answers.read(counted, "question", items)
    assert sum(calls) == 2 * len(answers.kept.stream)
    assert torch.equal(answers.read(None, "last", items), answers.residual)
    part = answers.for_questions(torch.tensor([2, 0]))
    assert torch.equal(part.read(sae, "question", torch.tensor([0, 1])), first[[2, 0]])
