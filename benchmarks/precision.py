"""What bfloat16 costs in accuracy: the method from activations to held-out KL, in both precisions and several seeds."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.cases import Case
from benchmarks.timing import digits
from opinion_sae.delta.fit import fit_frozen
from opinion_sae.delta.held_out import Split
from opinion_sae.delta.settings import FitSettings
from opinion_sae.losses import mean_kl
from opinion_sae.model.activations import activations
from opinion_sae.model.answers import AnswerPath
from opinion_sae.model.language_model import LanguageModel
from opinion_sae.sae.train import train_sae, unexplained

SEEDS = 3
GROUPS = 8


def one_precision(case: Case, lm: LanguageModel, steps: int, epochs: int) -> dict[str, list[float]]:
    """Variance explained on held-out text and KL on held-out questions, by seed."""
    text = "".join(case.texts)[:48_000]
    x = activations(lm, [text], case.hook_layer, case.window)
    x, held_out = x[: len(x) * 9 // 10], x[len(x) * 9 // 10 :]
    survey = case.survey.select(groups=range(min(GROUPS, len(case.survey.groups))))
    answers = AnswerPath(lm, survey.questions, case.hook_layer, orders=1)
    shares = torch.from_numpy(survey.shares).float()
    mixed = np.random.default_rng(0).permutation(len(survey.questions))
    validation, judged, train = np.array_split(mixed, 3)
    split = Split("mixed", train, validation, judged)
    found: dict[str, list[float]] = {"explained_variance": [], "held_out_kl": []}
    for seed in range(SEEDS):
        sae, _ = train_sae(x, width=2048, k=32, steps=steps, batch=1024, lr=3e-3, seed=seed, dtype=lm.dtype)
        found["explained_variance"].append(1 - unexplained(sae, held_out))
        delta, _ = fit_frozen(answers, sae, survey, split=split, settings=FitSettings(epochs=epochs, seed=seed))
        asked = torch.from_numpy(judged)
        found["held_out_kl"].append(mean_kl(shares[:, asked], answers.predict(delta, asked)).item())
    return found


def compare(case: Case, single: LanguageModel, steps: int = 150, epochs: int = 3) -> list[dict]:
    """A row per measure: means in both precisions, their difference, and the spread between seeds in float32.

    `single` is the model of the case in float32. A seed is that of the SAE's start and batches and of the order of the
    questions in the fit; held-out text and questions are always the same.
    `within` says whether the precisions differ by less than the seeds do (standard deviation).
    """
    both = {
        "float32": one_precision(case, single, steps, epochs),
        "bfloat16": one_precision(case, case.lm, steps, epochs),
    }
    rows = []
    for measure in ("explained_variance", "held_out_kl"):
        one, other = (np.array(both[precision][measure]) for precision in ("float32", "bfloat16"))
        difference, spread = float((other - one).mean()), float(one.std(ddof=1))
        rows.append(
            {
                "measure": measure,
                "float32": digits(one.mean()),
                "bfloat16": digits(other.mean()),
                "difference": digits(difference, 2),
                "spread_of_seeds": digits(spread, 2),
                "seeds": len(one),
                "within": abs(difference) <= spread,
            }
        )
    return rows
