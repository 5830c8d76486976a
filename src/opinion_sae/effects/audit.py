"""A causal audit of the latents that an offset reads or writes: each amplified and suppressed, and who moves how far.

After Durmus et al. 2024 (feature steering): what a latent is meant to do, what it does besides, and the range of
strengths over which the latter stays small. Here a latent's strength is that of what is read of it, or of what the
groups' own part writes on it, in the offset; the model above is run as it is, not to first order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from opinion_sae.delta.held_out import Split
from opinion_sae.delta.reading import ReadingDelta
from opinion_sae.methods.personas import spread
from opinion_sae.model.answers import AnswerPath
from opinion_sae.products import linear
from opinion_sae.progress import progress
from opinion_sae.score.metrics import ENDS, as_cells, kl, option_positions
from opinion_sae.score.statistics import Effect, paired_effect
from opinion_sae.survey import Survey

STRENGTHS = (-10.0, -1.0, 0.0, 1.0, 10.0)  # times what is read of a latent, or written: 0 takes it out, 1 leaves it
TARGETS = 4  # groups that a latent is meant for, those on its card; as many others are drawn
QUESTIONS = {"read": 4, "write": 3}  # at most, per latent and fold
LEAST = 1e-4  # places; less is no move. Float32 rounds by 2e-7, in other ways with other numbers of threads
AT_ONCE = 8  # latents; each row attends to all others of its question
MEASURES = ["on_target", "on_size", "off_target", "off_target_kl"]
CELLS = ["role", "latent", "fold", "question", "strength", *MEASURES]
COLUMNS = "role latent meant_for folds questions strength on_target on_target_low on_target_high".split()
COLUMNS += "on_size off_target off_target_kl bounded_from bounded_to".split()

Key = tuple[str, int]  # role and latent


class Plan(NamedTuple):
    """What is asked of one latent of one fold's offset."""

    latent: int
    targets: Int[np.ndarray, "target"]
    others: Int[np.ndarray, "other"]
    questions: Int[np.ndarray, "asked"]


Pull = Callable[[int], Float[Tensor, "question group"]]  # of a latent
Way = Callable[[Plan, int, Float[np.ndarray, "strength group option"]], Float[np.ndarray, "target"]]


class Turned:
    """An offset with one latent after the other `strengths` times as strong, each for some groups.

    `steer` of its kinds gives a row for each latent, strength and group, in this order.
    """

    def __init__(self, offset: ReadingDelta, plans: Sequence[Plan], strengths: Sequence[float] = STRENGTHS):
        self.offset, self.reads, self.sae = offset, offset.reads, offset.sae
        self.latents = [plan.latent for plan in plans]
        self.groups = torch.from_numpy(np.stack([np.concatenate([plan.targets, plan.others]) for plan in plans]))
        self.strengths = torch.tensor(strengths)

    def steer(self, x: Float[Tensor, "item d"], read: Tensor | None = None) -> Float[Tensor, "item row d"]:
        raise NotImplementedError


class Amplified(Turned):
    """What is read of a latent:   Delta_g(r) + (s - 1) sum_kw c_gk a_kwj r_j b_kwm   for latent j and strength s."""

    def steer(self, x: Float[Tensor, "item d"], read: Tensor | None = None) -> Float[Tensor, "item row d"]:
        assert read is not None, "it reads"
        offset, z = self.offset, self.sae.encode(x)
        codes, r = offset.codes(), offset.weigh(read)[:, self.latents]
        whole = z[:, None] + offset.offsets() + codes @ offset.written(read)
        one = torch.einsum("gk,kwj,ij,kwm->ijgm", codes, offset.a[:, :, self.latents], r, offset.b)
        rows = torch.arange(len(self.latents))[:, None]
        whole, one = whole[:, self.groups], one[:, rows, self.groups]  # item, latent, group, m
        moved = whole[:, :, None] + (self.strengths.to(x) - 1)[:, None, None] * one[:, :, None]
        return x[:, None] + linear(moved.relu() - z[:, None, None, None], self.sae.W_dec.to(x).T).flatten(1, 3)


