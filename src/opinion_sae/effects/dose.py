"""Dose curves: what offsets do to answers, valid letters and plain text when they are multiplied by a strength."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from opinion_sae.delta.held_out import Split
from opinion_sae.delta.offsets import Offset
from opinion_sae.effects.readers import so_far
from opinion_sae.model.activations import content, text_windows
from opinion_sae.model.answers import AnswerPath
from opinion_sae.model.language_model import LanguageModel
from opinion_sae.progress import progress
from opinion_sae.score.metrics import as_cells, bootstrap_mean, by_group, kl
from opinion_sae.score.names import measure_of
from opinion_sae.score.toplines import from_toplines
from opinion_sae.survey import Survey

STRENGTHS = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
PERPLEXITY_RISE = 0.1  # most that a strength may add to the perplexity of plain text, as a share of it
MASS_LOSS = 0.05  # most of the next-token probability that it may move off the option letters


def dose_cells(
    answers: AnswerPath,
    deltas: Sequence[Offset],
    survey: Survey,
    splits: Sequence[Split],
    part: str = "test",
    strengths: Sequence[float] = STRENGTHS,
) -> pd.DataFrame:
    """KL and option mass per strength, fold and question; means over the groups that answered it.

    Each fold's offsets are judged on the fold's own 'test' or 'validation' questions. Columns: strength, fold, question
    (place in the survey), kl (people to model, nats), kl_toplines (the same of the task from toplines, nats),
    option_mass (share of the next token's probability that lies on the option letters). Raises ValueError for a `part`
    of another name or offsets for other groups than the survey's.
    """
    if part not in ("test", "validation"):
        raise ValueError(f"part {part!r} is not test or validation")
    tables = []
    for fold, (delta, split) in enumerate(zip(progress(deltas, f"doses, {part}"), splits, strict=True)):
        if delta.groups != survey.groups:
            raise ValueError(f"the offsets of fold {fold} are for {delta.groups}, the survey has {survey.groups}")
        questions = split.test if part == "test" else split.validation
        some, asked_of = answers.for_questions(torch.from_numpy(questions)), survey.select(questions=questions.tolist())
        for strength in strengths:
            asked = some.next_token(delta.scaled(strength) if strength else None)  # at 0 all groups answer alike
            log_probs = asked.options.mean(2).log().numpy()[..., : asked_of.shares.shape[-1]]
            cells = {"kl": kl(asked_of.shares, np.exp(log_probs))}
            cells["kl_toplines"] = kl(asked_of.shares, np.exp(from_toplines(asked_of, log_probs)))
            cells["option_mass"] = np.where(np.isnan(cells["kl"]), np.nan, asked.mass.mean(-1).numpy())
            means = {name: by_group(survey, values)["all"] for name, values in cells.items()}
            tables.append(pd.DataFrame({"strength": strength, "fold": fold, "question": questions, **means}))
    return pd.concat(tables, ignore_index=True)


def text_losses(
    lm: LanguageModel,
    deltas: Sequence[Offset],
    texts: Sequence[str],
    hook_layer: int,
    strengths: Sequence[float] = STRENGTHS,
    windows: int = 24,
    length: int = 64,
) -> pd.DataFrame:
    """Next-token loss on plain text, in nats, with an offset applied at every content token.

    `windows` pieces of at most `length` tokens, spread evenly over the texts. So that all groups and folds have their
    part at the price of one, window i is read under the offset of group i mod G of fold i mod F, at every strength the
    same. One that reads the question reads what came so far. Attention sinks stay as they are. Columns: strength,
    window, loss; a row per token.
    """
    rows = [ids[real] for batch in text_windows(lm, texts, length) for ids, real in zip(*batch, strict=True)]
    count = min(windows, len(rows))
    rows = [rows[i * len(rows) // count] for i in range(count)]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    real = torch.arange(tokens.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
    window = torch.arange(count)[:, None].expand(-1, tokens.shape[1] - 1)[real[:, 1:]].numpy()
    tables = []
    for strength in progress(strengths, "doses, text"):
        turns = [(deltas[i % len(deltas)], i) for i in range(count)]
        parts = [delta.for_groups([delta.groups[i % len(delta.groups)]]).scaled(strength) for delta, i in turns]

        def edit(x: Float[Tensor, "row token d"], parts: list = parts) -> Float[Tensor, "row token d"]:
            keep, moved = content(x, real.to(x.device)), x.clone()
            for row, part in enumerate(parts):
                here = x[row, keep[row]]
                moved[row, keep[row]] = part.steer(here, so_far(part, here))[:, 0]
            return moved

        loss = lm.next_token_loss(tokens, hook_layer, edit).cpu()[real[:, 1:]]
        tables.append(pd.DataFrame({"strength": strength, "window": window, "loss": loss.double().numpy()}))
    return pd.concat(tables, ignore_index=True)


def dose_curve(
    cells: pd.DataFrame,
    losses: pd.DataFrame,
    clusters: Int[np.ndarray, "question"],
    replicates: int,
    seed: int,
) -> pd.DataFrame:
    """A row per strength: KL, alone and from toplines, option mass and perplexity, with 95 % intervals.

    The intervals draw clusters of questions (KL, option mass) or whole text windows (perplexity) with replacement.
    `perplexity_ratio` is perplexity over that at strength 0 on the same windows, so that what the windows have in
    common does not widen its interval. Raises ValueError if strength 0 is not among the doses.
    """
    doses = set(cells["strength"]) & set(losses["strength"])
    if 0 not in doses:
        raise ValueError(f"strength 0 is not among the doses, {sorted(doses)}")
    unsteered = losses.loc[losses["strength"] == 0, "loss"].to_numpy()
    rows = []
    for strength, part in cells.groupby("strength"):
        text = losses[losses["strength"] == strength]
        loss, window = text["loss"].to_numpy(), text["window"].to_numpy()
        related = clusters[part["question"].to_numpy()]
        row = {"strength": strength, "n_questions": part["kl"].count()}
        for name in ("kl", "kl_toplines", "option_mass"):
            interval = bootstrap_mean(part[name].to_numpy(), related, replicates, seed)
            row |= as_cells(name, float(part[name].mean()), *interval)
        row |= {"n_windows": len(set(window)), "n_tokens": len(loss)}
        for name, values in (("perplexity", loss), ("perplexity_ratio", loss - unsteered)):
            low, high = bootstrap_mean(values, window, replicates, seed)
            row |= as_cells(name, *np.exp([values.mean(), low, high]).tolist())
        rows.append(row)
    return pd.DataFrame(rows)


def dose_curves(
    cells: Mapping[str, pd.DataFrame],
    losses: Mapping[str, pd.DataFrame],
    clusters: Int[np.ndarray, "question"],
    replicates: int,
    seed: int,
) -> pd.DataFrame:
    """The `dose_curve` of each method, under each other, with its name as the first column."""
    curves = {name: dose_curve(cells[name], losses[name], clusters, replicates, seed) for name in cells}
    return pd.concat(curves, names=["method"]).reset_index("method").reset_index(drop=True)


def sweet_spots(curves: pd.DataFrame) -> dict[str, float]:
    """The `sweet_spot` of each method of `dose_curves`, by `measure_of`."""
    return {str(name): sweet_spot(curve, by=measure_of(str(name))) for name, curve in curves.groupby("method")}


def sweet_spot(
    curve: pd.DataFrame, perplexity_rise: float = PERPLEXITY_RISE, mass_loss: float = MASS_LOSS, by: str = "kl"
) -> float:
    """The strength with the lowest KL (column `by`) among those that cost little elsewhere.

    Little: perplexity at most (1 + perplexity_rise) times that at strength 0, and at most mass_loss less of the
    probability on option letters than there. Strength 0 always qualifies; of equal strengths the one nearest to it is
    taken. To report the choice, make the curve of validation questions.
    """
    unsteered = curve.loc[curve["strength"] == 0].iloc[0]
    cheap = curve["perplexity"] <= (1 + perplexity_rise) * unsteered["perplexity"]
    valid = curve["option_mass"] >= unsteered["option_mass"] - mass_loss
    allowed = curve[cheap & valid].sort_values("strength", key=abs)
    return float(allowed.loc[allowed[by].idxmin(), "strength"])


def held_out_choice(
    validation: pd.DataFrame,
    test: pd.DataFrame,
    losses: pd.DataFrame,
    clusters: Int[np.ndarray, "question"],
    replicates: int,
    seed: int,
) -> pd.DataFrame:
    """Each fold's sweet spot, chosen on its validation questions, and what it does on its test questions.

    `validation` and `test` are `dose_cells` of the two parts, with strength 1, as fitted, among the doses. Columns:
    fold ('all' last), strength, n_questions, kl and option_mass at that strength, kl_at_1, and kl - kl_at_1 as
    difference, low, high: the paired mean over questions with its 95 % interval. Raises ValueError without strength 1.
    """
    if 1 not in set(test["strength"]):
        raise ValueError(f"strength 1 is not among the doses, {sorted(set(test['strength']))}")
    rows, pooled = [], []
    for fold, part in validation.groupby("fold"):
        strength = sweet_spot(dose_curve(part, losses, clusters, replicates, seed))
        judged = test[test["fold"] == fold].set_index("question")
        chosen, fitted = judged[judged["strength"] == strength], judged[judged["strength"] == 1]
        pooled.append(chosen.assign(kl_at_1=fitted["kl"]))
        rows.append({"fold": str(fold), "strength": strength, **_compared(pooled[-1], clusters, replicates, seed)})
    together = pd.concat(pooled)
    mean = float(together["strength"].mean())
    rows.append({"fold": "all", "strength": mean, **_compared(together, clusters, replicates, seed)})
    return pd.DataFrame(rows)


def _compared(
    chosen: pd.DataFrame, clusters: Int[np.ndarray, "question"], replicates: int, seed: int
) -> dict[str, float | int]:
    difference = chosen["kl"] - chosen["kl_at_1"]
    low, high = bootstrap_mean(difference.to_numpy(), clusters[chosen.index.to_numpy()], replicates, seed)
    means = {name: float(chosen[name].mean()) for name in ("kl", "option_mass", "kl_at_1")}
    count = int(difference.count())
    return {"n_questions": count, **means, "difference": float(difference.mean()), "low": low, "high": high}
