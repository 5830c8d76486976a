"""A causal audit of the latents that an offset reads: each amplified and suppressed, and who moves how far.

After Durmus et al. 2024 (feature steering): what a latent is meant to do, what it does besides, and the range of
strengths over which the latter stays small. Here a latent's strength is that of what is read of it, in the offset; the
model above is run as it is, not to first order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from opinion_sae.delta.held_out import Split
from opinion_sae.delta.reading import ReadingDelta
from opinion_sae.methods.personas import spread
from opinion_sae.model.answers import AnswerPath
from opinion_sae.progress import progress
from opinion_sae.score.metrics import kl, option_positions
from opinion_sae.score.statistics import Effect, paired_effect
from opinion_sae.survey import Survey

STRENGTHS = (-10.0, -1.0, 0.0, 1.0, 10.0)  # times what is read of a latent: 0 takes it out, 1 leaves it as it is
TARGETS = 4  # groups that a latent moves most, as on its card; as many others are drawn
QUESTIONS = 4  # at most, per latent and fold
MEASURES = ["on_target", "off_target", "off_target_kl"]
CELLS = ["latent", "fold", "question", "strength", *MEASURES]
COLUMNS = "latent meant_for folds questions strength on_target on_target_low on_target_high".split()
COLUMNS += "off_target off_target_kl bounded_from bounded_to".split()


class Plan(NamedTuple):
    """What is asked of one latent of one fold's offset."""

    latent: int
    targets: Int[np.ndarray, "target"]
    others: Int[np.ndarray, "other"]
    questions: Int[np.ndarray, "asked"]


class Amplified:
    """An offset with one latent after the other read `strengths` times as strongly, each for some groups:

        Delta_g(r) + (s - 1) sum_kw c_gk a_kwj r_j b_kwm       for latent j and strength s

    `steer` gives a row for each latent, strength and group, in this order.
    """

    def __init__(self, offset: ReadingDelta, plans: Sequence[Plan], strengths: Sequence[float] = STRENGTHS):
        self.offset, self.reads, self.sae = offset, offset.reads, offset.sae
        self.latents = [plan.latent for plan in plans]
        self.groups = torch.from_numpy(np.stack([np.concatenate([plan.targets, plan.others]) for plan in plans]))
        self.strengths = torch.tensor(strengths)

    def steer(self, x: Float[Tensor, "item d"], read: Tensor | None = None) -> Float[Tensor, "item row d"]:
        assert read is not None, "it reads"
        offset, z = self.offset, self.sae.encode(x)
        codes, r = offset.codes(), offset.weigh(read)[:, self.latents]
        whole = z[:, None] + offset.offsets() + codes @ offset.written(read)
        one = torch.einsum("gk,kwj,ij,kwm->ijgm", codes, offset.a[:, :, self.latents], r, offset.b)
        rows = torch.arange(len(self.latents))[:, None]
        whole, one = whole[:, self.groups], one[:, rows, self.groups]  # item, latent, group, m
        moved = whole[:, :, None] + (self.strengths.to(x) - 1)[:, None, None] * one[:, :, None]
        return x[:, None] + ((moved.relu() - z[:, None, None, None]) @ self.sae.W_dec.to(x)).flatten(1, 3)


def meant(offset: ReadingDelta, r: Float[Tensor, "question m"], latent: int) -> Float[Tensor, "question group"]:
    """sum_k c_gk a_kj r_j along the scale: which way a latent is meant to move a group's answer, and how far."""
    return r[:, latent, None] * (offset.codes() @ offset.a[:, 0, latent])


