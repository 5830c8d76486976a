"""`latents.csv` and the cards of latents: everything that a run knows of each latent that an offset reads or writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from opinion_sae.delta.reading import ReadingDelta, ReadingOffset
from opinion_sae.effects.axes import in_one_order
from opinion_sae.effects.firing import Corpus
from opinion_sae.effects.interpret import quoted, token_effects
from opinion_sae.effects.labels import Label, labels, of_equal_rate
from opinion_sae.effects.removal import Change
from opinion_sae.model.answers import AnswerPath

GROUPS = 4  # named in a row
NEAREST = 3  # decoder rows on a card
ALIKE = 0.7  # cosine of two decoder rows, of different SAEs, that count as one latent
Key = tuple[str, int]  # role ('read' or 'write') and latent


class Used:
    """What an offset fitted to all questions, and those of the folds, read and write, with axes in one `order`.

    weights: of the offset fitted to all, along the scale, `read` by axis; `write`: b where it is largest over axes and
    directions, which all axes of a fit share. In the folds' place where the former leaves a latent alone: their mean.
    pull: how far a latent that is read moves a group, sum_k c_gk a_kj along the scale; of one that is written, D_g.
    """

    def __init__(self, whole: ReadingDelta, folds: Sequence[ReadingDelta]):
        self.whole, self.folds = whole, folds
        every = [one.copy().requires_grad_(False).cpu() for one in (*folds, whole)]
        self.order = in_one_order(every)
        read = torch.stack([_along(one, own) for one, own in zip(every, self.order, strict=True)])
        write = torch.stack([_largest(one.b.flatten(0, 1)) for one in every])[:, None]
        constant = [one.members @ one.deviation for one in every]
        own = [(part != 0).any(0) | (b[0] != 0) for part, b in zip(constant, write, strict=True)]
        reads = torch.stack([(one.a != 0).flatten(0, 1).any(0) for one in every])
        # by role: weights, which of the offsets use it, and what it does to the groups
        self.parts = {
            "read": (read, reads, [one.codes() @ one.a[:, 0] for one in every]),
            "write": (write, torch.stack(own), constant),
        }

    def keys(self) -> list[Key]:
        """Role and latent of whatever some fit reads or writes."""
        return [(role, j) for role, (_, used, _) in self.parts.items() for j in used.any(0).nonzero()[:, 0].tolist()]

    def in_some_fold(self) -> list[Key]:
        """Those whose removal can be judged on held-out questions."""
        return [key for key in self.keys() if self.in_folds(key)]

    def closely(self) -> list[Key]:
        """What the offset fitted to all questions reads, or two of the folds' do, and all that the former writes: these
        are turned up and down, and what is written has intervals where it is taken out. The rest, which single fits
        use, would double the time of both."""
        return [key for key in self.keys() if self.in_whole(key) or (key[0] == "read" and self.in_folds(key) > 1)]

    def in_whole(self, key: Key) -> bool:
        return bool(self.parts[key[0]][1][-1, key[1]])

    def in_folds(self, key: Key) -> int:
        return int(self.parts[key[0]][1][:-1, key[1]].sum())

    def weights(self, key: Key) -> Float[Tensor, "axis"]:
        weights = self.parts[key[0]][0][..., key[1]]
        return weights[-1] if self.in_whole(key) else weights[:-1].mean(0)

    def axis(self, key: Key) -> int:
        """From 1: where the weight is largest; 0 for what is written, by all axes alike."""
        return 0 if key[0] == "write" else 1 + int(self.weights(key).abs().argmax())

    def pull(self, key: Key) -> list[tuple[str, float]]:
        """The groups that use a latent most, with sign."""
        parts = torch.stack([part[:, key[1]] for part in self.parts[key[0]][2]])
        value = parts[-1] if self.in_whole(key) else parts[:-1].mean(0)
        most = value.abs().argsort(descending=True, stable=True)[:GROUPS].tolist()
        return [(self.whole.groups[g], float(value[g])) for g in most if value[g]]


def groups_of(used: Used, keys: Sequence[Key]) -> dict[Key, list[int]]:
    """The numbers of the groups on each latent's card (`Used.pull`)."""
    return {key: [used.whole.groups.index(group) for group, _ in used.pull(key)] for key in keys}


def _along(offset: ReadingOffset, order: Sequence[tuple[int, float]]) -> Float[Tensor, "axis latent"]:
    return torch.stack([sign * offset.a[max(column, 0), 0] for column, sign in order])


def _largest(values: Float[Tensor, "row latent"]) -> Float[Tensor, "latent"]:
    return values.gather(0, values.abs().argmax(0)[None])[0]


def found_again(
    W_dec: Float[Tensor, "m d"], others: Sequence[Float[Tensor, "_ d"]], alike: float = ALIKE
) -> pd.DataFrame:
    """For each decoder row, in how many `of` the other SAEs one has a cosine of `alike` or more with it (`seeds`), and
    the largest cosine that there is; no rows where there are no others."""
    if not others:
        return pd.DataFrame({"latent": [], "seeds": [], "of": [], "cosine": []})
    own = torch.nn.functional.normalize(W_dec.detach().float().cpu(), dim=1)
    rows = [torch.nn.functional.normalize(other.detach().float().cpu(), dim=1) for other in others]
    largest = torch.stack([(own @ row.T).amax(1) for row in rows])
    seeds = (largest >= alike).sum(0)
    table = {"latent": range(len(own)), "seeds": seeds.numpy(), "of": len(rows), "cosine": largest.amax(0).numpy()}
    return pd.DataFrame(table)


