"""The short answer path against whole forward passes, for every family of models."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from opinion_sae.model.answers import AnswerPath, length_batches
from opinion_sae.model.language_model import wrap

FAMILIES = ("llama", "qwen2", "gemma2", "gemma3", "gpt-neox", "mistral")
HOOK = 1


class Push:
    """x_g = x + a fixed vector for each group."""

    def __init__(self, vectors):
        self.vectors = vectors

    reads = None

    def steer(self, x, read=None):
        return x[:, None] + self.vectors.to(x.device)


def full_answers(lm, answers, vectors):
    """The same by definition: one `model(...)` per prompt and group, the last token changed by a hook."""
    width = answers.letters.shape[1]
    found = torch.full((len(vectors), len(answers.questions), answers.orders, width), -torch.inf)
    for g, vector in enumerate(vectors):

        def change_last(module, args, output, vector=vector):
            output = output.clone()
            output[:, -1] += vector.to(output.dtype)
            return output

        handle = lm.layers[answers.hook_layer].register_forward_hook(change_last)
        for item, prompt in enumerate(answers.prompts):
            logits = lm.model(torch.tensor([prompt.tokens])).logits[0, -1, list(prompt.letters)]
            at = divmod(item, answers.orders)
            found[g, at[0], at[1], : len(prompt.letters)] = logits.float().log_softmax(-1)
        handle.remove()
    return found.exp().mean(2).log()


@pytest.fixture(scope="module", params=FAMILIES)
def answers(request, tiny):
    return AnswerPath(tiny.lm(request.param), tiny.questions, HOOK, orders=2, tokens_per_batch=150)


def pushes(groups, seed=0):
    return torch.randn(groups, 32, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_equals_the_full_forward_for_several_groups_at_once(answers):
    vectors = 5 * pushes(3)
    expected = full_answers(answers.lm, answers, vectors)
    found = answers.log_probs(Push(vectors))
    unsteered = answers.log_probs()
    assert (found[:, 1] - unsteered[:, 1]).abs().max() > 0.1  # the push matters
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_next_token_is_that_of_a_whole_pass(answers):
    asked = answers.next_token(Push(0 * pushes(2)))
    for item, prompt in enumerate(answers.prompts):
        p = answers.lm.model(torch.tensor([prompt.tokens])).logits[0, -1].double().softmax(-1)[list(prompt.letters)]
        question, order = divmod(item, answers.orders)
        torch.testing.assert_close(asked.mass[:, question, order], p.sum().expand(2), atol=1e-6, rtol=1e-4)
        found = asked.options[:, question, order]
        torch.testing.assert_close(found[:, : len(p)], (p / p.sum()).expand(2, -1), atol=1e-5, rtol=1e-4)
        assert (found[:, len(p) :] == 0).all()


@torch.no_grad()
def test_groups_do_not_see_each_other(answers):
    vectors = 5 * pushes(3)
    together = answers.log_probs(Push(vectors))
    for g in range(3):
        alone = answers.log_probs(Push(vectors[g : g + 1]))
        torch.testing.assert_close(together[g : g + 1], alone, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_zero_offset_gives_exactly_the_unsteered_answer(answers):
    assert torch.equal(answers.log_probs(Push(torch.zeros(1, 32))), answers.log_probs())
    expected = full_answers(answers.lm, answers, torch.zeros(1, 32))
    torch.testing.assert_close(answers.log_probs(), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_probabilities_sum_to_one_and_padding_options_get_none(answers):
    found = answers.log_probs(Push(pushes(2)))
    assert found.shape == (2, 3, 4)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(2, 3))
    assert found.isinf().tolist() == 2 * [[[False, False, True, True], 4 * [False], [False] * 3 + [True]]]


@torch.no_grad()
def test_a_model_spread_by_accelerate_answers_the_same(tiny):
    """With accelerate's hooks on every module, as device_map sets them; one device stands for several."""
    from accelerate import dispatch_model

    exact, spread = tiny.lm("gemma2"), tiny.lm("gemma2")
    names = ["model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head"]
    places = {name: "cpu" for name in [*names, *(f"model.layers.{i}" for i in range(5))]}
    dispatch_model(spread.model, places, main_device="cpu", force_hooks=True)
    assert hasattr(spread.layers[2], "_hf_hook")
    both = [AnswerPath(lm, tiny.questions, HOOK, orders=2).log_probs(Push(pushes(2))) for lm in (exact, spread)]
    assert torch.equal(*both)


