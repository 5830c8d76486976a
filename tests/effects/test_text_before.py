"""What is read after a text, against passes made by hand."""

import numpy as np
import pytest
import torch

from opinion_sae.effects.facts import fact_prompts
from opinion_sae.effects.text_before import Elsewhere, cells_of, joined

PASSAGES = [
    "The weather is often cold, they say.",
    "Yes? No, never, and so on.",
    "A B C D E F G H.",
    "Two more of them.",
]


@pytest.mark.parametrize(
    "chat", [False, True]
)  # the first puts BOS before every window, the second too by its tokenizer
@torch.no_grad()
def test_a_passage_is_read_after_the_text_on_the_same_tokens(tiny, facts, chat):
    lm = tiny.lm("llama", chat=chat)
    found = Elsewhere(lm, facts, PASSAGES, length=12, share=1).cells(["So:", "It is cold."])
    for group, text in enumerate(("So:", "It is cold.")):
        before = lm.tokenizer(f"{text}\n\n", add_special_tokens=False)["input_ids"]
        for i, passage in enumerate(PASSAGES):
            body = lm.tokenizer(passage, add_special_tokens=False)["input_ids"][:11]  # 12 with BOS
            plain = lm.model(torch.tensor([[0, *body]])).logits[0, :-1].log_softmax(-1)
            after = lm.model(torch.tensor([[0, *before, *body]])).logits[0, -len(body) - 1 : -1].log_softmax(-1)
            loss = -after[range(len(body)), body].mean().item()
            assert found["text_loss"][group, i] == pytest.approx(loss, abs=1e-3)
            divergence = (plain.exp() * (plain - after)).sum(-1).mean().item()
            assert found["next_token_kl"][group, i] == pytest.approx(divergence, abs=1e-3) and divergence > 0.01


@torch.no_grad()
def test_facts_are_asked_after_the_text(lm, facts):
    found = Elsewhere(lm, facts, PASSAGES, share=1).cells(["So:"])["accuracy"]
    for i, prompt in enumerate(fact_prompts(lm.tokenizer, facts, "So:")[1]):
        assert lm.tokenizer.decode(prompt.tokens).endswith(f"So:\n\nQuestion: Which is {i}?\nAnswer:")
        logits = lm.model(torch.tensor([prompt.tokens])).logits[0, -1]
        assert found[0, i] == (logits[list(prompt.letters)].argmax().item() == facts.right[i])


def test_other_facts_or_passages_have_another_key(lm, facts):
    key = Elsewhere(lm, facts, PASSAGES).key
    assert key == Elsewhere(lm, facts, PASSAGES).key != Elsewhere(lm, facts, PASSAGES[:3]).key
    assert key != Elsewhere(lm, facts._replace(right=facts.right[::-1].copy()), PASSAGES).key


def test_each_set_of_texts_reads_its_part_and_the_parts_join(lm, facts):
    elsewhere, texts = Elsewhere(lm, facts, PASSAGES, share=2), ["So:", "No:", "It is."]
    parts = [elsewhere.cells(texts, number, 2) for number in range(2)]
    whole = joined(parts)
    for name, values in whole.items():
        apart = [~np.isnan(part[name]) for part in parts]
        assert not (apart[0] & apart[1]).any() and np.array_equal(apart[0] | apart[1], ~np.isnan(values))
        for number, there in enumerate(apart):
            for group, i in np.argwhere(there):
                assert i % 2 == number and i // 2 % 2 == group % 2
    alone = elsewhere.cells(texts)
    assert np.isnan(alone["text_loss"]).sum(0).tolist() == [1, 2, 1, 2]


def test_one_order_of_the_options_has_no_sensitivity_to_it(tiny):
    survey = tiny.survey(np.full((2, 3, 4), 0.25))
    told = {"log_probs": np.log(np.full((2, 3, 4), 0.25)), "option_mass": np.ones((2, 3))}
    found = cells_of(survey, told | {"order_tv": np.full((2, 3), np.nan)})
    assert "order_tv" not in found and (found["option_mass"] == 1).all() and "log_probs" not in found
    assert "order_tv" in cells_of(survey, told | {"order_tv": np.zeros((2, 3))})
