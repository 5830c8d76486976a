"""The one sentence that each figure of the chapters shows, made from its table so that it turns with it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from opinion_sae.book.gap_report import overall
from opinion_sae.score.names import label, measure_of, prose
from opinion_sae.score.statistics import VERDICTS

LOOKED_UP = ("everyone", "toplines")  # methods that have everybody's answers to the very question


def counted(count: int, noun: str) -> str:
    """'1 latent', '2 latents'."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def decimals(value: float, least: int) -> int:
    """Decimal places that show two digits of it, or `least`."""
    return max(least, 1 - math.floor(math.log10(abs(value)))) if value else least


def with_ends(value: float, low: float | None, high: float | None, least: int) -> str:
    """'-0.00034 (-0.00070 to -0.00002)': to two digits of the largest number but at least so many decimals, and never
    -0.0; the value alone without an interval."""
    known = [one for one in (value, low, high) if not pd.isna(one)]
    places = decimals(max(map(abs, known)), least)
    said = [f"{round(one, places) + 0.0:+.{places}f}" for one in known]
    return said[0] if len(said) < 3 else f"{said[0]} ({said[1]} to {said[2]})"


def count_verdicts(found: pd.Series) -> str:
    """'9 are supported on average over groups, 5 mixed, 14 not supported and 1 contradicted'."""
    of = {name: int((found == name).sum()) for name in VERDICTS}
    return (
        f"{of['supported']} are supported on average over groups, {of['mixed']} mixed, {of['not supported']} not "
        f"supported and {of['contradicted']} contradicted"
    )


def group_distance(table: pd.DataFrame) -> str:
    """Of `report.distance_table`."""
    above = int((table["tv_low"] > table["floor"]).sum())
    far, near = table.loc[table["tv"].idxmax()], table.loc[table["tv"].idxmin()]
    return (
        f"{above} of {len(table)} groups differ from all respondents by more than sampling alone would show; furthest "
        f"is {far['group']} ({far['tv']:.3f}), nearest {near['group']} ({near['tv']:.3f})."
    )


def group_pairs(distance: Float[np.ndarray, "group group"], groups: Sequence[str]) -> str:
    """Of `report.pairwise_distance`."""
    rows, columns = np.triu_indices(len(groups), 1)
    values = distance[rows, columns]
    if np.isnan(values).all():
        return "No two groups answered the same questions."
    said = [
        f"{groups[rows[at]]} and {groups[columns[at]]} ({values[at]:.3f})"
        for at in (np.nanargmax(values), np.nanargmin(values))
    ]
    return f"Furthest apart are {said[0]}, nearest {said[1]}."


def position(table: pd.DataFrame) -> str:
    """Of `report.position_table`: the first place, and how far places are from people's on average."""
    first = table[table["place"] == 0]
    model, people = (np.average(first[who], weights=first["questions"]) for who in ("model", "people"))
    apart = (table["model"] - table["people"]).abs().groupby(table["options"]).sum() / 2
    weights = first.set_index("options")["questions"]
    return (
        f"The model gives the first option {model:.2f} on average, people {people:.2f}; by place alone, "
        f"{np.average(apart, weights=weights.loc[apart.index]):.2f} of the model's answers would have to move."
    )


def sae_training(history: pd.DataFrame) -> str:
    """Of `sae_history.csv`."""
    if history.empty:
        return "The SAE was loaded, and not trained here."
    last = history.iloc[-1]
    return (
        f"At step {last['step']:.0f}, {last['validation_fvu']:.1%} of the variance of held-out text is unexplained "
        f"({last['fvu']:.1%} of the training batch), and {last['dead']:.1%} of the latents are dead: they fired on no "
        "token of training since the point before."
    )


def sae_quality(quality: Mapping[str, float]) -> str:
    """Of `sae.json`: where offsets read and write, and what the SAE costs the model."""
    read = quality.get("fvu_at_questions")
    said = [f"{quality['fvu']:.1%} of the variance of held-out text"]
    said += [f"{read:.1%} at the questions' tokens, which offsets read"] if read is not None else []
    said.append(f"{quality['fvu_at_answers']:.1%} at the prompts' last tokens, where they write")
    return (
        f"The SAE leaves {', '.join(said[:-1])} and {said[-1]}, unexplained; prompts are among what it was trained on. "
        f"With its output in place of the stream the model keeps {quality['ce_recovered']:.1%} of what zeros there "
        "would cost it."
    )


def delta_training(history: pd.DataFrame) -> str:
    """Of one method's rows of `delta_history.csv`: validation KL at the start and at each stage's best epoch."""
    kl = history.groupby(["stage", "fold"])["validation_kl"]
    start, best = kl.first().groupby("stage").mean(), kl.min().groupby("stage").mean()
    return (
        f"Validation KL goes from {start['shared']:.3f} to {best['shared']:.3f} with the shared part, and to "
        f"{best['deviation']:.3f} with the groups' own (best epochs, means over folds)."
    )


