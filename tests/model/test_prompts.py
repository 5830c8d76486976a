"""Questions become prompts, letters come back to options."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors

from opinion_sae.model.answers import AnswerPath
from opinion_sae.model.prompts import LETTERS, build_prompts, describe, option_orders, question_text


def test_orders_are_as_given_reversed_then_rotated():
    assert option_orders(3, 4) == [(0, 1, 2), (2, 1, 0), (1, 2, 0), (1, 0, 2)]
    # two options have two orders, which repeat in turn
    assert option_orders(2, 5) == [(0, 1), (1, 0), (0, 1), (1, 0), (0, 1)]
    with pytest.raises(ValueError, match="at least 1, got 0"):
        option_orders(3, 0)


@given(st.integers(2, 8))
def test_all_orders_together_put_every_option_at_every_position_equally(options):
    orders = option_orders(options, 2 * options if options > 2 else 2)
    assert len(set(orders)) == len(orders)
    for position in range(options):
        seen = [order[position] for order in orders]
        assert {seen.count(option) for option in range(options)} == {len(orders) // options}


def test_the_text_letters_the_options_in_the_order_given(tiny):
    text = question_text(tiny.question(options=("Good", "Bad", "Neither")), (2, 0, 1))
    assert text == "Is it so?\nA. Neither\nB. Good\nC. Bad"


@pytest.mark.parametrize(("chat", "space"), [(False, " "), (True, "")])
def test_letters_map_back_to_options_in_every_order(chat, space, tiny):
    tokenizer = tiny.tokenizer(chat)
    prompts = build_prompts(tokenizer, tiny.questions, 6)
    assert [prompt.question for prompt in prompts] == [q for q in range(3) for _ in range(6)]
    for prompt in prompts:
        question = tiny.questions[prompt.question]
        text = tokenizer.decode(prompt.tokens)
        for option, token in enumerate(prompt.letters):
            letter = tokenizer.decode([token])
            assert letter == space + LETTERS[prompt.order.index(option)]
            # the letter that scores the option is the one that stands before it in the prompt
            assert f"\n{letter.strip()}. {question.options[option]}\n" in text


def test_a_base_model_gets_plain_text_with_one_bos(tiny):
    tokenizer = tiny.tokenizer()
    (prompt,) = build_prompts(tokenizer, tiny.questions[:1], 1, persona="I am old.")
    text = tokenizer.decode(prompt.tokens)
    assert text == "<s>Question: I am old.\n\nIs it so?\nA. Yes\nB. No\nAnswer:"
    assert prompt.tokens.count(tokenizer.bos_token_id) == 1


def test_a_chat_model_gets_its_template_and_no_second_bos(tiny):
    tokenizer = tiny.tokenizer(chat=True)
    (prompt,) = build_prompts(tokenizer, tiny.questions[:1], 1, persona="I am old.")
    text = tokenizer.decode(prompt.tokens)
    assert text.startswith("<s>user\nI am old.\n\nIs it so?\nA. Yes\nB. No\n\n")
    assert text.endswith("</s>\n<s>assistant\n")


def test_bos_is_set_by_hand_where_the_tokenizer_leaves_it_out_and_eos_never(tiny):
    plain = tiny.tokenizer()
    (expected,) = build_prompts(plain, tiny.questions[:1], 1)
    silent = tiny.tokenizer(chat=True)  # adds nothing by itself, as Pythia's does not
    silent.chat_template = None
    assert silent("a")["input_ids"] == plain("a")["input_ids"][1:]
    assert build_prompts(silent, tiny.questions[:1], 1) == [expected]
    ends = tiny.tokenizer()
    ends.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    assert ends("a")["input_ids"][-1] == 1
    assert build_prompts(ends, tiny.questions[:1], 1) == [expected]
    silent.bos_token = None  # as Qwen's
    (without,) = build_prompts(silent, tiny.questions[:1], 1)
    assert without.tokens == expected.tokens[1:] and without.letters == expected.letters


def test_a_template_that_writes_bos_itself_has_it_once(tiny):
    """As gemma-2-2b-it's: the template starts with BOS, and the tokenizer would add another."""
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = (
        "{{ bos_token }}{% for turn in messages %}{{ '<start_of_turn>user\\n' + turn['content'] + '<end_of_turn>\\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
    )
    (prompt,) = build_prompts(tokenizer, tiny.questions[:1], 1)
    text = tokenizer.decode(prompt.tokens)
    assert text.startswith("<s><start_of_turn>user\nIs it so?\nA. Yes") and text.endswith("<start_of_turn>model\n")
    assert prompt.tokens.count(tokenizer.bos_token_id) == 1
    assert [tokenizer.decode([token]) for token in prompt.letters] == ["A", "B"]


def test_orders_swap_the_letters_that_score_the_options(tiny):
    given_order, reverse = build_prompts(tiny.tokenizer(), tiny.questions[1:2], 2)
    assert given_order.letters == reverse.letters[::-1]


@torch.no_grad()
def test_an_answer_averages_its_orders(tiny, lm):
    both = AnswerPath(lm, tiny.questions[1:2], 1, orders=2).log_probs().exp()
    as_given = AnswerPath(lm, tiny.questions[1:2], 1, orders=1).log_probs().exp()
    turned = tiny.question(options=tiny.questions[1].options[::-1], text=tiny.questions[1].text)
    reverse = AnswerPath(lm, [turned], 1, orders=1).log_probs().exp().flip(-1)
    assert (as_given - reverse).abs().max() > 1e-3
    torch.testing.assert_close(both, (as_given + reverse) / 2)


def test_a_letter_of_two_tokens_is_refused(tiny):
    tokenizer = tiny.tokenizer(letters="AB")  # ' C' would be ' ' and 'C'
    build_prompts(tokenizer, tiny.questions[:1], 1)
    with pytest.raises(ValueError, match="letter ' C' after the prompt.*ends in '.*Answer:'"):
        build_prompts(tokenizer, tiny.questions[1:], 1)


@pytest.mark.parametrize("options", [0, 1, 27])
def test_too_few_or_too_many_options_are_refused(options, tiny):
    question = tiny.question("q7", [f"option {i}" for i in range(options)])
    with pytest.raises(ValueError, match=f"question q7: {options} options; a prompt takes 2 to 26"):
        build_prompts(tiny.tokenizer(), [question], 1)


def test_twenty_six_options_have_different_letters(tiny):
    question = tiny.question("long", [f"{a}{b}" for a, b in itertools.product("vwxyz", "abcdef")][:26])
    prompts = build_prompts(tiny.tokenizer(letters=LETTERS), [question], 2)
    assert all(len(set(prompt.letters)) == 26 for prompt in prompts)


def test_people_are_described_in_words():
    assert describe("age", "65+") == "an adult aged 65+"
    assert describe("party", "Republican") == "a Republican voter"
    assert describe("region", "South") == "an adult from the South"
    assert describe("country", "France") == "an adult whose country is France"
    assert describe("party x age", "Democrat & 65+") == "a Democrat voter who is also an adult aged 65+"
