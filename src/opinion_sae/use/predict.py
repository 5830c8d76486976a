"""Predict how groups of people would answer questions of one's own, from a published run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from opinion_sae.artifacts import write_csv
from opinion_sae.model.answers import AnswerPath
from opinion_sae.model.language_model import LanguageModel
from opinion_sae.score.coverage import interval
from opinion_sae.score.toplines import from_toplines
from opinion_sae.survey import Survey
from opinion_sae.use.asked import Asked
from opinion_sae.use.likeness import directions, unlikeness
from opinion_sae.use.published_run import PublishedRun

NOMINAL = 0.9  # coverage of the intervals
MOST_READ = 10  # latents listed per axis
AT_ONCE = 32  # questions; what is kept of a prompt takes a megabyte or more
TOPLINE_PEOPLE = 1000  # behind toplines, of whom half a one is added to each option
SHARES = ("question", "option", "attribute", "group", "task", "share", "low", "high")
READ = ("question", "axis", "direction", "latent", "activation", "weight", "contribution", "score", "label")


class Predictions(NamedTuple):
    """Tables in SHARES and READ, what the intervals were measured to cover, and the keys of odd questions."""

    shares: pd.DataFrame
    read: pd.DataFrame
    coverage: pd.DataFrame
    unlike: tuple[str, ...]


def predict(run: PublishedRun, asked: Sequence[Asked], lm: LanguageModel | None = None) -> Predictions:
    """Every group's answers to some questions, with intervals, and what was read of the questions.

    `shares` has a row per question (its key), option, group and task: p_g of the model under the group's offset
    (`alone`), and, where everybody's answers are known, h_all p_g / p̄ (`toplines`, see `score.toplines`; taken as those
    of 1,000 people). `low` and `high` hold NOMINAL of a new question's shares; what they hold out and what not is said
    in `score.coverage.coverage_table`. `read` lists, for an offset that reads, the latents that moved each of its axes
    most (`latents_read`). `unlike` has the questions that were not asked like the survey's: whose residual stream
    points further from theirs than that of 99 in 100 of them (`use.likeness`). `lm` is the run's model, if loaded.
    """
    lm = run.load_model() if lm is None else lm
    parts = [_some(run, asked[first : first + AT_ONCE], lm) for first in range(0, len(asked), AT_ONCE)]
    shares, read, unlike = zip(*parts, strict=True)
    together = (pd.concat(tables, ignore_index=True) for tables in (shares, read))
    return Predictions(*together, run.coverage, tuple(key for keys in unlike for key in keys))


def _some(run: PublishedRun, asked: Sequence[Asked], lm: LanguageModel) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Shares, latents read, and keys of odd questions, of as many questions as are held in memory at once."""
    questions = [one.question for one in asked]
    hook_layer = int(run.about["hook_layer"])
    answers = AnswerPath(lm, questions, hook_layer, int(run.about["option_orders"]))
    log_probs = answers.predict(run.offset).numpy().astype(float)
    known = [place for place, one in enumerate(asked) if one.toplines]
    tables = [shares_table(run, asked, "alone", log_probs)]
    if known:
        part = [asked[place] for place in known]
        survey = as_survey(run, part)
        tilted = from_toplines(survey, log_probs[:, known, : survey.counts.shape[2]])
        tables.append(shares_table(run, part, "toplines", tilted))
    order = {question.key: place for place, question in enumerate(questions)}
    shares = pd.concat(tables).sort_values("question", key=lambda keys: keys.map(order), kind="stable")
    far = unlikeness(directions(lm, questions, hook_layer), run.direction) > float(run.about["unlike"])
    unlike = [question.key for question, odd in zip(questions, far.tolist(), strict=True) if odd]
    return shares, latents_read(run, answers), unlike


def as_survey(run: PublishedRun, asked: Sequence[Asked]) -> Survey:
    """Questions with known toplines as a survey of the run's groups, each as large as in the run's own survey.

    What the groups answered is not known: only the size of their counts is used.
    """
    options = [len(one.question.options) for one in asked]
    everyone = np.zeros((len(asked), max(options)))
    for row, one in zip(everyone, asked, strict=True):
        row[: len(one.toplines)] = one.toplines
    counts = run.people[:, None, None] * everyone
    cells = np.ones(counts.shape[:2])
    return Survey(
        "asked",
        tuple(one.question for one in asked),
        run.groups,
        run.attributes,
        counts,
        cells.astype(int),
        cells,
        TOPLINE_PEOPLE * everyone,
        np.full(len(asked), float(TOPLINE_PEOPLE)),
    )


def shares_table(
    run: PublishedRun, asked: Sequence[Asked], task: str, log_probs: Float[np.ndarray, "group question option"]
) -> pd.DataFrame:
    """One task's log p as rows in SHARES, with intervals."""
    share = np.exp(log_probs)
    low, high = interval(share, run.factors(task, NOMINAL)[:, None, None])
    rows = [
        (one.question.key, option, attribute, group, task, share[g, q, o], low[g, q, o], high[g, q, o])
        for q, one in enumerate(asked)
        for o, option in enumerate(one.question.options)
        for g, (attribute, group) in enumerate(zip(run.attributes, run.groups, strict=True))
    ]
    return pd.DataFrame(rows, columns=SHARES)


@torch.no_grad()
def latents_read(run: PublishedRun, answers: AnswerPath) -> pd.DataFrame:
    """What moved each axis at each question: rows in READ, the largest contributions first.

    An axis stands at a_k . r (`score`), the sum over latents of what is read of each, r_j (`activation`), times its
    weight a_kj; their product is the latent's `contribution`. Read from the prompt with the options in their order. An
    axis may write several directions, each with an a of its own. No rows for an offset that reads nothing.
    """
    offset, rows = run.offset, []
    if offset.reads is not None:
        items = torch.arange(len(answers.questions)) * answers.orders
        r = offset.weigh(answers.read(offset.sae, offset.reads, items))
        contribution = torch.einsum("im,kwm->ikwm", r, offset.a)
        for q, axis, way in np.ndindex(*contribution.shape[:3]):
            part = contribution[q, axis, way]
            for latent in part.abs().topk(min(MOST_READ, int((part != 0).sum()))).indices.tolist():
                numbers = [r[q, latent], offset.a[axis, way, latent], part[latent], part.sum()]
                where = (answers.questions[q].key, axis + 1, way + 1, latent)
                rows.append((*where, *(float(number) for number in numbers), run.labels.get(latent, "")))
    return pd.DataFrame(rows, columns=READ)


def write_predictions(found: Predictions, out: str | Path) -> list[Path]:
    """`out` (shares), and beside it `<out>-read.csv` and `<out>-coverage.csv`; each file whole or not at all.

    ValueError for a name that does not end in .csv.
    """
    out = Path(out)
    if out.suffix != ".csv":
        raise ValueError(f"{out}: predictions are written as CSV, so the name must end in .csv")
    tables = {"": found.shares, "-read": found.read, "-coverage": found.coverage}
    paths = [out.with_name(f"{out.stem}{end}.csv") for end in tables]
    for path, table in zip(paths, tables.values(), strict=True):
        write_csv(path, table)
    return paths