def joint_training(history: pd.DataFrame) -> str:
    """Of `joint_history.csv`: from the first epoch to the last, means over folds where there are several."""
    epochs = (
        history[history["stage"] == "joint"].groupby("epoch")[["validation_kl", "validation_reconstruction"]].mean()
    )
    start, end = epochs.iloc[0], epochs.iloc[-1]
    return (
        f"Over {len(epochs) - 1} epochs validation KL goes from {start['validation_kl']:.3f} to "
        f"{end['validation_kl']:.3f}, and unexplained variance from {start['validation_reconstruction']:.3f} to "
        f"{end['validation_reconstruction']:.3f}{' (means over folds)' if 'fold' in history else ''}."
    )


def joint_costs(table: pd.DataFrame) -> str:
    """Of `joint.csv`: the SAE from scratch beside the one that was trained on reconstruction alone."""
    fvu, alone = table[["fvu", "fvu_at_answers"]], "from scratch, reconstruction alone"
    if alone not in fvu.index:
        return "The SAE was loaded, and none was trained from scratch on reconstruction alone."
    text, written = fvu.loc["from scratch, e kept"].to_numpy() / fvu.loc[alone].to_numpy()
    return (
        f"From scratch, joint training leaves {text:.2f} times the variance of text unexplained that reconstruction "
        f"alone leaves after as many tokens, and {written:.2f} times that at the answers."
    )


