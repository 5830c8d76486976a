"""Numbers and sentences for the prose, made from the tables so that a rerun can change what the book says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.score.metrics import bootstrap_mean, by_group, mean, mean_over_groups, total_variation
from opinion_sae.score.names import prose
from opinion_sae.survey import Survey

NOT_USED = "not used"


def verdict(row: pd.Series) -> str:
    """One sentence on a paired difference in KL: lower, higher, or no difference that could be shown."""
    method, reference = prose(row["method"]), prose(row["reference"])
    low, high = row["low"], row["high"]
    if np.isnan(low):
        return f"There are too few questions for an interval on {method} against {reference}."
    size = (
        f"by {abs(row['kl_difference']):.3f} nats (95% interval {{:.3f}} to {{:.3f}}, {row['n_questions']} questions)"
    )
    subject = method[0].upper() + method[1:]
    if high < 0:
        return f"{subject} lowers the mean KL below that of {reference} {size.format(-high, -low)}."
    if low > 0:
        return f"{subject} raises the mean KL above that of {reference} {size.format(low, high)}."
    return (
        f"No difference could be shown: the mean KL of {method} minus that of {reference} is "
        f"{row['kl_difference']:+.3f} nats (95% interval {low:+.3f} to {high:+.3f}, {row['n_questions']} questions)."
    )


def verdicts(comparisons: pd.DataFrame) -> dict[str, str]:
    """Of `comparisons.csv`, for the prose: what Delta_shared changes, and what Delta adds to it, over all groups."""
    overall = comparisons[comparisons["group"] == "all"]

    def of(method: str, reference: str) -> str:
        return verdict(overall[(overall["method"] == method) & (overall["reference"] == reference)].iloc[0])

    return {"verdict_shared": of("shared-delta", "unsteered"), "verdict_delta": of("delta", "shared-delta")}


def against_uniform(
    survey: Survey,
    name: str,
    kl: Float[np.ndarray, "group question"],
    uniform: Float[np.ndarray, "group question"],
    clusters: Int[np.ndarray, "question"],
    replicates: int,
    seed: int,
) -> str:
    """One sentence: the mean KL that a dose of Delta is left with, beside that of equal shares for every option."""
    values = by_group(survey, kl - uniform)["all"]
    low, high = bootstrap_mean(values, clusters, replicates, seed)
    found = "is further from" if low > 0 else "is closer to" if high < 0 else "could not be shown to be closer to"
    interval = "too few questions for an interval" if np.isnan(low) else f"95% interval {low:+.3f} to {high:+.3f}"
    return (
        f"{name} has a mean KL of {mean_over_groups(survey, kl):.3f} and {found} the groups than "
        f"{prose('uniform')}, which read no question and have {mean_over_groups(survey, uniform):.3f} "
        f"({mean(values):+.3f} nats, {interval})."
    )


def sae_numbers(quality: Mapping[str, float]) -> dict[str, str]:
    """Formatted values of `sae.json` for the prose."""
    return {
        "sae_fvu": f"{100 * quality['fvu']:.1f}%",
        "ce_recovered": f"{100 * quality['ce_recovered']:.1f}%",
    }


def distance_table(
    survey: Survey, floor: Float[np.ndarray, "group question"], clusters: np.ndarray, replicates: int, seed: int
) -> pd.DataFrame:
    """How far each group is from all respondents: mean total variation with interval, and what sampling would give."""
    distance = total_variation(survey.shares, survey.everyone_shares)
    rows = []
    for g, group in enumerate(survey.groups):
        low, high = bootstrap_mean(distance[g], clusters, replicates, seed)
        answered = survey.respondents[g] > 0
        rows.append(
            {
                "attribute": survey.attributes[g],
                "group": group,
                "questions": int(answered.sum()),
                "n": float(survey.respondents[g][answered].mean()),
                "effective_n": float(survey.effective[g][answered].mean()),
                "tv": mean(distance[g]),
                "tv_low": low,
                "tv_high": high,
                "floor": mean(floor[g]),
            }
        )
    return pd.DataFrame(rows)


def pairwise_distance(survey: Survey) -> Float[np.ndarray, "group group"]:
    """Mean total variation between two groups over the questions that both answered."""
    shares = survey.shares
    with np.errstate(invalid="ignore"):
        return np.array([[mean(total_variation(a, b)) for b in shares] for a in shares])


def divisive_questions(survey: Survey, count: int) -> pd.DataFrame:
    """Questions on which two groups of one attribute differ most: the pair, and their total variation."""
    rows = []
    shares = survey.shares
    for q, question in enumerate(survey.questions):
        best = None
        for a in range(len(survey.groups)):
            for b in range(a):
                if survey.attributes[a] == survey.attributes[b]:
                    tv = float(total_variation(shares[a, q], shares[b, q]))
                    if not np.isnan(tv) and (best is None or tv > best[0]):
                        best = (tv, survey.groups[b], survey.groups[a])
        if best:
            rows.append((question.key, question.text, f"{best[1]} / {best[2]}", best[0]))
    table = pd.DataFrame(rows, columns=["key", "question", "groups", "total variation"])
    return table.sort_values("total variation", ascending=False, kind="stable").head(count)


def position_table(survey: Survey, by_letter: Float[np.ndarray, "question option"]) -> pd.DataFrame:
    """Mean probability of each letter, and of people's answers at the same place, by number of options."""
    rows = []
    options = np.array([len(question.options) for question in survey.questions])
    for count in sorted(set(options.tolist())):
        which = options == count
        for place in range(count):
            model, people = by_letter[which, place].mean(), survey.everyone_shares[which, place].mean()
            rows.append((count, place, model, people, int(which.sum())))
    return pd.DataFrame(rows, columns=["options", "place", "model", "people", "questions"])


