"""What is measured: a model, a survey, a text and a dictionary, real on the CPU and of full size on a GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Gemma2Config

from benchmarks import full_size
from opinion_sae.delta.fit import latent_unit
from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.model.activations import activations
from opinion_sae.model.answers import AnswerPath
from opinion_sae.model.language_model import LanguageModel, load_language_model
from opinion_sae.model.prompts import build_prompts
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.sae.train import train_sae
from opinion_sae.survey import Survey, load_survey


@dataclass(frozen=True, eq=False)
class Case:
    """Model, survey, text windows and dictionary of one run of the benchmarks, and the sizes of the work."""

    lm: LanguageModel
    survey: Survey
    sae: SparseAutoencoder
    texts: list[str]
    hook_layer: int
    step_questions: int = 16
    step_groups: int = 16
    groups: int = 30
    tokens: int = 50_000
    window: int = 128
    sae_width: int = 8192
    sae_k: int = 32
    sae_batch: int = 2048
    rounds: int = 5

    @property
    def device(self) -> torch.device:
        return self.lm.device

    def answers(self, questions: int | None = None) -> AnswerPath:
        """The prompts of the first questions (all if not given), in one order of their options."""
        count = len(self.survey.questions) if questions is None else questions
        return AnswerPath(self.lm, self.survey.questions[:count], self.hook_layer, orders=1)

    def shares(self, questions: int, groups: int) -> Float[Tensor, "group question option"]:
        """Survey answers h_g; where there are fewer groups in the survey, the first come again."""
        rows = torch.arange(groups) % len(self.survey.groups)
        options = max(len(question.options) for question in self.survey.questions[:questions])
        return torch.from_numpy(self.survey.shares).float()[rows, :questions, :options]

    def delta(self, answers: AnswerPath, groups: int, seed: int = 0) -> GroupDelta:
        """Offsets as a fit leaves them: a shared part and 64 latents per group, each of the size of a latent."""
        generator = torch.Generator().manual_seed(seed)
        delta = GroupDelta([f"group {g}" for g in range(groups)], self.sae)
        unit = latent_unit(answers, self.sae)
        few = min(64, self.sae.width)
        with torch.no_grad():
            for row in (delta.shared, *delta.deviation):
                which = torch.randperm(self.sae.width, generator=generator)[:few]
                row[which] = 0.3 * unit * torch.randn(few, generator=generator)
        return delta.to(self.device)


def survey_texts(lm: LanguageModel, survey: Survey, tokens: int) -> list[str]:
    """One text of at least so many tokens: the survey's prompts in one order of options after another."""
    orders, pieces, count = 0, [], 0
    while count < tokens:
        orders += 4
        prompts = build_prompts(lm.tokenizer, survey.questions, orders)
        pieces = [lm.tokenizer.decode(prompt.tokens, skip_special_tokens=True) for prompt in prompts]
        count = sum(len(prompt.tokens) for prompt in prompts)
    return ["\n".join(pieces)]


def packaged(dtype: str = "auto") -> Case:
    """The packaged model, both shipped surveys, and an SAE trained for a few steps on its own activations."""
    lm = load_language_model("packaged:smollm2-135m-instruct", dtype)
    survey = load_survey(["gss", "nonvoters-2020"])
    texts = survey_texts(lm, survey, 50_000)
    few = activations(lm, [texts[0][:20_000]], 15)
    sae, _ = train_sae(few, width=4096, k=32, steps=60, batch=1024, lr=3e-3, dtype=lm.dtype)
    return Case(lm, survey, sae, texts, hook_layer=15)


def gemma(device: str, config: Gemma2Config = full_size.GEMMA_2_2B) -> Case:
    """Gemma 2 2B's shape with random weights in bfloat16 and a random JumpReLU SAE, 16k wide."""
    survey = load_survey(["gss", "nonvoters-2020"])
    lm = full_size.make_model(config, full_size.make_tokenizer(survey))
    lm.model.to(device)
    answers = AnswerPath(lm, survey.questions[:16], full_size.HOOK_LAYER, orders=1)
    sae = full_size.make_sae(answers).to(device)
    texts = survey_texts(lm, survey, 50_000)
    return Case(lm, survey, sae, texts, full_size.HOOK_LAYER, sae_width=16384)


def in_other_precision(case: Case, lm: LanguageModel) -> Case:
    """The same case with the same model loaded in another precision."""
    return replace(case, lm=lm)
