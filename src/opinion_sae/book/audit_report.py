"""What chapters 21 and 22 say of audited latents, the gradient, groups as points and personas, from their tables."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from opinion_sae.book.cards import range_said
from opinion_sae.book.gap_report import FEW, measured
from opinion_sae.book.sentences import counted, decimals, with_ends
from opinion_sae.book.study_tables import ABSENT, StudyTables, note
from opinion_sae.book.typeset import Link, Shown, sentence
from opinion_sae.book.typeset import table as typeset
from opinion_sae.effects.audit import LEAST
from opinion_sae.score.names import label, prose

PARTS = {
    "shared": "Δ_shared of the constant Δ",
    "own": "the groups' own part of the constant Δ",
    "read": "what the reading Δ reads",
    "written": "what the reading Δ writes",
}
MISSED = 0.05  # of 95% intervals, by chance, on either side
NOTHING = "None of these latents is used on these questions, so there is none to audit."


def audit_sentence(means: pd.DataFrame, table: pd.DataFrame, bound: float) -> str:
    """Of one role in `causal_audit_means.csv` and `causal_audit.csv`: as it is and at the largest strength, on target
    and off."""
    if not len(means):
        return NOTHING
    of = means.set_index("strength")
    most, least = of.index.max(), of.index.min()
    one, far = of.loc[1.0], of.loc[most]
    where = " where they are read" if (means["role"] == "read").all() else ""
    moved = dict(means.set_index("strength")["on_target"].astype(float))
    near, wide = decimals(moved[1.0], 4), decimals(moved[most], 3)
    right = table[(table["strength"] == 1.0) & (table["on_target"] >= LEAST)]
    whole = table[(table["strength"] == 1.0) & (table["bounded_from"] == least) & (table["bounded_to"] == most)]
    return (
        f"Of {one['latents']:.0f} latents {len(right)} move the groups that they are meant for the way they are meant "
        f"to by {LEAST:g} places or more; all of them by {one['on_target']:+.{near}f} places on average "
        f"({one['on_target_low']:+.{near}f} to {one['on_target_high']:+.{near}f}){where}; {most:g} times as strong by "
        f"{far['on_target']:+.{wide}f} ({far['on_target_low']:+.{wide}f} to {far['on_target_high']:+.{wide}f}), and "
        f"reversed at {least:g} by {of.loc[least, 'on_target']:+.{wide}f}. At {most:g} times those meant move by "
        f"{far['on_size']:.{wide}f} whatever the direction, and other groups by {far['off_target']:.{wide}f}. "
        f"{len(whole)} latents stay bounded over the whole range from {least:g} to {most:g}: at no strength "
        f"{LEAST:g} places or more the wrong way, and the others' answers within {bound:.4f} nats of what they were."
    )


def written_sentence(study: StudyTables, bound: float) -> str:
    """`audit_sentence` of what is written, from the study `audit`, and how that was made."""
    if study["means"].empty:
        return note(study)
    return f"{audit_sentence(study['means'], study['written'], bound)} {note(study)}"


def written_page(study: StudyTables, cards: Mapping[tuple[str, int], str], count: int) -> Shown:
    """`audit_page` of what is written."""
    return sentence(ABSENT) if study["written"].empty else audit_page(study["written"], cards, count)


def audit_page(table: pd.DataFrame, cards: Mapping[tuple[str, int], str], count: int) -> Shown:
    """Of one role the `count` latents that move those meant for them most as they are, and as many of those that are
    not bounded throughout, with links to their pages (`cards`: `addresses`)."""
    if not len(table):
        return sentence(NOTHING)
    ends = table["strength"].min(), table["strength"].max()
    of = {(row["latent"], row["strength"]): row for row in table.to_dict("records")}
    one = table[table["strength"] == 1.0]
    order = one.sort_values("on_target", ascending=False, kind="stable")["latent"].tolist()
    unbounded = one[(one["bounded_from"] > ends[0]) | (one["bounded_to"] < ends[1])]["latent"].tolist()
    rows, role = [], table["role"].iloc[0]
    for latent in [*order[:count], *[latent for latent in order[count:] if latent in unbounded][:count]]:
        as_it_is = of[latent, 1.0]
        low, high = as_it_is["on_target_low"], as_it_is["on_target_high"]
        rows.append(
            [
                Link(str(latent), cards[role, latent]) if (role, latent) in cards else str(latent),
                as_it_is["meant_for"],
                str(as_it_is["questions"]),
                with_ends(as_it_is["on_target"], low, high, 4) + (f" ({FEW})" if pd.isna(low) else ""),
                *(with_ends(of[latent, end]["on_target"], None, None, 3) for end in ends[::-1]),
                range_said(float(as_it_is["bounded_from"]), float(as_it_is["bounded_to"])),
            ]
        )
    heads = [
        "latent",
        "meant for",
        "questions",
        "shift at 1 (places)",
        f"at {ends[1]:g} (places)",
        f"at {ends[0]:g} (places)",
        "bounded",
    ]
    what = "read" if role == "read" else "written"
    return typeset(
        pd.DataFrame(rows, columns=heads), f"Latents that are {what}, by how far they move the groups meant for them"
    )


def gradient_sentence(table: pd.DataFrame) -> str:
    """Of `gradient.csv`, mean over folds: which parts share their largest latents beyond chance, then part by part."""
    whole = table[table["fold"] == "all"].set_index("part")
    said, found = [], {True: [], False: []}
    for part, row in whole.iterrows():
        name = PARTS[str(part)]
        if pd.isna(row["rank_r"]):
            said.append(f"{name} is not used")
            continue
        found[bool(row["overlap"] > row["chance_high"])].append(name)
        sign = "" if pd.isna(row["same_sign"]) else f"; {row['same_sign']:.0%} of these go the same way"
        said.append(
            f"{name}: rank correlation {measured(row, 'rank_r')}, and of its {row['top']:.0f} largest latents "
            f"{row['overlap']:.0%} are among as many of the gradient's ({row['overlap_low']:.0%} to "
            f"{row['overlap_high']:.0%}; by chance {row['chance']:.0%}, seldom over {row['chance_high']:.0%}){sign}"
        )
    ends = [(True, "Beyond chance for"), (False, "Not beyond chance for")]
    first = " ".join(f"{head} {', '.join(found[sure])}." for sure, head in ends if found[sure])
    asked = "Are the fit's largest latents those that the gradient points at?"
    return "\n".join([f"{asked} {first or 'Nothing is used.'}\n", *(f"- {one[:1].upper()}{one[1:]}." for one in said)])


def distances_sentence(near: pd.DataFrame) -> str:
    """Of `group_map_distances.csv`: how much of people the plane holds, and how far off each method's groups are."""
    whole = near[near["fold"] == "all"].set_index("method")
    folds = near[near["fold"] != "all"].groupby("method")["distance"].agg(["min", "max"]).to_dict("index")
    said = [
        f"{off:.3f} places under {prose(str(method))} (folds {folds[method]['min']:.3f} to {folds[method]['max']:.3f})"
        for method, off in whole["distance"].to_dict().items()
    ]
    return (
        f"The plane holds {whole['explained'].iloc[0]:.0%} of what sets people's groups apart. A group lies on average "
        f"{', '.join(said[:-1])} and {said[-1]} from where people of it stand."
        f"{_covered(whole['distance'])}"
    )