def spread(survey: Survey, cells: Float[np.ndarray, "group question"], count: int = 5) -> pd.DataFrame:
    """Questions on which the model is furthest from people, mean KL over groups."""
    values = by_group(survey, cells)["all"]
    order = np.argsort(-values)[:count]
    rows = [(survey.questions[i].key, survey.questions[i].text, values[i]) for i in order]
    return pd.DataFrame(rows, columns=["key", "question", "mean KL (nats)"])


def kept_epochs(history: pd.DataFrame) -> pd.DataFrame:
    """Per method and fold of a `delta_history.csv`: the epoch that each stage keeps, and what the second one gains.

    A stage keeps the epoch with the lowest validation KL; epoch 0 is its start. If the second stage keeps that, the
    groups' own part is zero: 'not used', and no number. KL is in nats, over validation questions.
    """
    whole = history[history["method"].isin(history.loc[history["stage"] == "deviation", "method"])]
    rows = []
    for (method, fold), part in whole.groupby(["method", "fold"], sort=False):
        first, second = (part[part["stage"] == stage] for stage in ("shared", "deviation"))
        start, best = second.iloc[0], second.loc[second["validation_kl"].idxmin()]
        used = best["epoch"] > 0
        rows.append(
            {
                "method": method,
                "fold": int(fold),
                "shared part, epoch": int(first.loc[first["validation_kl"].idxmin(), "epoch"]),
                "own part, epoch": int(best["epoch"]) if used else NOT_USED,
                "validation KL without": round(start["validation_kl"], 4),
                "validation KL with": round(best["validation_kl"], 4) if used else NOT_USED,
                "entries of the own part": int(best["latents_deviation"]) if used else NOT_USED,
            }
        )
    return pd.DataFrame(rows).set_index(["method", "fold"])


def own_part(history: pd.DataFrame, method: str = "delta") -> str:
    """One sentence: in how many folds the groups' own part is used, and in which it is not."""
    kept = kept_epochs(history).loc[method, "own part, epoch"]
    idle = [str(fold) for fold, epoch in kept.items() if epoch == NOT_USED]
    if not idle:
        return f"The groups' own part is used in all {len(kept)} folds."
    named = f"fold {idle[0]}" if len(idle) == 1 else f"folds {', '.join(idle[:-1])} and {idle[-1]}"
    return (
        f"The groups' own part is used in {len(kept) - len(idle) or 'none'} of {len(kept)} folds; in {named} no epoch "
        "with it did better on the validation questions than the start without it, so it is not used."
    )


def choice_page(choices: pd.DataFrame, deltas: Sequence[GroupDelta]) -> pd.DataFrame:
    """`selection.choice_table`, a row per fold, with 'not used' for the dose of a part that the fold's Delta lacks:
    any dose of zero is zero, and which of them is chosen is rounding."""
    used = [bool(delta.deviation.any()) for delta in deltas]
    return choices.assign(**{"dose of D": choices["dose of D"].astype(object).where(used, NOT_USED)})


def choice_sentence(choices: pd.DataFrame) -> str:
    """Of `selection.choice_table`: what choosing gains on the validation questions, over the doses as fitted."""
    gain = choices["KL Δ"] - choices["KL chosen"]
    return (
        f"On validation questions the choice lowers the KL of Δ as fitted by {gain.mean():.4f} nats on average over "
        f"folds ({gain.min():.4f} to {gain.max():.4f}), which is as good as chosen there and no test."
    )


def chosen_sentence(compared: pd.DataFrame) -> str:
    """Of `selected.csv`, all groups: which references the choice is closer to people than, and further than."""

    def named(rows: pd.DataFrame) -> str:
        return ", ".join(prose(str(name)) for name in rows["reference"]) or "none"

    closer, further = compared[compared["high"] < 0], compared[compared["low"] > 0]
    return (
        f"By 95% intervals, on the test questions, the choice is closer to the groups than {named(closer)}, and "
        f"further than {named(further)}, of {len(compared)} references."
    )


def fixed_sentence(fixed: pd.DataFrame) -> str:
    """Of `interpret.fixed_part`: how much of an offset no prompt changes."""
    means = fixed[["constant share", "silent latents"]].mean()
    return (
        f"On average over folds {means['constant share']:.1%} of what the chosen offset adds is the same for every "
        f"prompt, and {means['silent latents']:.1%} of its latents fire on none."
    )


def idle_fits(grid: pd.DataFrame) -> str:
    """One sentence on a `selection.csv`: how many fits of both parts kept their start, the shared part alone."""
    shared, both = (
        grid[grid["mode"] == mode].set_index(["layer", "fold", "l1"])["latents"] for mode in ("shared", "both")
    )
    if both.empty:
        return "`make select` has not been run for this profile."
    idle = int((both == shared.reindex(both.index)).sum())
    return f"Of {len(both)} fits of both parts, one per layer and fold, {idle} do not use the groups' own part."
