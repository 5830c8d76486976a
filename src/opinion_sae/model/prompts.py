"""From a survey question to the prompt whose next token is the answer's letter."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import transformers

from opinion_sae.survey import Question

LETTERS = string.ascii_uppercase

# How a member of a group is described. {} is the group's name.
DESCRIPTIONS = {
    "sex": "a {} adult",
    "age": "an adult aged {}",
    "race": "a {} adult",
    "education": "an adult with this education: {}",
    "income": "an adult with this income: {}",
    "party": "a {} voter",
    "ideology": "a politically {} adult",
    "religion": "an adult with this religion: {}",
    "religious attendance": "an adult who goes to religious services this often: {}",
    "region": "an adult from the {}",
}


@dataclass(frozen=True)
class Prompt:
    """One question in one order of its options.

    `order[i]` is the option that stands at position i; `letters[o]` is the token of the letter before option o. What
    may be read: the tokens from `asked[0]` up to, not including, `asked[1]` hold the question and its lettered options,
    without persona, template and instruction; `ends[o]` is the last token of option o. Both are empty for prompts that
    no question was put into, and where the tokenizer does not say where in the text its tokens lie.
    """

    question: int
    order: tuple[int, ...]
    tokens: tuple[int, ...]
    letters: tuple[int, ...]
    asked: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()


def describe(attribute: str, group: str) -> str:
    """A member of the group in words, for personas: ('age', '65+') -> 'an adult aged 65+'."""
    if " x " in attribute:  # an intersection, such as party x sex: Democrat & Female
        parts = zip(attribute.split(" x "), group.split(" & "), strict=True)
        return " who is also ".join(describe(*part) for part in parts)
    template = DESCRIPTIONS.get(attribute, f"an adult whose {attribute} is {{}}")
    return template.format(group)


def option_orders(options: int, orders: int) -> list[tuple[int, ...]]:
    """`orders` orders of the options: as given, reversed, then rotations of both by one, by two, and so on.

    A question with few options has fewer different orders; they repeat in turn, so that each counts equally.
    """
    if orders < 1:
        raise ValueError(f"option orders must be at least 1, got {orders}")
    as_given = tuple(range(options))
    found: list[tuple[int, ...]] = []
    for shift in range(options):
        for base in (as_given, as_given[::-1]):
            rotated = base[shift:] + base[:shift]
            if rotated not in found:
                found.append(rotated)
    return [found[i % len(found)] for i in range(orders)]


def question_text(question: Question, order: Sequence[int]) -> str:
    """The question with its options lettered in the given order."""
    return "\n".join([question.text, *option_lines(question, order)])


def option_lines(question: Question, order: Sequence[int]) -> list[str]:
    return [f"{letter}. {question.options[o]}" for letter, o in zip(LETTERS, order, strict=False)]


def build_prompts(
    tokenizer: transformers.PreTrainedTokenizerBase, questions: Sequence[Question], orders: int, persona: str = ""
) -> list[Prompt]:
    """Prompts of all questions, `orders` for each, in question order.

    A chat model gets its template and answers at the start of its turn; a base model gets plain text that ends in
    'Answer:'. `persona` is text set before the question. Raises ValueError if a question has fewer than two options or
    more than there are letters, or if a letter is not one token there.
    """
    prompts = []
    for index, question in enumerate(questions):
        if not 2 <= len(question.options) <= len(LETTERS):
            raise ValueError(
                f"question {question.key}: {len(question.options)} options; a prompt takes 2 to {len(LETTERS)}"
            )
        for order in option_orders(len(question.options), orders):
            text, space = render(tokenizer, question_text(question, order), persona)
            tokens = prompt_tokens(tokenizer, text)
            at_position = [letter_token(tokenizer, text, tokens, space + LETTERS[i]) for i in range(len(order))]
            letters = tuple(at_position[order.index(o)] for o in range(len(order)))
            spans = token_spans(tokenizer, text, len(tokens), question, order)
            prompts.append(Prompt(index, order, tuple(tokens), letters, *spans))
    return prompts


def token_spans(
    tokenizer: transformers.PreTrainedTokenizerBase, text: str, length: int, question: Question, order: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """`asked` and `ends` of a Prompt from the places in the text at which its tokens lie.

    A token that only touches the question (the line break before it, say, that some tokenizers join to a word) counts
    as the question's. Two empty tuples for a tokenizer without a fast version, which does not know the places.
    """
    if not tokenizer.is_fast:
        return (), ()
    places = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    bos = length - len(places)  # added by hand, see `prompt_tokens`
    asked = question_text(question, order)
    start = text.rindex(asked.strip()) - (len(asked) - len(asked.lstrip()))  # templates strip what they are given
    lines = list(accumulate((len(line) + 1 for line in option_lines(question, order)), initial=len(question.text) + 1))

    def last_before(character: int) -> int:
        return bos + max(i for i, (begin, _) in enumerate(places) if begin < character)

    first = bos + next(i for i, (_, end) in enumerate(places) if end > start)
    ends = {o: last_before(start + end - 1) for o, end in zip(order, lines[1:], strict=True)}
    return (first, max(ends.values()) + 1), tuple(ends[o] for o in range(len(order)))


def render(tokenizer: transformers.PreTrainedTokenizerBase, question: str, persona: str = "") -> tuple[str, str]:
    """The prompt's text, and what stands between it and the letter ('' or a space)."""
    question = f"{persona}\n\n{question}" if persona else question
    if tokenizer.chat_template:
        content = f"{question}\n\nAnswer with the letter of one option only."
        return chat(tokenizer, content), ""
    return f"Question: {question}\nAnswer:", " "


def chat(tokenizer: transformers.PreTrainedTokenizerBase, content: str) -> str:
    """One user turn in the model's chat template, up to where the model starts to speak."""
    turns = [{"role": "user", "content": content}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def prompt_tokens(tokenizer: transformers.PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokens of a rendered prompt. Plain text starts with BOS if the tokenizer has one, a template brings its own.

    Added by hand, since some tokenizers that have a BOS leave it out (Pythia) and some would put an EOS at the end.
    """
    tokens: list[int] = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    bos = tokenizer.bos_token_id
    if tokenizer.chat_template or bos is None or tokens[:1] == [bos]:
        return tokens
    return [bos, *tokens]


def letter_token(tokenizer: transformers.PreTrainedTokenizerBase, text: str, tokens: Sequence[int], letter: str) -> int:
    """The token by which the prompt goes on with `letter`; ValueError if that is not exactly one token."""
    longer = prompt_tokens(tokenizer, text + letter)
    if len(longer) != len(tokens) + 1 or longer[:-1] != list(tokens):
        raise ValueError(
            f"the tokenizer does not write the letter {letter!r} after the prompt as one token of its own, so options "
            f"cannot be scored by their letter; the prompt ends in {text[-20:]!r}"
        )
    return longer[-1]