class Rewritten(Turned):
    """What the groups' own part writes on a latent:   max(z_m + Delta_shared_m + s own_gm(r), 0)   for latent m."""

    def steer(self, x: Float[Tensor, "item d"], read: Tensor | None = None) -> Float[Tensor, "item row d"]:
        assert read is not None, "it reads"
        offset, at = self.offset, torch.tensor(self.latents)
        own = own_part(offset, read)[:, self.groups, at[:, None]]  # item, latent, group
        rest = (self.sae.encode(x) + offset.shared)[:, at, None]
        turned = rest[:, :, None] + self.strengths.to(x)[:, None] * own[:, :, None]
        more = turned.relu() - (rest + own).relu()[:, :, None]
        steered = offset.steer(x, read)[:, self.groups][:, :, None]
        return (steered + more[..., None] * self.sae.W_dec[at, None, None].to(x)).flatten(1, 3)


def own_part(offset: ReadingDelta, read: Float[Tensor, "item m"]) -> Float[Tensor, "item group m"]:
    """own_g(r) = D_g + sum_k c_gk sum_w (a_kw . r) b_kw: what is written for a group beyond Delta_shared."""
    members: Any = offset.members
    return members @ offset.deviation + offset.codes() @ offset.written(read)


def meant(offset: ReadingDelta, r: Float[Tensor, "question m"], latent: int) -> Float[Tensor, "question group"]:
    """sum_k c_gk a_kj r_j along the scale: which way a latent is meant to move a group's answer, and how far."""
    return r[:, latent, None] * (offset.codes() @ offset.a[:, 0, latent])