def plans(
    offset: ReadingDelta,
    read: Float[Tensor, "question m"],
    questions: Int[np.ndarray, "question"],
    latents: Sequence[int],
    seed: int,
) -> list[Plan]:
    """Of each of the latents that the offset reads: at most `QUESTIONS` of the questions on which it is read, spread
    evenly; the `TARGETS` groups that it moves most, and as many others drawn at random. None that is read nowhere."""
    found, count = [], min(TARGETS, len(offset.groups) // 2)
    for latent in latents:
        pull = (offset.codes() @ offset.a[:, 0, latent]).abs().detach()
        asked = questions[(offset.weigh(read)[:, latent] != 0).cpu().numpy()]
        if not pull.any() or not len(asked):
            continue
        order = pull.argsort(descending=True, stable=True).cpu().numpy()
        others = np.random.default_rng([seed, latent]).permutation(order[count:])[:count]
        found.append(Plan(latent, order[:count], others, spread(asked, QUESTIONS)))
    return found


@torch.no_grad()
def audit(
    answers: AnswerPath,
    survey: Survey,
    splits: Sequence[Split],
    offsets: Sequence[ReadingDelta],
    latents: Sequence[int],
    allowed: Bool[np.ndarray, "question"],
    seed: int = 0,
) -> tuple[pd.DataFrame, dict[int, list[int]]]:
    """A row per latent, fold, held-out question and strength (`CELLS`); and the groups that each latent is meant for.

    on_target: mean over these groups of the shift of their place in the direction meant, in places, from the answer
    with the latent taken out. off_target: mean size of the others' shift. off_target_kl: mean KL of the others' answer
    without the latent to that with it, nats. Only questions with a scale that are `allowed` are asked. On questions on
    which a latent is not read nothing changes, whatever its strength.
    """
    positions, rows, targets = option_positions(survey.questions, answers.has_option.shape[1]), [], {}
    allowed = allowed & ~np.isnan(positions).any(1)
    for fold, (split, offset) in enumerate(zip(splits, progress(offsets, "audit"), strict=True)):
        asked = split.test[allowed[split.test]]
        read = answers.read(offset.sae, str(offset.reads), torch.from_numpy(asked) * answers.orders)
        made = plans(offset, read, asked, latents, seed)
        targets |= {plan.latent: plan.targets.tolist() for plan in made}
        r = offset.weigh(read)
        for question, here in _by_question(made):
            logs = answers.predict(Amplified(offset, here), torch.tensor([question]))[:, 0].double().numpy()
            shape = (len(here), len(STRENGTHS), len(here[0].targets) + len(here[0].others), -1)
            at = int(np.flatnonzero(asked == question)[0])
            for plan, found in zip(here, np.exp(logs).reshape(shape), strict=True):
                sign = np.sign(meant(offset, r[at : at + 1], plan.latent)[0, plan.targets].cpu().numpy())
                for strength, cell in zip(STRENGTHS, _shifts(found, positions[question], sign), strict=True):
                    rows.append((plan.latent, fold, question, strength, *cell))
    return pd.DataFrame(rows, columns=CELLS), targets


def _by_question(made: Sequence[Plan]) -> Iterator[tuple[int, list[Plan]]]:
    for question in sorted({int(q) for plan in made for q in plan.questions}):
        yield question, [plan for plan in made if question in plan.questions]


def _shifts(
    p: Float[np.ndarray, "strength group option"],
    positions: Float[np.ndarray, "option"],
    sign: Float[np.ndarray, "target"],
) -> Float[np.ndarray, "strength 3"]:
    """on_target, off_target and off_target_kl of one latent and question; the targets come first."""
    out, place, count = STRENGTHS.index(0.0), (p * positions).sum(-1), len(sign)
    shift = place - place[out]
    others = p[:, count:]
    on, off = (sign * shift[:, :count]).mean(1), np.abs(shift[:, count:]).mean(1)
    return np.stack([on, off, kl(np.broadcast_to(others[out], others.shape), others).mean(1)], axis=1)


def bounded(strength: float, on_target: float, off_target_kl: float, bound: float) -> bool:
    """Whether the groups meant go the way that they should, and the others' answers change by less than `bound` nats;
    a latent that is taken out is."""
    return strength == 0 or (on_target * strength > 0 and off_target_kl < bound)


def bounded_range(held: Sequence[bool]) -> tuple[float, float]:
    """The lowest and the highest of `STRENGTHS` such that all from there to 0 are bounded (`held`, one for each)."""
    out = STRENGTHS.index(0.0)
    low = next((i + 1 for i in range(out, -1, -1) if not held[i]), 0)
    high = next((i - 1 for i in range(out, len(held)) if not held[i]), len(held) - 1)
    return STRENGTHS[low], STRENGTHS[high]


def audit_table(
    cells: pd.DataFrame,
    targets: Mapping[int, Sequence[int]],
    groups: Sequence[str],
    clusters: Int[np.ndarray, "question"],
    bound: float,
    replicates: int = 2000,
) -> pd.DataFrame:
    """`causal_audit.csv`: a row per latent and strength, in the order of `targets`.

    Means over questions, with the interval of on_target over them (empty for fewer than two clusters); bounded_from and
    bounded_to: the range over which the latent is `bounded`.
    """
    rows = []
    for latent, own in targets.items():
        part = cells[cells["latent"] == latent]
        means = part.groupby("strength")[MEASURES].mean()
        on, kl_off = (dict(means[name].astype(float)) for name in ("on_target", "off_target_kl"))
        held = [bounded(strength, float(on[strength]), float(kl_off[strength]), bound) for strength in STRENGTHS]
        low, high = bounded_range(held)
        about = {"latent": latent, "meant_for": "; ".join(groups[g] for g in own), "folds": part["fold"].nunique()}
        for strength in STRENGTHS:
            effect = _over_questions(part[part["strength"] == strength], "on_target", clusters, replicates)
            rows.append(about | {"questions": effect.n_questions, "strength": strength})
            rows[-1] |= _with_interval("on_target", effect) | means.loc[strength, MEASURES[1:]].to_dict()
            rows[-1] |= {"bounded_from": low, "bounded_to": high}
    return pd.DataFrame(rows, columns=COLUMNS)


def means_table(
    cells: pd.DataFrame, table: pd.DataFrame, clusters: Int[np.ndarray, "question"], replicates: int = 2000
) -> pd.DataFrame:
    """`causal_audit_means.csv`: a row per strength, means over questions of the means over their latents, with
    intervals; bounded: in how many of the latents' ranges the strength lies."""
    rows = []
    for strength, part in cells.groupby("strength"):
        ranges = table[table["strength"] == strength]
        inside = (ranges["bounded_from"] <= strength) & (strength <= ranges["bounded_to"])
        rows.append({"strength": strength, "latents": len(ranges), "questions": part["question"].nunique()})
        rows[-1] |= {"bounded": int(inside.sum())}
        for name in MEASURES:
            rows[-1] |= _with_interval(name, _over_questions(part, name, clusters, replicates))
    ends = [f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["strength", "latents", "questions", "bounded", *ends])


def _over_questions(part: pd.DataFrame, name: str, clusters: Int[np.ndarray, "question"], replicates: int) -> Effect:
    values = np.full((1, len(clusters)), np.nan)
    of_question = part.groupby("question")[name].mean()
    values[0, of_question.index] = of_question
    return paired_effect(values, clusters, replicates=replicates)


def _with_interval(name: str, effect: Effect) -> dict[str, float]:
    return {name: effect.effect, f"{name}_low": effect.low, f"{name}_high": effect.high}