def test_gradients_equal_those_of_the_full_forward(tiny):
    lm = tiny.lm("gemma2")
    answers = AnswerPath(lm, tiny.questions[:1], HOOK, orders=1)
    vectors = pushes(1).requires_grad_()
    answers.log_probs(Push(vectors))[0, 0, 0].backward()
    found, vectors.grad = vectors.grad, None
    full_answers(lm, answers, vectors)[0, 0, 0].backward()
    assert found.abs().max() > 1e-3
    torch.testing.assert_close(found, vectors.grad, atol=1e-5, rtol=1e-3)


@torch.no_grad()
def test_some_questions_and_batches_are_the_same_answers(answers):
    vectors = Push(pushes(2))
    everything = answers.log_probs(vectors)
    some = answers.log_probs(vectors, questions=torch.tensor([2, 0]))
    torch.testing.assert_close(some, everything[:, [2, 0]], atol=1e-5, rtol=0)
    in_batches = answers.predict(vectors, batch=2)
    torch.testing.assert_close(in_batches, everything, atol=1e-5, rtol=0)
    some = answers.predict(vectors, questions=torch.tensor([2, 0]), batch=1)
    torch.testing.assert_close(some, everything[:, [2, 0]], atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_keeps_the_ranking_of_options(family, tiny):
    exact = tiny.lm(family)
    rough = wrap("rough", tiny.model(family).to(torch.bfloat16), exact.tokenizer, "none")
    both = [AnswerPath(lm, tiny.questions, HOOK, orders=2).log_probs()[0] for lm in (exact, rough)]
    assert rough.dtype == torch.bfloat16 and both[1].dtype == torch.float32
    ahead, still = (table[:, :, None] - table[:, None, :] for table in both)
    clear = ahead.nan_to_num() > 0.2  # nearer ones may change places
    assert clear.sum() > 6 and (still[clear] > 0).all()


def test_memory_holds_each_prompt_once_and_nothing_for_lower_layers(answers):
    lengths = [len(prompt.tokens) - 1 for prompt in answers.prompts]
    assert sorted(answers.keys_values) == [2, 3, 4]
    assert all(kept.shape[1] == sum(lengths) for kept in answers.keys_values.values())
    assert answers.residual.shape == (6, 32) and answers.residual.dtype == torch.float32


def test_a_hook_layer_that_is_not_there_is_refused(tiny, lm):
    for layer in (-1, 4, 5):
        with pytest.raises(ValueError, match=f"hook_layer {layer}: .* has 5 layers.* 0..3"):
            AnswerPath(lm, tiny.questions, layer)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 200))
def test_length_batches_hold_every_item_once_within_the_budget(lengths, budget):
    batches = length_batches(torch.tensor(lengths), budget)
    assert sorted(sum(batches, [])) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


def test_prompts_that_were_run_before_are_read_from_their_file(tiny, tmp_path, monkeypatch):
    lm, file, vectors = tiny.lm("llama"), tmp_path / "prompts.safetensors", pushes(2)
    first = AnswerPath(lm, tiny.questions, HOOK, orders=2, file=file)
    monkeypatch.setattr(AnswerPath, "_run_prompts", lambda self, tokens: pytest.fail("the prompts were run again"))
    again = AnswerPath(lm, tiny.questions, HOOK, orders=2, file=file)
    assert torch.equal(again.log_probs(Push(vectors)), first.log_probs(Push(vectors)))
    assert torch.equal(again.kept.tokens("question").stream, first.kept.tokens("question").stream)
    assert torch.equal(
        again.read(tiny.sae(), "last", torch.tensor([1])), first.read(tiny.sae(), "last", torch.tensor([1]))
    )


@pytest.mark.parametrize("other", ["model", "layer", "questions", "orders"])
def test_a_file_of_other_prompts_is_written_anew(other, tiny, tmp_path):
    file = tmp_path / "prompts.safetensors"
    asked = {"lm": tiny.lm("llama"), "questions": tiny.questions, "hook_layer": HOOK, "orders": 2}
    AnswerPath(**asked, file=file)
    before = file.read_bytes()
    new = {
        "model": replace(tiny.lm("qwen2"), sha256="another"),
        "layer": HOOK - 1,
        "questions": tiny.questions[:2],
        "orders": 1,
    }[other]
    asked |= {{"model": "lm", "layer": "hook_layer"}.get(other, other): new}
    changed = AnswerPath(**asked, file=file)
    assert torch.equal(changed.log_probs(), AnswerPath(**asked).log_probs())
    assert file.read_bytes() != before


def test_a_broken_file_of_prompts_is_named(tiny, tmp_path):
    file = tmp_path / "prompts.safetensors"
    AnswerPath(tiny.lm("llama"), tiny.questions, HOOK, orders=1, file=file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{file}: not a safetensors file"):
        AnswerPath(tiny.lm("llama"), tiny.questions, HOOK, orders=1, file=file)
