"""Labels that a language model writes and judges: the run's own, or one behind an endpoint."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from opinion_sae.effects.firing import Corpus
from opinion_sae.effects.labels import Words, firings
from opinion_sae.methods.personas import in_turn
from opinion_sae.model.language_model import LanguageModel
from opinion_sae.model.prompts import Prompt, prompt_tokens
from opinion_sae.model.whole_pass import read_prompts
from opinion_sae.use.endpoint import one_line
from opinion_sae.use.steering import continuations

EXAMPLES = 10  # stretches that a label is written from
TOKENS = 40  # of a label
LETTERS = 120  # of it that are kept
YES_NO = ("Yes", "No")
WRITE = (
    "A feature of a language model responds to the words in << >> in these texts.\n\n{examples}\n\n"
    "What do these words, or the things that they are about, have in common? "
    "Answer with a short phrase of at most ten words, and nothing else."
)
STRETCH = "A feature of a language model responds to this: {label}\n\nDoes it respond to some word of the text?"
WORD = (
    "A feature of a language model responds to this: {label}\n\n"
    "One word of the text is in << >>. Does the feature respond to that word?"
)


@runtime_checkable
class Writer(Protocol):
    """A language model, however it is reached. `judge` answers a question on each text with yes, no or nothing."""

    def write(self, prompt: str, tokens: int) -> str: ...

    def judge(self, question: str, texts: Sequence[str]) -> list[bool | None]: ...


class ByWriter:
    """Labels that a model writes from the stretches in which a latent fires most strongly, and judges itself.

    It is asked as Paulo et al. 2024 ask theirs, about stretches of `labels.WINDOW` words: for detection whether the
    latent fires in one, for fuzzing whether it fires on the word that is marked.
    """

    def __init__(self, corpus: Corpus, parts: Words, writer: Writer):
        self.corpus, self.parts, self.writer = corpus, parts, writer

    def label(self, latent: int) -> str:
        value = firings(self.corpus, latent) * ~self.parts.judged
        fires = set(value.nonzero()[:, 0].tolist())
        stretches = self.parts.stretch[value.argsort(descending=True, stable=True)[: len(fires)]].tolist()
        texts = dict.fromkeys(self._text(one, fires) for one in stretches[: 10 * EXAMPLES])  # each once
        listed = "\n".join(f"{n}. {text}" for n, text in enumerate(list(texts)[:EXAMPLES], 1))
        said = self.writer.write(WRITE.format(examples=listed), TOKENS) if texts else ""
        first = said.strip().partition("\n")[0]
        return one_line(first).strip(" .\"'")[:LETTERS].strip()

    def in_stretches(self, label: str, stretches: Int[Tensor, "case"]) -> Float[Tensor, "case"]:
        return self._judged(STRETCH.format(label=label), [self._text(one) for one in stretches.tolist()])

    def on_words(self, label: str, words: Int[Tensor, "case"]) -> Float[Tensor, "case"]:
        texts = [self._text(int(self.parts.stretch[word]), {word}) for word in words.tolist()]
        return self._judged(WORD.format(label=label), texts)

    def _judged(self, question: str, texts: Sequence[str]) -> Float[Tensor, "case"]:
        said = self.writer.judge(question, texts)
        return torch.tensor([float("nan") if one is None else float(one) for one in said])

    def _text(self, stretch: int, marked: Collection[int] = ()) -> str:
        words = (self.parts.stretch == stretch).nonzero()[:, 0].tolist()
        return " ".join(self.corpus.say(words, marked).split())


class Local:
    """A model that is loaded here: it writes greedily, and says yes where 'Yes' is likelier than 'No'."""

    def __init__(self, lm: LanguageModel):
        self.lm = lm

    def write(self, prompt: str, tokens: int) -> str:
        return continuations(self.lm, prompt, 1, tokens, None)[0]

    @torch.no_grad()
    def judge(self, question: str, texts: Sequence[str]) -> list[bool | None]:
        tokenizer, ending = self.lm.tokenizer, "Answer with Yes or No."
        space = "" if tokenizer.chat_template else " "
        words = tuple(tokenizer(space + word, add_special_tokens=False)["input_ids"][0] for word in YES_NO)
        rows = [
            prompt_tokens(tokenizer, in_turn(tokenizer, f"{question}\n\nText: {text}\n\n{ending}")) for text in texts
        ]
        prompts = [Prompt(number, (0, 1), tuple(row), words) for number, row in enumerate(rows)]
        log_probs, _ = read_prompts(self.lm, prompts) if prompts else ([], None)
        return [bool(yes > no) for yes, no in log_probs]
