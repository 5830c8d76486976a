"""The axes of reading offsets fitted fold by fold, put in one order: what they read and write, and who stands where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from opinion_sae.delta.held_out import Split
from opinion_sae.delta.offsets import Offset
from opinion_sae.delta.reading import ReadingDelta, ReadingOffset
from opinion_sae.model.answers import AnswerPath

SIDES = {"read": "a", "write": "b"}


def in_one_order(offsets: Sequence[ReadingOffset]) -> list[list[tuple[int, float]]]:
    """For each fold its axes in the order of the fold that has most (the first such): which axis, and its sign.

    Axes are matched by the cosine of their codes c, the strongest match first. The axes of the first such fold point so
    that the group furthest out has a code above 0; a sign turns c and a together, so that what is written stays as it
    is. The list of a fold with fewer axes is shorter by those at the end that nothing matches: -1, 0.0 in their place.
    """
    codes = [offset.codes().detach().double() for offset in offsets]
    first = max(range(len(codes)), key=lambda fold: (codes[fold].shape[1], -fold))
    unit = [c / c.norm(dim=0).clamp_min(1e-12) for c in codes]
    furthest = unit[first].abs().argmax(0)
    reference = unit[first] * torch.sign(unit[first].gather(0, furthest[None])[0])
    found = []
    for c in unit:
        likeness, order = reference.T @ c, [(-1, 0.0)] * reference.shape[1]
        left = likeness.abs()
        for _ in range(c.shape[1]):
            row, column = divmod(int(left.argmax()), c.shape[1])
            order[row] = column, -1.0 if likeness[row, column] < 0 else 1.0
            left[row], left[:, column] = -1.0, -1.0
        found.append(order)
    return found


def codes_table(offsets: Sequence[ReadingOffset]) -> pd.DataFrame:
    """`codes.csv`: axis (from 1), group, c: the mean over folds; low, high: the least and the largest of any fold."""
    order, rows = in_one_order(offsets), []
    for axis in range(max(map(len, order))):
        folds = [(offset, *own[axis]) for offset, own in zip(offsets, order, strict=True) if own[axis][0] >= 0]
        c = torch.stack([offset.codes().detach()[:, column] * sign for offset, column, sign in folds])
        stand = zip(offsets[0].groups, c.mean(0).tolist(), c.amin(0).tolist(), c.amax(0).tolist(), strict=True)
        rows += [(axis + 1, *row) for row in stand]
    return pd.DataFrame(rows, columns=["axis", "group", "c", "low", "high"])


def code_points(offset: ReadingOffset) -> Float[np.ndarray, "group axis"]:
    """c_gk |a_k|: where groups stand, each axis in the length of what it reads along the scale."""
    return (offset.codes() * offset.a[:, 0].norm(dim=1)).detach().cpu().double().numpy()


def axes_table(offsets: Sequence[ReadingDelta]) -> pd.DataFrame:
    """`axes.csv`: axis (from 1), side ('read', 'write'), latent, weight, folds, direction (from 1; an axis writes
    several: along the scale, middle against ends, ...).

    A row per latent that some fold's axis reads or writes; the weight is the mean over the folds that have the axis,
    0 where one leaves the latent alone, and `folds` says how many do not. The largest weights come first.
    """
    order, parts = in_one_order(offsets), []
    for axis in range(max(map(len, order))):
        folds = [(offset, *own[axis]) for offset, own in zip(offsets, order, strict=True) if own[axis][0] >= 0]
        for side, name in SIDES.items():
            weights = torch.stack(
                [getattr(one, name)[column].detach() * (sign if side == "read" else 1) for one, column, sign in folds]
            )
            mean, used = weights.mean(0), (weights != 0).sum(0)
            direction, latent = used.nonzero().T
            some = {"axis": axis + 1, "side": side, "latent": latent.tolist()}
            some |= {"weight": mean[direction, latent].tolist(), "folds": used[direction, latent].tolist()}
            table = pd.DataFrame(some | {"direction": (direction + 1).tolist()})
            table = table.assign(size=table["weight"].abs())
            parts.append(table.sort_values(["direction", "size"], ascending=[True, False], kind="stable"))
    return pd.concat(parts, ignore_index=True).drop(columns="size")


@torch.no_grad()
def constant_share(
    answers: AnswerPath, splits: Sequence[Split], methods: Mapping[str, Sequence[Offset]]
) -> pd.DataFrame:
    """How much of what the groups' own part adds is the same for every question, per method and fold.

        |mean_q s_gq|^2 / mean_q |s_gq|^2,   s_gq = x_g - x with the shared part alone

    in the residual stream, over the fold's test questions with their options in the order asked; mean over groups.
    `size` is the mean |s|. A share of 1: the group's part is one vector, whatever is asked. NaN where it is not used:
    where s is shorter than a millionth of x, the rounding of float32.
    """
    rows = []
    for method, offsets in methods.items():
        for fold, (split, offset) in enumerate(zip(splits, offsets, strict=True)):
            alone = offset.shared_only()
            items = torch.from_numpy(split.test) * answers.orders
            moved = [answers.steered(some, offset) - answers.steered(some, alone) for some in items.split(32)]
            own = torch.cat(moved).cpu().double()
            square = own.square().sum(-1).mean(0)
            used = square > (1e-6 * answers.residual[items].norm(dim=1).mean()).square()  # less is rounding
            share = own.mean(0).square().sum(-1)[used] / square[used]
            rows.append((method, fold, share.mean().item() if len(share) else np.nan, own.norm(dim=-1).mean().item()))
    return pd.DataFrame(rows, columns=["method", "fold", "constant_share", "size"])