def most_targets(groups: int) -> int:
    """Of so many groups a latent is meant for this many at most, so that as many others are left."""
    return min(TARGETS, groups // 2)


def plans(
    pull: Pull,
    questions: Int[np.ndarray, "question"],
    targets: Mapping[int, Sequence[int]],
    seed: int,
    most: int,
) -> list[Plan]:
    """Of each latent in `targets`, which has the groups that it is meant for: at most `most` of the questions on which
    it pulls at some group, spread evenly, with a start of its own; at most `TARGETS` of those groups, and as many
    others drawn at random. None that pulls nowhere.
    """
    found = []
    for latent, own in targets.items():
        pulled = pull(latent).detach() != 0
        there, groups = pulled.any(1).cpu().numpy(), pulled.shape[1]
        meant_for = np.array(own[: most_targets(groups)], dtype=int)
        if not there.any() or not len(meant_for):
            continue
        rest = np.setdiff1d(np.arange(groups), meant_for)
        others = np.random.default_rng([seed, latent]).permutation(rest)[: len(meant_for)]
        found.append(Plan(latent, meant_for, others, spread(np.roll(questions[there], -latent), most)))
    return found


@torch.no_grad()
def audit(
    answers: AnswerPath,
    survey: Survey,
    splits: Sequence[Split],
    offsets: Sequence[ReadingDelta],
    targets: Mapping[Key, Sequence[int]],
    allowed: Bool[np.ndarray, "question"],
    seed: int = 0,
) -> pd.DataFrame:
    """A row per latent, fold, held-out question and strength (`CELLS`). targets: the groups that each is meant for, the
    same in all folds.

    on_target: mean over these groups of the shift of their place in the direction meant, in places, from the answer
    with the latent taken out; on_size: mean size of that shift, whatever its direction. What is read is meant to move a
    group as its weights and codes say (`meant`), what is written as the groups' own part moves it in all, from the
    answer with Delta_shared alone. off_target: mean size of the others' shift. off_target_kl: mean KL of the others'
    answer without the latent to that with it, nats. Only questions with a scale that are `allowed` are asked. On
    questions on which a latent is not read nothing changes, whatever its strength.
    """
    positions, rows = option_positions(survey.questions, answers.has_option.shape[1]), []
    allowed = allowed & ~np.isnan(positions).any(1)
    for fold, (split, offset) in enumerate(zip(splits, progress(offsets, "audit"), strict=True)):
        asked = split.test[allowed[split.test]]
        if not len(asked):
            continue
        for role, turned, pull, way in _roles(answers, offset, asked, positions[asked]):
            own = {latent: groups for (one, latent), groups in targets.items() if one == role}
            made = plans(pull, asked, own, seed, QUESTIONS[role])
            for question, here in _by_question(made):
                at = int(np.flatnonzero(asked == question)[0])
                for plan, p in zip(here, _answered(answers, turned(offset, here), question), strict=True):
                    found = _shifts(p, positions[question], np.sign(way(plan, at, p)))
                    rows += [(role, plan.latent, fold, question, *one) for one in zip(STRENGTHS, *found.T, strict=True)]
    return pd.DataFrame(rows, columns=CELLS)


def _roles(
    answers: AnswerPath,
    offset: ReadingDelta,
    asked: Int[np.ndarray, "asked"],
    positions: Float[np.ndarray, "asked option"],
) -> tuple[tuple[str, type[Turned], Pull, Way], ...]:
    """By role what turns latents, what each pulls at, and which way its targets are meant to go on a question."""
    questions, sae = torch.from_numpy(asked), cast(Any, offset.sae)  # whose width is a property
    read = answers.read(sae, str(offset.reads), questions * answers.orders)
    r, own = offset.weigh(read), own_part(offset, read)
    alone = (answers.predict(offset.shared_only(), questions)[0].exp().numpy() * positions).sum(-1)

    def as_read(plan: Plan, at: int, p: np.ndarray) -> np.ndarray:
        return meant(offset, r[at : at + 1], plan.latent)[0, plan.targets].cpu().numpy()

    def as_in_all(plan: Plan, at: int, p: np.ndarray) -> np.ndarray:
        return (p[STRENGTHS.index(1.0), : len(plan.targets)] * positions[at]).sum(-1) - alone[at]

    read_from = partial(meant, offset, r)
    return ("read", Amplified, read_from, as_read), ("write", Rewritten, lambda j: own[..., j], as_in_all)


def _by_question(made: Sequence[Plan]) -> Iterator[tuple[int, list[Plan]]]:
    for question in sorted({int(q) for plan in made for q in plan.questions}):
        here = [plan for plan in made if question in plan.questions]
        yield from ((question, here[n : n + AT_ONCE]) for n in range(0, len(here), AT_ONCE))


def _answered(answers: AnswerPath, turned: Turned, question: int) -> Float[np.ndarray, "latent strength group option"]:
    logs = answers.predict(turned, torch.tensor([question]))[:, 0].double().numpy()
    return np.exp(logs).reshape(len(turned.latents), len(STRENGTHS), turned.groups.shape[1], -1)


def _shifts(
    p: Float[np.ndarray, "strength group option"],
    positions: Float[np.ndarray, "option"],
    sign: Float[np.ndarray, "target"],
) -> Float[np.ndarray, "strength measure"]:
    """`MEASURES` of one latent and question; the targets come first."""
    out, place, count = STRENGTHS.index(0.0), (p * positions).sum(-1), len(sign)
    shift = place - place[out]
    others = p[:, count:]
    on, (size, off) = (sign * shift[:, :count]).mean(1), (np.abs(part).mean(1) for part in np.split(shift, [count], 1))
    return np.stack([on, size, off, kl(np.broadcast_to(others[out], others.shape), others).mean(1)], axis=1)


def bounded(strength: float, on_target: float, off_target_kl: float, bound: float) -> bool:
    """Whether the groups meant do not go the wrong way by `LEAST`, and the others' answers change by less than `bound`
    nats; a latent that is taken out is."""
    wrong = on_target <= -LEAST if strength > 0 else on_target >= LEAST
    return strength == 0 or (not wrong and off_target_kl < bound)


def bounded_range(held: Sequence[bool]) -> tuple[float, float]:
    """The lowest and the highest of `STRENGTHS` such that all from there to 0 are bounded (`held`, one for each)."""
    out = STRENGTHS.index(0.0)
    low = next((i + 1 for i in range(out, -1, -1) if not held[i]), 0)
    high = next((i - 1 for i in range(out, len(held)) if not held[i]), len(held) - 1)
    return STRENGTHS[low], STRENGTHS[high]


def audit_table(
    cells: pd.DataFrame,
    targets: Mapping[Key, Sequence[int]],
    groups: Sequence[str],
    clusters: Int[np.ndarray, "question"],
    bound: float,
    replicates: int = 2000,
) -> pd.DataFrame:
    """`causal_audit.csv`, the study's `written.csv`: a row per role, latent and strength, in the order of `targets`,
    of those that are in `cells`.

    Means over questions, with the interval of on_target over them (empty for fewer than two clusters); bounded_from and
    bounded_to: the range over which the latent is `bounded`.
    """
    rows = []
    for (role, latent), own in targets.items():
        part = cells[(cells["role"] == role) & (cells["latent"] == latent)]
        if part.empty:
            continue
        means = part.groupby("strength")[MEASURES].mean()
        on, kl_off = (dict(means[name].astype(float)) for name in ("on_target", "off_target_kl"))
        held = [bounded(strength, float(on[strength]), float(kl_off[strength]), bound) for strength in STRENGTHS]
        low, high = bounded_range(held)
        about = {
            "role": role,
            "latent": latent,
            "meant_for": "; ".join(groups[g] for g in own[: most_targets(len(groups))]),
        }
        about |= {"folds": part["fold"].nunique()}
        for strength in STRENGTHS:
            effect = _over_questions(part[part["strength"] == strength], "on_target", clusters, replicates)
            rows.append(about | {"questions": effect.n_questions, "strength": strength})
            rows[-1] |= as_cells("on_target", *effect[:3]) | means.loc[strength, MEASURES[1:]].to_dict()
            rows[-1] |= {"bounded_from": low, "bounded_to": high}
    return pd.DataFrame(rows, columns=COLUMNS)


def means_table(
    cells: pd.DataFrame, table: pd.DataFrame, clusters: Int[np.ndarray, "question"], replicates: int = 2000
) -> pd.DataFrame:
    """`causal_audit_means.csv`, the study's `means.csv`: a row per role and strength, means over questions of the means
    over their latents, with intervals; bounded: in how many of the latents' ranges the strength lies."""
    rows = []
    for (role, strength), part in cells.groupby(["role", "strength"]):
        ranges = table[(table["role"] == role) & (table["strength"] == strength)]
        inside = (ranges["bounded_from"] <= strength) & (strength <= ranges["bounded_to"])
        rows.append(
            {"role": role, "strength": strength, "latents": len(ranges), "questions": part["question"].nunique()}
        )
        rows[-1] |= {"bounded": int(inside.sum())}
        for name in MEASURES:
            rows[-1] |= as_cells(name, *_over_questions(part, name, clusters, replicates)[:3])
    ends = [f"{name}{end}" for name in MEASURES for end in ENDS]
    return pd.DataFrame(rows, columns=["role", "strength", "latents", "questions", "bounded", *ends])


def _over_questions(part: pd.DataFrame, name: str, clusters: Int[np.ndarray, "question"], replicates: int) -> Effect:
    values = np.full((1, len(clusters)), np.nan)
    of_question = part.groupby("question")[name].mean()
    values[0, of_question.index] = of_question
    return paired_effect(values, clusters, replicates=replicates)
