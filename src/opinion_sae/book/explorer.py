"""What the explorer shows: the page's data in JSON, from held-out answers or from questions of one's own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from opinion_sae.artifacts import write_json
from opinion_sae.delta.files import Answers, load_all_answers
from opinion_sae.delta.held_out import Split
from opinion_sae.delta.reading import ReadingDelta
from opinion_sae.effects.interpret import token_effects
from opinion_sae.effects.strengths import STRENGTHS, Strengths, at_strengths
from opinion_sae.model.answers import AnswerPath
from opinion_sae.model.language_model import LanguageModel
from opinion_sae.progress import progress
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.score.metrics import option_positions
from opinion_sae.score.names import label
from opinion_sae.score.toplines import everyone, group_weights
from opinion_sae.survey import Question, Survey
from opinion_sae.use.asked import Asked
from opinion_sae.use.predict import AT_ONCE, as_survey
from opinion_sae.use.published_run import PublishedRun

FORMAT = "opinion-sae-explorer-1"
LARGEST = 3_000_000  # bytes
UNIT = 1000  # numbers are whole thousandths
# in the page's order; its script knows these keys. The model as it is stands at strength 0 of the reading offset, and
# from toplines it gives the toplines
METHODS = ("unsteered", "toplines", "delta", "delta-reading-64", "words")
BESIDE = ("delta", "words")  # whose answers come from the chapters that fitted them


def numbers(table: Float[np.ndarray, "*row option"], options: int) -> str:
    """A row per group, ';' between rows and ',' between options: thousandths; an empty row where nothing is known."""
    rows = np.atleast_2d(table)[:, :options]
    return ";".join("" if np.isnan(row).any() else ",".join(str(round(UNIT * value)) for value in row) for row in rows)


def answered(question: Question, at: int, found: Strengths) -> dict[str, Any]:
    """What is known of one question, the `at`-th of those in `found`: log p of each strength, and what changes in log p
    when a latent is taken out."""
    count, logs = len(question.options), found.log_probs[:, :, at].double().numpy()
    whole = logs[STRENGTHS.index(1.0)]
    places = option_positions((question,), count)[0]
    taken = [n for n, latent in enumerate(found.latents[at].tolist()) if latent >= 0]
    without = found.without[:, :, at].double().numpy()
    return {
        "key": question.key,
        "topic": question.topic,
        "text": question.text,
        "options": list(question.options),
        "places": [] if np.isnan(places).any() else [round(float(place), 4) for place in places],
        # at strength 0 all groups are answered alike
        "logs": [numbers(table if s else table[:1], count) for s, table in zip(STRENGTHS, logs, strict=True)],
        "latents": [int(found.latents[at, n]) for n in taken],
        "without": [numbers(without[n][:, :count] - whole[:, :count], count) for n in taken],
    }


def page(
    groups: Sequence[tuple[str, str]], weights: Float[np.ndarray, "group"], questions: list[dict[str, Any]], about: str
) -> dict[str, Any]:
    """The whole file. groups: attribute and name; weights: those of `score.toplines.group_weights`; about: a sentence
    on where the answers come from. What the latents stand for is left to `named`."""
    used = sorted({latent for one in questions for latent in one["latents"]})
    return {
        "format": FORMAT,
        "about": about,
        "attributes": [attribute for attribute, _ in groups],
        "groups": [group for _, group in groups],
        "names": {method: label(method) for method in METHODS},
        "weights": [round(float(weight), 6) for weight in weights],
        "strengths": list(STRENGTHS),
        "latents": {str(latent): "" for latent in used},
        "questions": questions,
    }


def named(found: dict[str, Any], lm: LanguageModel, sae: SparseAutoencoder) -> dict[str, Any]:
    """The page with the tokens that each of its latents promotes, as a first word on what the latent is."""
    latents = [int(latent) for latent in found["latents"]]
    promoted = token_effects(lm, sae, torch.tensor(latents)) if latents else []
    said = [", ".join(dict.fromkeys(token.strip() for token in up if token.strip())) for up, _ in promoted]
    return found | {"latents": dict(zip(found["latents"], said, strict=True))}


def answers_beside(work: Path) -> Answers:
    """Held-out log p of the methods BESIDE, of those that a run's work folder has."""
    known = load_all_answers(work, ("answers.safetensors", "answers-reading.safetensors"))
    return {method: known[method] for method in BESIDE if method in known}