def latent_table(
    used: Used,
    rates: Float[Tensor, "latent"],
    tokens: Mapping[int, tuple[Sequence[str], Sequence[str]]],
    labels: Mapping[int, tuple[Label, Label]],
    removed: Mapping[Key, tuple[Change, Change]],
    again: pd.DataFrame | None,
) -> pd.DataFrame:
    """`latents.csv`: what is read first, by axis, the largest weights first; then what is written.

    axis: empty for what is written, by all axes alike. weight and groups: `Used`. label_score: detection, on texts that
    the label was not chosen on; random_score: the same of a latent drawn at random that fires as often, by its own
    label. gap_r_if_removed, kl_if_removed: to first order, on held-out questions from toplines, with 95 % intervals;
    empty where no fold's fit uses the latent. folds: how many of these use it. seeds: in how many SAEs of other seeds
    it is found again (`found_again`), empty where none is known.
    """
    seeds = {} if again is None else dict(zip(again["latent"], again["seeds"], strict=True))
    rows = []
    for key in used.keys():
        (role, latent), axis = key, used.axis(key)
        own, random = labels[latent]
        gap_r, kl = removed[key] if used.in_folds(key) else [Change(*[float("nan")] * 3)] * 2
        rows.append(
            {
                **{"latent": latent, "role": role, "axis": axis or None},
                "weight": float(used.weights(key)[max(axis - 1, 0)]),
                "groups": "; ".join(f"{group} {value:+.2g}" for group, value in used.pull(key)),
                "firing_rate": float(rates[latent]),
                "top_tokens": quoted(tokens[latent][0]),
                **{"label": own.text, "label_score": own.detection, "random_score": random.detection},
                **{"fuzzing_score": own.fuzzing, "random_fuzzing_score": random.fuzzing},
                **{"gap_r_if_removed": gap_r.value, "gap_r_low": gap_r.low, "gap_r_high": gap_r.high},
                **{"kl_if_removed": kl.value, "kl_low": kl.low, "kl_high": kl.high},
                **{"in_fit_to_all": used.in_whole(key), "folds": used.in_folds(key)},
                "seeds": seeds.get(latent),
            }
        )
    table = pd.DataFrame(rows).astype({"axis": "Int64", "seeds": "Int64"})
    by_size = table.assign(size=-table["weight"].abs()).sort_values(["role", "axis", "size"], kind="stable")
    return by_size.drop(columns="size").reset_index(drop=True)


def nearest(W_dec: Float[Tensor, "m d"], latent: int, count: int = NEAREST) -> list[tuple[int, float]]:
    """The other decoder rows with the largest cosine to one."""
    unit = torch.nn.functional.normalize(W_dec.detach().float().cpu(), dim=1)
    cosine = unit @ unit[latent]
    cosine[latent] = -torch.inf
    top = cosine.topk(min(count, len(cosine) - 1))
    return list(zip(top.indices.tolist(), top.values.tolist(), strict=True))


def card(
    row: Mapping[str, object],
    used: Used,
    corpus: Corpus,
    rates: Mapping[str, Float[Tensor, "latent"]],
    tokens: tuple[Sequence[str], Sequence[str]],
) -> dict[str, object]:
    """What a card shows of a latent in its role, beside its row of `latents.csv`: plain data for JSON.

    rates: of the survey's 'questions' and of plain 'texts'.
    """
    latent = int(str(row["latent"]))
    key = str(row["role"]), latent
    places: dict[str, object] = {}
    for name, survey in (("questions", True), ("texts", False)):
        top, middle = corpus.contexts(latent, survey)
        places[name] = {"rate": short(float(rates[name][latent])), "top": top, "middle": middle}
    known = {name: None if pd.isna(value) else value for name, value in row.items()}
    pull, beside = used.pull(key), nearest(used.whole.sae.W_dec, latent)
    return {
        **{name: short(value) if isinstance(value, float) else value for name, value in known.items()},
        **{"weights": [short(one) for one in used.weights(key).tolist()]},
        **{"pull": [(group, short(value)) for group, value in pull]},
        **{"promoted": list(tokens[0]), "suppressed": list(tokens[1]), "contexts": places},
        "nearest": [(other, short(cosine)) for other, cosine in beside],
    }


def short(value: float) -> float:
    """To four digits, which is more than a card shows."""
    return float(f"{value:.4g}")


def describe(
    answers: AnswerPath,
    used: Used,
    corpus: Corpus,
    removed: Mapping[Key, tuple[Change, Change]],
    again: pd.DataFrame | None = None,
    seed: int = 0,
) -> tuple[pd.DataFrame, list[dict[str, object]]]:
    """`latents.csv`, and a card for each of its rows."""
    sae, latents = used.whole.sae, sorted({latent for _, latent in used.keys()})
    rates, drawn = corpus.rates(), of_equal_rate(corpus.rates(), latents, seed)
    named = labels(corpus, [*latents, *drawn], seed)
    pairs = dict(zip(latents, zip(named[: len(latents)], named[len(latents) :], strict=True), strict=True))
    tokens = dict(zip(latents, token_effects(answers.lm, sae, torch.tensor(latents)), strict=True))
    table = latent_table(used, rates, tokens, pairs, removed, again)
    places = {"questions": corpus.rates(True), "texts": corpus.rates(False)}
    rows = table.astype(object).to_dict("records")
    others = 0 if again is None else int(again["of"].iloc[0])
    return table, [card(row, used, corpus, places, tokens[row["latent"]]) | {"others": others} for row in rows]
