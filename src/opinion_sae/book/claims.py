"""The claims page: what this run supports, written from the claims table, so that a rerun can change a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from opinion_sae.book.markdown import captioned
from opinion_sae.book.sentences import count_verdicts, with_ends
from opinion_sae.score.metrics import score
from opinion_sae.score.names import prose
from opinion_sae.score.statistics import Claim
from opinion_sae.survey import Survey

MARGIN = 0.005  # nats; about a ninetieth of the unsteered model's KL on the default surveys

UNUSED = "**not used**: in no fit was the part kept"
CONTROLS, MATRIX, LONG = "fig-controls", "fig-transfer", "make evaluate"


def _better(method: str, reference: str, command: str = "make book") -> Claim:
    return Claim(f"{prose(method)} does better than {prose(reference)}.", method, reference, command=command)


def _no_worse(reference: str, command: str = "make book") -> Claim:
    sentence = f"Δ is no worse than {prose(reference)}, by a margin of {MARGIN} nats."
    return Claim(sentence, "delta", reference, MARGIN, command=command)


CLAIMS = (
    Claim("On new questions, Δ is closer to the groups than the unsteered model is.", "delta", "unsteered"),
    Claim(
        "One offset shared by all groups is closer to them than the unsteered model is.", "shared-delta", "unsteered"
    ),
    _better("delta", "uniform"),
    _better("delta", "position-prior"),
    _better("delta", "calibrated"),
    Claim(
        "The group's own part adds to what one shared offset gives.",
        "delta",
        "shared-delta",
        figure="fig-delta-over-shared",
    ),
    Claim(
        "What the own part adds is the group's: it is more than with shuffled group labels.",
        "delta",
        "shuffled-groups",
        figure=CONTROLS,
    ),
    Claim("A group is served better by its own Δ than by the other groups'.", "delta", "other-delta", figure=MATRIX),
    Claim("And better than by those of its attribute's other groups.", "delta", "sibling-delta", figure=MATRIX),
    Claim("It matters which latents Δ is on.", "delta", "random-latents", figure=CONTROLS),
    Claim("It matters which latents the group's own part is on.", "delta", "random-latents-deviation", figure=CONTROLS),
    Claim("It matters which way the group's own part points.", "delta", "sign-flip-deviation", figure=CONTROLS),
    Claim(
        "The SAE's own decoder does better than its rows permuted.", "shared-delta", "permuted-decoder", figure=CONTROLS
    ),
    Claim("It helps to train the SAE along with Δ.", "delta-joint", "delta"),
    _better("delta-selected", "delta"),
    _better("delta-selected", "uniform"),
    _better("delta-selected", "position-prior"),
    _better("delta-selected", "calibrated"),
    _no_worse("dense"),
    _better("delta", "diff-means"),
    _no_worse("unembedding"),
    _no_worse("probe"),
    _better("delta", "prompt-best", command=LONG),
    _better("delta", "few-shot", command=LONG),
    _no_worse("lora", LONG),
    Claim("Δ helps on topics that it was not fitted to.", "delta-by-topic", "unsteered", command=LONG),
    Claim(
        "On topics that Δ was not fitted to, its own part for the group adds to the shared offset.",
        "delta-by-topic",
        "shared-delta-by-topic",
        command=LONG,
    ),
    Claim("Δ helps on a survey that it was not fitted to.", "delta-by-survey", "unsteered", command=LONG),
    Claim(
        "Its attribute's other groups say something about a group left out.",
        "left-out-sibling",
        "left-out-shared",
        command=LONG,
    ),
)


def kl_cells(
    survey: Survey, tables: Mapping[str, Sequence[Float[np.ndarray, "_ question option"]]]
) -> dict[str, list[Float[np.ndarray, "group question"]]]:
    """KL by method, one array per seed, for `claims_table`; with 'other-delta' and 'sibling-delta' if 'delta' is there.

    `tables` holds held-out log p by method, one table per seed.
    """
    from opinion_sae.methods.controls import others_scores  # torch takes a second to import

    cells = {name: [score(survey, table).kl for table in seeds] for name, seeds in tables.items()}
    for table in tables.get("delta", []):
        for name, scores in others_scores(survey, table).items():
            cells.setdefault(name, []).append(scores.kl)
    return cells


def claims_page(claims: Sequence[Claim], table: pd.DataFrame) -> str:
    """MyST text: a table of verdicts, one claim a row, and what differs between groups; then claims not tested.

    `table` is that of `claims_table`; a claim's rows are those of its method and reference. Effects are differences in
    KL, method minus reference; below zero is better.
    """
    tested = _overall(table)
    effect = "KL, method minus reference (nats), 95% interval"
    columns = ["Claim", "Verdict on the mean over groups", effect, "Questions", "Seeds", "p (Holm)", "From"]
    lines = ["| " + " | ".join(columns) + " |", "| :-- | :-- | :-- | --: | --: | --: | :-- |"]
    found = [claim for claim in claims if _pair(claim) in tested.index]
    lines += [_row(claim, tested.loc[_pair(claim)], _of_groups(claim, table)) for claim in found]
    parts = [captioned("Each claim, and what the mean over groups says of it", lines)]
    groups = [_groups(claim, _of_groups(claim, table)) for claim in claims]
    parts += ["**Group by group**", "\n".join(line for line in groups if line)] if any(groups) else []
    missing = [claim for claim in claims if claim not in found]
    if missing:
        lines = [f"- {claim.sentence} (`{claim.method}` against `{claim.reference}`)" for claim in missing]
        parts += ["**Not tested here**", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _pair(claim: Claim) -> tuple[str, str]:
    return claim.method, claim.reference


def _overall(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the mean over groups, by method and reference."""
    return table[table["group"] == "all"].set_index(["method", "reference"])