def held_out_page(
    survey: Survey,
    answers: AnswerPath,
    splits: Sequence[Split],
    offsets: Sequence[ReadingDelta],
    beside: Mapping[str, Float[np.ndarray, "group question option"]],
) -> dict[str, Any]:
    """Every question under the offset that was fitted without it, with people's and other methods' answers beside.

    A question has `people` (shares), `people_n` (Kish's effective numbers), `everyone` (log h_all) and `methods` (log p
    by method) besides what `answered` gives. beside: held-out log p by method; one that leaves a group of a question
    without an answer (NaN) does not stand at that question.
    """
    known, rows = everyone(survey)[0], {}
    for split, offset in zip(progress(splits, "explorer"), offsets, strict=True):
        found = at_strengths(answers, offset, torch.from_numpy(split.test))
        for at, q in enumerate(split.test.tolist()):
            count = len(survey.questions[q].options)
            logs = {method: table[:, q, :count] for method, table in beside.items()}
            rows[q] = answered(survey.questions[q], at, found) | {
                "people": numbers(survey.shares[:, q], count),
                "people_n": [round(float(n)) for n in np.nan_to_num(survey.effective[:, q])],
                "everyone": numbers(known[q], count),
                "methods": {name: numbers(table, count) for name, table in logs.items() if not np.isnan(table).any()},
            }
    groups = list(zip(survey.attributes, survey.groups, strict=True))
    surveys = " and ".join(survey.name.split("+"))
    said = f"Held-out answers to {len(rows)} questions of {surveys}, each by methods that were fitted without it."
    return named(page(groups, group_weights(survey), [rows[q] for q in sorted(rows)], said), answers.lm, offsets[0].sae)


def asked_page(run: PublishedRun, asked: Sequence[Asked], lm: LanguageModel) -> dict[str, Any]:
    """Questions of one's own under the run's offset; `everyone` only where toplines are known, and neither people nor
    methods that would have to be fitted.

    ValueError for a run whose offset does not read.
    """
    if not isinstance(run.offset, ReadingDelta):
        raise ValueError(
            f"the run {run.about['survey']} keeps an offset that reads no question: there is no --json of it"
        )
    rows = []
    for first in range(0, len(asked), AT_ONCE):
        part = asked[first : first + AT_ONCE]
        hook_layer, orders = int(str(run.about["hook_layer"])), int(str(run.about["option_orders"]))
        answers = AnswerPath(lm, [one.question for one in part], hook_layer, orders)
        found = at_strengths(answers, run.offset, torch.arange(len(part)))
        for at, one in enumerate(part):
            rows.append(answered(one.question, at, found))
            if one.toplines:
                rows[-1]["everyone"] = numbers(everyone(as_survey(run, [one]))[0, 0], len(one.question.options))
    groups, question = list(zip(run.attributes, run.groups, strict=True)), asked[0].question
    equal = Asked(question, (1 / len(question.options),) * len(question.options))  # any toplines: only sizes are used
    weights = group_weights(as_survey(run, [equal]))
    return named(page(groups, weights, rows, "Predictions for questions of your own."), lm, run.offset.sae)


def write_page(path: str | Path, found: dict[str, Any]) -> None:
    """Write the file. ValueError if it takes more than 3 MB, which a page should not load."""
    size = len(json.dumps(found, ensure_ascii=False).encode())
    if size > LARGEST:
        raise ValueError(f"{path}: {size / 1e6:.1f} MB; the explorer takes {LARGEST / 1e6:.0f} MB at most")
    write_json(path, found)
