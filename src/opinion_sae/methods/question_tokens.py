"""The residual stream at every token of the questions' prompts, and which part of the prompt a token stands in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from opinion_sae.methods.features import latent_counts
from opinion_sae.model.activations import content
from opinion_sae.model.language_model import LanguageModel
from opinion_sae.model.prompts import Prompt, build_prompts, question_text, render
from opinion_sae.progress import progress
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.survey import Question

TEMPLATE, QUESTION, OPTIONS = range(3)
READ = {  # what may be read: the parts that count; attention sinks never do
    "question": (QUESTION,),
    "question and options": (QUESTION, OPTIONS),
    "prompt": (TEMPLATE, QUESTION, OPTIONS),
}


@dataclass(frozen=True, eq=False)
class QuestionTokens:
    """All tokens of all prompts, one prompt after the other, options in the order in which they were asked.

    `stream` is the residual stream after the hook layer, `question` whose token it is, `part` TEMPLATE, QUESTION or
    OPTIONS, `content` False at attention sinks, `last` the position of each prompt's last token.
    """

    stream: Float[Tensor, "token d"]
    question: Int[Tensor, "token"]
    part: Int[Tensor, "token"]
    content: Bool[Tensor, "token"]
    last: Int[Tensor, "question"]

    def read(self, what: str) -> Bool[Tensor, "token"]:
        """The tokens that count when `what`, a key of READ, is read."""
        return self.content & torch.isin(self.part, torch.tensor(READ[what]))

    def latents(
        self, sae: SparseAutoencoder, what: str, strength: bool = False
    ) -> Float[np.ndarray, "question latent"]:
        """On how many of the tokens each latent fires, or how strongly over all of them (`latent_counts`)."""
        return latent_counts(sae, self.stream, self.question, self.read(what), strength)

    def mean(self, what: str) -> Float[np.ndarray, "question d"]:
        """The stream averaged over the tokens; 0 for a question without any."""
        read = self.read(what)
        of, total = self.question[read], torch.zeros(len(self.last), self.stream.shape[1], dtype=torch.float64)
        total.index_add_(0, of, self.stream[read].double())
        return (total / torch.bincount(of, minlength=len(self.last)).clamp_min(1)[:, None]).numpy()


@torch.no_grad()
def question_tokens(lm: LanguageModel, questions: Sequence[Question], hook_layer: int) -> QuestionTokens:
    """One pass over the prompts up to the hook layer. ValueError for a tokenizer that has no fast version, since only
    those say which piece of the text a token is."""
    lm.check_layer(hook_layer)
    prompts = build_prompts(lm.tokenizer, questions, 1)
    streams, contents = [torch.empty(0)] * len(prompts), [torch.empty(0)] * len(prompts)
    for items, tokens, real in progress(padded_batches(lm, prompts), "questions"):
        residual = lm.residual(tokens, hook_layer).cpu()
        no_sink = content(residual, real)
        for row, item in enumerate(items):
            streams[item], contents[item] = residual[row, real[row]], no_sink[row, real[row]]
    lengths = torch.tensor([len(stream) for stream in streams])
    return QuestionTokens(
        torch.cat(streams),
        torch.arange(len(prompts)).repeat_interleave(lengths),
        torch.cat([parts(lm, question, prompt) for question, prompt in zip(questions, prompts, strict=True)]),
        torch.cat(contents),
        lengths.cumsum(0) - 1,
    )


def padded_batches(
    lm: LanguageModel, prompts: Sequence[Prompt]
) -> list[tuple[list[int], Int[Tensor, "batch token"], Bool[Tensor, "batch token"]]]:
    """Prompts of like length together: which, their tokens padded on the right, and which of these are real."""
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i].tokens))
    rows, found = max(1, lm.tokens_per_batch // max(len(prompt.tokens) for prompt in prompts)), []
    for start in range(0, len(prompts), rows):
        items = by_length[start : start + rows]
        tokens = [torch.tensor(prompts[item].tokens) for item in items]
        padded = pad_sequence(tokens, batch_first=True)
        lengths = torch.tensor([len(part) for part in tokens])
        found.append((items, padded, torch.arange(padded.shape[1]) < lengths[:, None]))
    return found


def parts(lm: LanguageModel, question: Question, prompt: Prompt) -> Int[Tensor, "token"]:
    """The part of each token of a prompt: that of the first character of it that is not space."""
    if not lm.tokenizer.is_fast:
        raise ValueError(
            f"model {lm.name}: its tokenizer has no fast version, so it is not known which tokens are what"
        )
    asked = question_text(question, prompt.order)
    text, _ = render(lm.tokenizer, asked)
    start = text.rindex(asked.strip()) - (len(asked) - len(asked.lstrip()))  # templates strip what they are given
    marks = np.full(len(text), TEMPLATE)
    marks[max(start, 0) : start + len(question.text)] = QUESTION
    marks[start + len(question.text) : start + len(asked)] = OPTIONS
    places = lm.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    bos = len(prompt.tokens) - len(places)  # added by hand, see `prompt_tokens`
    found = [TEMPLATE] * bos
    for begin, end in places:
        blank = len(text[begin:end]) - len(text[begin:end].lstrip())
        found.append(int(marks[min(begin + blank, end - 1)]) if end > begin else TEMPLATE)
    return torch.tensor(found)