def _of_groups(claim: Claim, table: pd.DataFrame) -> pd.DataFrame:
    ours = (table["method"] == claim.method) & (table["reference"] == claim.reference)
    return table[ours & (table["group"] != "all")]


def _row(claim: Claim, row: pd.Series, of_groups: pd.DataFrame) -> str:
    same = row["effect"] == row["low"] == row["high"] == 0  # to the bit: what is claimed to help was in no fit kept
    cells = [
        claim.sentence,
        UNUSED if same else _verdict(row["verdict"], of_groups["verdict"].tolist()),
        interval(row),
        str(row["n_questions"]),
        str(row["n_seeds"]),
        _p(row["p_holm"]),
        f"{{numref}}`{claim.figure}`, `{claim.command}`",
    ]
    return "| " + " | ".join(cells) + " |"


def _verdict(overall: str, of_groups: Sequence[str]) -> str:
    """'**supported** on average, singly for 20 of 22 groups': the mean's verdict, and how many groups show it."""
    count, n = {one: of_groups.count(one) for one in ("supported", "contradicted")}, len(of_groups)
    if overall == "mixed":
        return f"**mixed**: supported for {count['supported']} of {n} groups, contradicted for {count['contradicted']}"
    if overall in count:
        return f"**{overall}** on average, singly for {count[overall]} of {n} groups"
    return f"**{overall}**"


def interval(row: pd.Series) -> str:
    """'-0.012 (-0.020 to -0.004)', with as many digits as that needs; without an interval, why."""
    if pd.isna(row["low"]):
        return "too few questions for an interval"
    return with_ends(row["effect"], row["low"], row["high"], 3)


def _p(p: float) -> str:
    return "none" if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _groups(claim: Claim, rows: pd.DataFrame) -> str:
    """Where the groups differ: which of them support the claim, and which contradict it."""
    said = []
    for verdict in ("supported", "contradicted"):
        those = rows["group"][rows["verdict"] == verdict].tolist()
        others = [group for group in rows["group"] if group not in those]
        named = those if len(those) <= len(others) else ["not " + ", ".join(others)] if others else ["all"]
        said += [f"{verdict} for {len(those)} of {len(rows)} groups ({', '.join(named)})"] if those else []
    return f"- {claim.sentence[:-1]}: {'; '.join(said)}." if said else ""


def reviewers_page(table: pd.DataFrame) -> str:
    """MyST text: what reviewers of the original paper asked, answered from the claims table."""
    tested = _overall(table)
    groups = table.loc[table["group"] != "all", "group"].nunique()
    answers = {
        "What was actually done?": (
            f"Δ was fitted and scored on {tested['n_questions'].max()} questions and {groups} groups, each question by "
            f"an offset fitted without it. In this run, of {len(tested)} claims, {count_verdicts(tested['verdict'])}. "
            "Offsets that read the question are tested on group differences, in {doc}`/chapters/18_group_gaps`. "
            "{doc}`/reproduce` gives the commands."
        ),
        "Why such heavy notation?": "{doc}`/method` has the whole method in a few equations.",
        "Where are the results on diverse viewpoints?": _on_groups(table),
        "How does it relate to Anthropic's feature-steering study?": (
            "That study turned single features of a large model up and down by hand and watched the answers; here an "
            "offset on many latents is fitted to survey answers and scored on other questions. {doc}`/related` says "
            "more."
        ),
    }
    return "\n\n".join(f"**{question}**\n{answer}" for question, answer in answers.items()) + "\n"


def _on_groups(table: pd.DataFrame) -> str:
    rows = table[(table["method"] == "delta") & (table["reference"] == "shared-delta") & (table["group"] != "all")]
    if not len(rows):
        return "This run has none: no group's own offset was compared with the shared one."
    closer, further = (rows["group"][rows["verdict"] == name].tolist() for name in ("supported", "contradicted"))
    found = f"closer for {len(closer)} of {len(rows)} groups" + (f" ({', '.join(closer)})" if closer else "")
    found += f" and takes them further away for {len(further)} ({', '.join(further)})" if further else ""
    return (
        "Group by group in {doc}`/chapters/07_alignment`. Beyond one offset shared by all, the group's own part brings "
        f"the answers {found}, corrected for the number of groups. How far an offset that reads the question tells "
        "groups apart is in {doc}`/chapters/18_group_gaps`."
    )
