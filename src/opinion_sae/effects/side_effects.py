"""What an offset does besides: to other groups, to the form of the answers, to plain text, to factual questions.

Every measure is a table of cells, one per group and unit (a survey question, a passage, a factual question), so that a
method's cells less the unsteered model's give paired differences. An offset of one fold is judged on that fold's test
questions; passages and factual questions, which belong to no fold, are dealt out among the folds' offsets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from opinion_sae.delta.files import load_deltas, load_dense, load_reading
from opinion_sae.delta.held_out import Split
from opinion_sae.delta.offsets import GroupDelta, Offset
from opinion_sae.effects.facts import Facts
from opinion_sae.effects.readers import Cells, OffsetReader, Passage, asked_facts, fact_cells, text_cells
from opinion_sae.methods.controls import random_order
from opinion_sae.model.answers import AnswerPath
from opinion_sae.sae.autoencoder import SparseAutoencoder, load_sae
from opinion_sae.score.metrics import alignment, bootstrap_mean, by_group, kl, mean, option_positions, total_variation
from opinion_sae.score.names import prose
from opinion_sae.survey import Survey

COLUMNS = ["method", "group", "quantity", "value", "low", "high", "n"]
ELSEWHERE = ("text_loss", "next_token_kl", "accuracy")  # quantities whose units are no survey questions


Steered = Sequence[Offset | None]  # a method's offset for each split (the first ones may do); None: the model as it is


def load_steered(
    folder: Path, answers: AnswerPath, sae: SparseAutoencoder, count: int, seed: int
) -> dict[str, Steered]:
    """Every offset that chapters 04 to 06 and 17 left in `folder`, by method, 'unsteered' first; for each of `count`
    splits.

    'delta-half' is Delta at strength 0.5, 'random-latents' Delta moved to random other latents, as in `controls`. Of
    'delta-joint' only the first is kept as a file. Raises FileNotFoundError for files that are not there.
    """
    shared, deltas = load_deltas(folder, count, sae, "shared"), load_deltas(folder, count, sae)
    order = random_order(answers, sae, seed)
    trained = load_sae(folder / "joint" / "sae").requires_grad_(False)
    return {
        "unsteered": [None] * count,
        "shared-delta": [delta.for_groups(delta.groups[:1]) for delta in shared],
        "delta-half": [delta.scaled(0.5) for delta in deltas],
        "delta": deltas,
        "delta-reading-64": load_reading(folder, count, sae)[:count],
        "random-latents": [delta.moved(order) for delta in deltas],
        "dense": load_dense(folder, count),
        "diff-means": load_dense(folder, count, "diff-means"),
        "delta-joint": [GroupDelta.load(folder / "joint" / "delta.safetensors", trained)],
    }


def answer_cells(survey: Survey, p: Float[np.ndarray, "_ question option"]) -> Cells:
    """kl and alignment to the own group's answers, others_kl: mean KL to those of the other groups (nats), and the
    entropy of p (nats). One row of `p` may stand for all groups."""
    p = np.broadcast_to(p.astype(float), survey.shares.shape)
    to_each = kl(survey.shares[None], p[:, None])  # offset, people, question
    to_each[np.arange(len(p)), np.arange(len(p))] = np.nan
    there = ~np.isnan(to_each)
    total, count = np.where(there, to_each, 0).sum(1), there.sum(1)
    return {
        "kl": kl(survey.shares, p),
        "alignment": alignment(survey.shares, p, option_positions(survey.questions, p.shape[-1])),
        "others_kl": np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0),
        "entropy": -(p * np.log(np.where(p > 0, p, 1))).sum(-1),
    }


def survey_cells(answers: AnswerPath, survey: Survey, splits: Sequence[Split], steered: Steered) -> Cells:
    """Cells of `answer_cells`, option_mass (share of the next token's probability that lies on the letters) and, if
    there are two orders of the options, order_tv: total variation between the answers in one and in the other.

    Questions of a split without an offset stay NaN.
    """
    cells: Cells = {}
    for (_, _, _, test), offset in zip(splits, steered, strict=False):
        part = answers.for_questions(torch.from_numpy(test))
        some, asked = survey.select(questions=test.tolist()), part.next_token(offset)
        p = asked.options.numpy()
        found = answer_cells(some, p.mean(2)[..., : some.shares.shape[-1]])
        found["option_mass"] = asked.mass.mean(-1).numpy()
        if answers.orders > 1:
            found["order_tv"] = total_variation(p[:, :, 0], p[:, :, 1])
        for name, values in found.items():
            cells.setdefault(name, np.full(survey.respondents.shape, np.nan))[:, test] = values
    return cells


def measure(
    answers: AnswerPath,
    survey: Survey,
    splits: Sequence[Split],
    methods: Mapping[str, Steered],
    facts: Facts,
    texts: Sequence[str],
) -> dict[str, Cells]:
    """All cells of each method: `survey_cells`, `fact_cells` and `text_cells`."""
    groups, (known, asked) = len(survey.groups), asked_facts(answers, facts)
    readers = {name: [OffsetReader(offset, asked) for offset in steered] for name, steered in methods.items()}
    text = text_cells(readers, (Passage(answers.lm, one, answers.hook_layer) for one in texts), groups)
    return {
        name: survey_cells(answers, survey, splits, steered) | fact_cells(readers[name], known, groups) | text[name]
        for name, steered in methods.items()
    }


def rescaled_cells(survey: Survey, log_probs: Float[np.ndarray, "group question option"], plain: Cells) -> Cells:
    """Cells of a method that only rescales the answers: the model, and so what it makes of text, stays that of `plain`.

    Without `accuracy` and `order_tv`: there are no such answers to factual questions, or for a single order.
    """
    text = {"text_loss": plain["text_loss"], "next_token_kl": plain["next_token_kl"]}
    return answer_cells(survey, np.exp(log_probs.astype(float))) | text


def side_effects_table(
    survey: Survey, methods: Mapping[str, Cells], clusters: Int[np.ndarray, "question"], replicates: int, seed: int
) -> pd.DataFrame:
    """Means with 95 % intervals by method, group ('all': the mean over groups) and quantity.

    For each quantity its mean, and as `<quantity>_change` the paired difference to 'unsteered'; `perplexity_ratio` is
    exp(text_loss_change). n is the number of questions, texts or facts. Intervals draw clusters of survey questions,
    texts or facts. Raises ValueError if 'unsteered' is not among the methods.
    """
    if "unsteered" not in methods:
        raise ValueError(f"the methods {sorted(methods)} lack 'unsteered', to which all are compared")
    rows = []
    for method, cells in methods.items():
        for quantity, values in cells.items():
            units = np.arange(values.shape[1]) if quantity in ELSEWHERE else clusters
            found = {quantity: values}
            if method != "unsteered" and quantity != "next_token_kl":  # which is a difference already
                found[f"{quantity}_change"] = values - methods["unsteered"][quantity]
            for name, table in found.items():
                for group, row in by_group(survey, table).items():
                    interval = bootstrap_mean(row, units, replicates, seed)
                    rows.append((method, group, name, mean(row), *interval, int((~np.isnan(row)).sum())))
    table = pd.DataFrame(rows, columns=COLUMNS)
    ratio = table[table["quantity"] == "text_loss_change"].assign(quantity="perplexity_ratio")
    ratio[["value", "low", "high"]] = np.exp(ratio[["value", "low", "high"]])
    return pd.concat([table, ratio], ignore_index=True)


def trade_off_table(table: pd.DataFrame) -> pd.DataFrame:
    """Per method, mean over groups: what is gained on held-out questions, what is lost elsewhere, and lost per gained.

    Losses are per 0.01 of alignment gained, and NaN unless the interval of the gain lies above zero. Accuracy is in
    percentage points. A method that does not answer factual questions has NaN there.
    """
    part = table[table["group"] == "all"].set_index(["method", "quantity"])
    value, low = part["value"].unstack(), part["low"].unstack()
    order = [method for method in table["method"].unique() if method != "unsteered"]
    gain = value["alignment_change"].where(low["alignment_change"] > 0) / 0.01
    lost = 0.0 - 100 * value["accuracy_change"]  # and not -0.0 where nothing is lost
    columns = {
        "alignment gained": value["alignment_change"],
        "KL gained (nats)": -value["kl_change"],
        "accuracy lost (points)": lost,
        "next-token KL (nats)": value["next_token_kl"],
        "perplexity ratio": value["perplexity_ratio"],
        "accuracy lost per 0.01": lost / gain,
        "next-token KL per 0.01": value["next_token_kl"] / gain,
    }
    return pd.DataFrame(columns).loc[order]


def fact_examples(facts: Facts) -> pd.DataFrame:
    """The first question of each subject with its options, the right one first, and how many there are."""
    rows = {}
    for question, right in zip(facts.questions, facts.right, strict=True):
        others = [option for place, option in enumerate(question.options) if place != right]
        row = rows.setdefault(question.topic, [0, question.text, question.options[right], ", ".join(others)])
        row[0] += 1
    return pd.DataFrame.from_dict(rows, orient="index", columns=["questions", "example", "right", "wrong"])


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """Per method, mean over groups: the quantities themselves."""
    part = table[(table["group"] == "all") & ~table["quantity"].str.endswith("_change")]
    wide = part.pivot(index="method", columns="quantity", values="value")
    return wide.loc[table["method"].unique(), [name for name in table["quantity"].unique() if name in wide]]


def group_table(table: pd.DataFrame, method: str) -> pd.DataFrame:
    """What one method changes, group by group."""
    part = table[(table["method"] == method) & ~table["quantity"].isin(["text_loss", "text_loss_change"])]
    part = part[part["quantity"].str.endswith("_change") | part["quantity"].isin(["next_token_kl", "perplexity_ratio"])]
    wide = part.pivot(index="group", columns="quantity", values="value")
    return wide.loc[part["group"].unique(), part["quantity"].unique()]


def accuracy_verdict(table: pd.DataFrame, method: str = "delta") -> str:
    """One sentence on what a method does to factual accuracy: lower, higher, or no difference that could be shown."""
    change = table.query("group == 'all' and method == @method and quantity == 'accuracy_change'").iloc[0]
    name = prose(method)
    value, low, high = (100 * change[name] for name in ("value", "low", "high"))
    if np.isnan(low):
        return f"There are too few factual questions for an interval on what {name} does to accuracy."
    size = f"({value:+.1f} points, 95% interval {low:+.1f} to {high:+.1f}, {change['n']} questions)"
    if high < 0:
        return f"Under {name} the model answers fewer factual questions rightly {size}."
    if low > 0:
        return f"Under {name} the model answers more factual questions rightly {size}."
    return f"No effect of {name} on the share of factual questions answered rightly could be shown {size}."