def _covered(distance: pd.Series) -> str:
    """How much of the way from the unsteered model's one spot to people each method goes; nothing without that spot."""
    if "unsteered" not in distance or len(distance) < 2:
        return ""
    rest = distance.drop("unsteered") / distance["unsteered"]
    said = ", ".join(f"{prose(str(name))} covers {100 * (1 - share):.0f}%" for name, share in rest.items())
    return f" Of the distance of the unsteered model, which puts all groups on one spot, {said}."


def distances_page(near: pd.DataFrame) -> Shown:
    """Of `group_map_distances.csv`, a row per map: all questions and each fold's; a column per method."""
    table = near.pivot(index="fold", columns="method", values="distance")[list(dict.fromkeys(near["method"]))]
    table.columns = [f"{label(str(method))} (places)" for method in table]
    held = near.groupby("fold")["explained"].first().map(lambda share: "" if pd.isna(share) else f"{share:.0%}")
    table.insert(0, "held by the plane", held)
    table.index = pd.Index(
        ["all" if fold == "all" else f"fold {fold}" for fold in table.index], name="questions of the map"
    )
    return typeset(
        table.sort_index(), "Mean distance from where people of a group stand to where a method puts it, map by map"
    )


def geometry_sentence(table: pd.DataFrame, of: str) -> str:
    """Of `geometry.csv`: party beside ideology, then which attributes lie on a line and which agree."""
    part = table[table["of"] == of]
    if not len(part):
        return "No attribute has groups with an order."
    lines, pairs = (part[part["statistic"] == name] for name in ("straightness", "cosine"))
    said = []
    both = pairs[pairs["attributes"] == "party and ideology"]
    if len(both):
        row = both.to_dict("records")[0]
        sure = "beyond" if row["p_holm"] < 0.05 else "not clearly beyond"
        said.append(
            f"The way from the first to the last party and that from the first to the last ideology have a cosine of "
            f"{row['value']:.2f} (folds {row['low']:.2f} to {row['high']:.2f}), {sure} chance once corrected "
            f"({tested(float(row['p']), float(row['p_holm']))})."
        )
    straight = "; ".join(
        f"{row['attributes']} {row['value']:.2f} against {row['chance']:.2f} of random groups "
        f"({tested(float(row['p']), float(row['p_holm']))})"
        for row in lines.to_dict("records")
    )
    said += [f"Straightness in order: {straight}."] if straight else []
    firm = [str(row.attributes) for row in pairs[pairs["p_holm"] < 0.05].itertuples()]
    said.append(f"Of {len(pairs)} pairs of attributes {len(firm)} point the same way beyond chance{named(firm)}.")
    return " ".join(said)


def tested(p: float, corrected: float) -> str:
    """'p = 0.021, corrected 0.279'."""
    said = ("< 0.001" if value < 0.001 else f"= {value:.3f}" for value in (p, corrected))
    return "p {}, corrected {}".format(*said).replace("corrected = ", "corrected ")


def named(names: list[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def likeness_sentence(table: pd.DataFrame) -> str:
    """Of `persona_likeness.csv`: whether the offset does what the persona prompt does, in all and in what is the
    group's own."""
    whole, groups = table.iloc[0], table.iloc[1:]
    alike = groups[groups["own_low"] > 0]["group"].tolist()
    against = groups[groups["own_high"] < 0]["group"].tolist()
    return (
        f"On {whole['n_questions']} questions the cosine of what the reading Δ and the persona prompt do to "
        f"the answers is {measured(whole, 'whole')}, and {measured(whole, 'own')} of what they do to a group beyond "
        f"the mean over groups. The prompt moves answers {whole['size_other'] / max(whole['size_one'], 1e-12):.1f} "
        f"times as far. "
        "Taken one by one, by uncorrected 95% intervals, the prompt and the offset move "
        f"{counted(len(alike), 'group')} of {len(groups)} the same way{named(alike)}, and {len(against)} in opposite "
        f"ways{named(against)}, beyond the mean over groups; of {len(groups)} such intervals about "
        f"{MISSED * len(groups):.1f} would leave 0 out by chance."
    )
