"""Time and memory against the size of the work: groups, questions, SAE width, prompt length."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.cases import Case
from benchmarks.offsets import our_step
from benchmarks.timing import seconds
from opinion_sae.model.answers import AnswerPath
from opinion_sae.model.prompts import build_prompts
from opinion_sae.sae.train import TopKTraining
from opinion_sae.survey import Question

SIZES = {
    "groups": (1, 3, 10, 30, 100, 200),
    "questions": (10, 30, 100, 300, 1000),
    "SAE width": (1024, 4096, 16384, 65536),
    "prompt tokens": (64, 128, 256, 512, 1024),
}
WORK = {
    "groups": "a training step of the offsets, 16 questions",
    "questions": "prompts once and answers of 12 groups",
    "SAE width": "building an SAE and two steps, batch 1024",
    "prompt tokens": "prompts once and a training step, 8 questions, 12 groups",
}
MB = 1e6
STATUS = Path("/proc/self/status")


def peak_memory(work: Callable[[], object], device: torch.device) -> float:
    """Most bytes that `work` held at once beyond what was there before; NaN where the system does not tell.

    On a GPU from torch's own count, on Linux from the kernel's mark of the largest resident set, which is set back.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    if not STATUS.is_file():
        work()
        return math.nan
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc: else freed memory would hide what is new
    if give_back is not None:
        give_back(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    work()
    return max(resident("VmHWM") - before, 0)


def resident(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def over_groups(case: Case, groups: int) -> Callable[[], object]:
    answers = case.answers(case.step_questions)
    shares = case.shares(case.step_questions, groups).to(case.device)
    return our_step(answers, case.delta(answers, groups), shares)


def over_questions(case: Case, questions: int) -> Callable[[], object]:
    asked = [case.survey.questions[i % len(case.survey.questions)] for i in range(questions)]
    delta = case.delta(case.answers(8), 12)
    return lambda: AnswerPath(case.lm, asked, case.hook_layer, orders=1).predict(delta)


def over_width(case: Case, width: int) -> Callable[[], object]:
    x = torch.randn(1024, case.lm.width, generator=torch.Generator().manual_seed(0)).to(case.device)
    W_dec = torch.nn.functional.normalize(torch.randn(width, case.lm.width, device=case.device), dim=1)

    def work() -> None:
        training = TopKTraining(W_dec, 32, lr=1e-3, dtype=case.lm.dtype)
        for _ in range(2):
            training.step(x)

    return work


def over_length(case: Case, tokens: int) -> Callable[[], object]:
    questions = [long_question(case, question, tokens) for question in case.survey.questions[:8]]
    shares, delta = case.shares(8, 12).to(case.device), case.delta(case.answers(8), 12)

    def work() -> None:
        our_step(AnswerPath(case.lm, questions, case.hook_layer, orders=1), delta, shares)()

    return work


def long_question(case: Case, question: Question, tokens: int) -> Question:
    """The question with as much of the case's text before it as makes a prompt of about so many tokens."""
    missing = max(0, tokens - len(build_prompts(case.lm.tokenizer, [question], 1)[0].tokens))
    ids = case.lm.tokenizer(case.texts[0][: 8 * missing], add_special_tokens=False, verbose=False)["input_ids"]
    before = case.lm.tokenizer.decode(ids[:missing])
    return replace(question, text=f"{before}\n{question.text}" if before else question.text)


MAKE = {"groups": over_groups, "questions": over_questions, "SAE width": over_width, "prompt tokens": over_length}


def measure(case: Case, sizes: dict[str, tuple[int, ...]] = SIZES) -> Iterator[dict]:
    """A row per kind of size and size: seconds (the best of two runs, one where it is slow) and peak memory in MB."""
    for kind, points in sizes.items():
        for size in points:
            work = MAKE[kind](case, size)
            peak = peak_memory(work, case.device)
            first = seconds(work, case.device)
            best = first if first > 5 else min(first, seconds(work, case.device))
            yield {"grows": kind, "size": size, "seconds": best, "peak_mb": peak / MB, "work": WORK[kind]}