def _sides(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of paired differences whose interval lies below zero, and above."""
    return table[table["high"] < 0], table[table["low"] > 0]


def against(table: pd.DataFrame) -> str:
    """Of `controls.csv`, all groups: what the offset is closer than by the interval, and what further."""
    closer, further = _sides(table)
    named = f": {', '.join(label(name) for name in further['reference'])}" if len(further) else ""
    return (
        f"By its 95% interval the offset is closer to the groups than {len(closer)} of {len(table)} references and "
        f"controls, and further than {len(further)}{named}."
    )


def _own_answers(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of all groups together, by method, of what does not look up everybody's answers; `n_seeds` is 1 where the
    table does not have it."""
    whole = table[table["group"] == "all"].set_index("method") if "method" in table else table
    whole = whole.drop([*LOOKED_UP], errors="ignore")
    return whole if "n_seeds" in whole else whole.assign(n_seeds=1)


def over_seeds(count: int) -> str:
    """'over one seed', 'over 5 seeds'."""
    return "over one seed" if count == 1 else f"over {count} seeds"


def alignment(table: pd.DataFrame) -> str:
    """Of `alignment.csv`: the method with the lowest KL of those over as many seeds."""
    whole = _own_answers(table)
    kl, seeds = whole["kl"], whole["n_seeds"].astype(int)
    best = {count: str(kl[seeds == count].idxmin()) for count in sorted(set(seeds.tolist()))}
    several = len(best) > 1
    said = [
        f"{over_seeds(count) + ' ' if several else ''}that of {prose(name)} ({kl[name]:.3f})"
        for count, name in best.items()
    ]
    own = f" ({over_seeds(int(seeds['delta']))})" if several else ""
    return (
        f"Of what does not look up everybody's answers, the lowest mean KL is {' and '.join(said)}; the unsteered "
        f"model has {kl['unsteered']:.3f}, Δ {kl['delta']:.3f}{own}."
    )


def seed_counts(table: pd.DataFrame) -> str:
    """Of `alignment.csv`: how many rows are means over seeds, and over how many."""
    seeds = _own_answers(table)["n_seeds"].astype(int)
    means = [
        f"{counted(int((seeds == count).sum()), 'row')} {over_seeds(count)}"
        for count in sorted(set(seeds.tolist()) - {1})
    ]
    if not means:
        return "All rows of the table are of one seed."
    return (
        f"The table has {' and '.join(means)}, each with an SAE of its own (`make evaluate`), and "
        f"{counted(int((seeds == 1).sum()), 'row')} of one seed or without a draw; rows of different numbers of seeds "
        "are not compared."
    )


def alignment_by_group(table: pd.DataFrame) -> str:
    """Of `alignment.csv`: Δ beside the unsteered model, group by group."""
    kl = table[table["group"] != "all"].pivot(index="group", columns="method", values="kl")
    delta = kl["delta"]
    return (
        f"Δ has a lower KL than the unsteered model for {int((delta < kl['unsteered']).sum())} of {len(kl)} groups; it "
        f"is lowest for {delta.idxmin()} ({delta.min():.3f}), highest for {delta.idxmax()} ({delta.max():.3f})."
    )


def differences(table: pd.DataFrame, method: str, reference: str) -> str:
    """Of `comparisons.csv`: for how many groups the interval leaves out zero; not corrected for their number."""
    rows = table[(table["method"] == method) & (table["reference"] == reference) & (table["group"] != "all")]
    closer, further = _sides(rows)
    return (
        f"{prose(method)} is closer than {prose(reference)} for {len(closer)} of {len(rows)} groups and further for "
        f"{len(further)}, by intervals that leave out zero and are not corrected for the number of groups."
    )


def transfer(table: pd.DataFrame) -> str:
    """Of `transfer.csv`: the mean off the diagonal, group by group."""
    values = table.to_numpy(float)
    others = (np.nansum(values, 0) - np.diag(values)) / max(1, len(values) - 1)
    return (
        f"For {int((others > 0).sum())} of {len(others)} groups the own offset is better than the mean of the others', "
        f"by {others.mean():.4f} nats on average."
    )


def latent_path(table: pd.DataFrame) -> str:
    """Of `path.csv`, all groups: KL with most and fewest latents, refitted and dense."""
    part = table[table["group"] == "all"].sort_values("latents")
    few, many = part.iloc[0]["latents"], part.iloc[-1]["latents"]
    kl = {name: rows["kl"].iloc[[-1, 0]].tolist() for name, rows in part.groupby("method")}
    return (
        f"From {many:.0f} latents to {few:.0f} the refitted offset's KL goes from {kl['refitted'][0]:.3f} to "
        f"{kl['refitted'][1]:.3f}, that of a dense vector of the same norm from {kl['dense'][0]:.3f} to "
        f"{kl['dense'][1]:.3f}."
    )


def latent_path_by_group(table: pd.DataFrame) -> str:
    """Of `path.csv`: with the fewest latents, for how many groups the refitted offset is below the dense vector."""
    rows = table[(table["group"] != "all") & table["method"].isin(["refitted", "dense"])].sort_values("latents")
    kl = rows.groupby(["method", "group"])["kl"].first()
    below = int((kl["refitted"] < kl["dense"]).sum())
    of = f"{below} of {len(kl['dense'])} groups"
    return f"With the fewest latents the refitted offset has a lower KL than the dense vector for {of}."


def tilt(table: pd.DataFrame) -> str:
    """Of `tilt.csv`: KL of the worst-off group and the mean, without and with the steepest tilt."""
    values = table[table["measure"] == "kl"].set_index(["which", "t"])["value"]
    most = table["t"].max()
    worst, mean = ([values[which, t] for t in (0.0, most)] for which in ("worst-off group", "mean over groups"))
    return (
        f"Tilting the loss to the worst-off group (t = {most:g}) moves its KL from {worst[0]:.3f} to {worst[1]:.3f}, "
        f"the mean from {mean[0]:.3f} to {mean[1]:.3f}."
    )


def gap_methods(gaps: pd.DataFrame, task: str = "toplines") -> str:
    """Of `gaps.csv`: which methods see groups, by the interval of the gap correlation, and which sees most."""
    part = overall(gaps[gaps["split"] == "question"], task)
    if part["gap_r"].isna().all():
        return "There are too few questions for gap correlations."
    above, best = int((part["gap_r_low"] > 0).sum()), str(part["gap_r"].idxmax())
    return (
        f"{above} of {len(part)} methods have a gap correlation whose interval lies above zero; the highest is "
        f"that of {prose(best)} ({part['gap_r'][best]:.2f})."
    )


def dose(curves: pd.DataFrame) -> str:
    """Of `dose.csv`: each method's strength with the lowest KL of its task, and what that costs."""
    said = []
    for method, curve in curves.groupby("method", sort=False):
        measure = measure_of(str(method))
        task = "from toplines" if measure == "kl_toplines" else "alone"
        best = curve.sort_values(measure, kind="stable").iloc[0]
        said.append(
            f"The lowest KL of {prose(str(method))} {task}, {best[measure]:.3f}, is at strength {best['strength']:g}, "
            f"where {best['option_mass']:.2f} of the probability is on a letter and perplexity is "
            f"{best['perplexity_ratio']:.2f} times the unsteered model's."
        )
    return " ".join(said)


def dose_choice(choice: pd.DataFrame) -> str:
    """Of `dose_choice.csv`: what validation chooses in the folds, and what that costs or gains beside strength 1."""
    folds, whole = choice[choice["fold"] != "all"], choice[choice["fold"] == "all"].iloc[0]
    chosen = ", ".join(f"{strength:g}" for strength in folds["strength"])
    none = " No dose of Δ passes the rule." if not folds["strength"].any() else ""
    value, low, high = whole["difference"], whole["low"], whole["high"]
    than = "no different from" if low <= 0 <= high else "higher than" if low > 0 else "lower than"
    return (
        f"The folds choose the strengths {chosen}.{none} On test questions the KL is then {than} at strength 1 "
        f"({value:+.3f} nats, 95% interval {low:+.3f} to {high:+.3f})."
    )


def doses(grid: pd.DataFrame) -> str:
    """Of `doses.csv`: what each fold chooses, and how much validation KL that gains over the full dose."""
    chosen = grid[grid["chosen"]]
    said = [f"{row.shared:g} Δ_shared" + (f" and {row.group:g} D" if row.group else "") for row in chosen.itertuples()]
    return (
        f"The folds choose {', '.join(said)}, with a validation KL of {chosen['validation_kl'].mean():.3f} on average."
    )


def layer_grid(table: pd.DataFrame) -> str:
    """Of `selection.csv`: the layer with the lowest validation KL."""
    if table.empty:
        return "`make select` has not been run for this profile."
    kl = table[~table["mode"].isin(["joint", "unsteered"])].groupby(["layer", "l1"])["kl"].mean()
    layer, l1 = kl.idxmin()
    return f"The lowest validation KL, {kl.min():.3f} on average over folds, is at layer {layer} with γ = {l1:g}."


def trade_off(table: pd.DataFrame) -> str:
    """Of `side_effects.csv`: offsets, what is gained and what it costs."""
    value = table[table["group"] == "all"].set_index(["method", "quantity"])["value"]
    gain, price = value[:, "alignment_change"], value[:, "next_token_kl"]
    names = ("delta", "delta-half", "delta-reading-64", "dense")
    said = [f"{prose(name)} {gain[name]:.3f} at {price[name]:.3f}" for name in names]
    return f"Alignment gained, and the price in nats per token of plain text: {'; '.join(said)}."


def compare_models(overall: Mapping[str, pd.DataFrame]) -> str:
    """The methods with the lowest KL, model by model, of those that do not look up everybody's answers."""
    said = []
    for model, table in overall.items():
        kl = _own_answers(table)["kl"]
        best = str(kl.idxmin())
        said.append(
            f"with {model} that of {prose(best)} ({kl[best]:.3f}; unsteered {kl['unsteered']:.3f}, Δ {kl['delta']:.3f})"
        )
    if not said:
        return "No published run is in this checkout."
    return f"Of what does not look up everybody's answers, the lowest mean KL is {', '.join(said)}."


def groups_by_model(tables: Mapping[str, pd.DataFrame]) -> str:
    """For how many groups Δ has a lower KL than the dense vector, model by model."""
    said = []
    for model, table in tables.items():
        kl = table[table["group"] != "all"].pivot(index="group", columns="method", values="kl")
        said.append(f"{int((kl['delta'] < kl['dense']).sum())} of {len(kl)} groups with {model}")
    return f"Δ has a lower KL than the dense vector for {', '.join(said)}." if said else "No published run to show."


def claims(table: pd.DataFrame) -> str:
    """Of `claims.csv` or `evaluate_claims.csv`."""
    if table.empty:
        return "`make evaluate` has not been run for this profile."
    tested = table[table["group"] == "all"]
    return f"Of {claims_counted(tested)}, {count_verdicts(tested['verdict'])}."


def claims_counted(tested: pd.DataFrame) -> str:
    """'26 claims (19 over 5 seeds, 7 over one seed)', a row per claim; '22 claims' where all are over as many."""
    seeds = Counter(tested["n_seeds"].astype(int)) if "n_seeds" in tested else Counter()
    if len(seeds) < 2:
        return f"{len(tested)} claims"
    return f"{len(tested)} claims ({', '.join(f'{seeds[of]} {over_seeds(of)}' for of in sorted(seeds, reverse=True))})"


def speed(ratios: pd.DataFrame) -> str:
    """Of the ratios to other libraries, a row per benchmark and peer."""
    ratio = ratios["ratio"].dropna()
    faster = f"{int((ratio > 1).sum())} of {len(ratio)} comparisons"
    said = f"Ours is faster in {faster}; the ratios run from {ratio.min():.3g} to {ratio.max():.3g}"
    if "reached" not in ratios:
        return f"{said}."
    below = ratios[(ratios["reached"] == "below") & ratios["ratio"].notna()]
    named = "; ".join(f"{name} beside {peer}" for name, peer in below["peer"].items())
    return (
        f"{said}, and {len(below)} of them {'lies' if len(below) == 1 else 'lie'} below what was asked for at least"
        + (f" ({named})." if named else ".")
    )


def growth(slopes: pd.DataFrame) -> str:
    """Of the fitted slopes, a row per kind of work."""
    fitted = {what: slopes[f"{what}, fitted"] for what in ("time", "memory")}
    said = [f"{what} with slopes from {one.min():.2f} to {one.max():.2f}" for what, one in fitted.items()]
    return f"The more work, the more {said[0]} and the more {said[1]}; 1 is in proportion."
