"""The claims page: what this run supports, written from the claims table, so that a rerun can change a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from opinion_sae.methods.controls import others_scores
from opinion_sae.score.metrics import score
from opinion_sae.score.statistics import Claim
from opinion_sae.survey import Survey

MARGIN = 0.005  # nats; about a hundredth of the unsteered model's KL on the default surveys

CONTROLS, MATRIX, LONG = "fig-controls", "fig-transfer", "make evaluate"
CLAIMS = (
    Claim("On new questions, Δ is closer to the groups than the unsteered model is.", "delta", "unsteered"),
    Claim("So is one offset shared by all groups.", "shared-delta", "unsteered"),
    Claim("Δ does better than the same share for every option.", "delta", "uniform"),
    Claim("Δ does better than the group's mean answer by option position.", "delta", "position-prior"),
    Claim("Δ does better than temperature and biases fitted to each group.", "delta", "calibrated"),
    Claim(
        "The group's own part adds to what one shared offset gives.",
        "delta",
        "shared-delta",
        figure="fig-delta-over-shared",
    ),
    Claim(
        "That gain is the group's: it is larger than with shuffled group labels.",
        "delta",
        "shuffled-groups",
        figure=CONTROLS,
    ),
    Claim("A group is served better by its own Δ than by the others'.", "delta", "other-delta", figure=MATRIX),
    Claim("And better than by those of its attribute's other groups.", "delta", "sibling-delta", figure=MATRIX),
    Claim("It matters which latents Δ is on.", "delta", "random-latents", figure=CONTROLS),
    Claim("It matters which latents the group's own part is on.", "delta", "random-latents-deviation", figure=CONTROLS),
    Claim("It matters which way the group's own part points.", "delta", "sign-flip-deviation", figure=CONTROLS),
    Claim(
        "The SAE's own decoder does better than its rows permuted.", "shared-delta", "permuted-decoder", figure=CONTROLS
    ),
    Claim("It helps to train the SAE along with Δ.", "delta-joint", "delta"),
    Claim("Δ with doses and sparsity chosen on validation does better than Δ as fitted.", "delta-selected", "delta"),
    Claim("So chosen, it does better than the same share for every option.", "delta-selected", "uniform"),
    Claim("So chosen, it does better than the mean answer by option position.", "delta-selected", "position-prior"),
    Claim("So chosen, it does better than temperature and biases.", "delta-selected", "calibrated"),
    Claim(f"Δ is no worse than a dense vector, by a margin of {MARGIN} nats.", "delta", "dense", MARGIN),
    Claim("Δ does better than the difference of persona means.", "delta", "diff-means"),
    Claim(f"Δ is no worse than a trained unembedding, by a margin of {MARGIN} nats.", "delta", "unembedding", MARGIN),
    Claim(f"Δ is no worse than a linear probe at its layer, by a margin of {MARGIN} nats.", "delta", "probe", MARGIN),
    Claim(
        "Δ does better than a persona prompt in the style chosen on validation.", "delta", "prompt-best", command=LONG
    ),
    Claim("Δ does better than examples of the group's answers in the prompt.", "delta", "few-shot", command=LONG),
    Claim(
        f"Δ is no worse than LoRA over prompts that name the group, by a margin of {MARGIN} nats.",
        "delta",
        "lora",
        MARGIN,
        command=LONG,
    ),
    Claim("Δ helps on topics that it was not fitted to.", "delta-by-topic", "unsteered", command=LONG),
    Claim(
        "There the group's own part still adds to the shared offset.",
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
    cells = {name: [score(survey, table).kl for table in seeds] for name, seeds in tables.items()}
    for table in tables.get("delta", []):
        for name, scores in others_scores(survey, table).items():
            cells.setdefault(name, []).append(scores.kl)
    return cells


def claims_page(claims: Sequence[Claim], table: pd.DataFrame) -> str:
    """MyST text: a table of verdicts, one claim a row, and what differs between groups; then claims not tested.

    `table` is that of `claims_table`. Effects are differences in KL, method minus reference; below zero is better.
    """
    tested = table[table["group"] == "all"].set_index("claim")
    effect = "KL, method minus reference (nats), 95% interval"
    columns = ["Claim", "Verdict", effect, "Questions", "Seeds", "p (Holm)", "From"]
    lines = ["| " + " | ".join(columns) + " |", "| :-- | :-- | :-- | --: | --: | --: | :-- |"]
    for claim in claims:
        if claim.sentence in tested.index:
            lines.append(_row(claim, tested.loc[claim.sentence]))
    parts = ["\n".join(lines), _counts(tested)]
    groups = [_groups(claim, table) for claim in claims]
    parts += ["**Group by group**", "\n".join(line for line in groups if line)] if any(groups) else []
    missing = [claim for claim in claims if claim.sentence not in tested.index]
    if missing:
        lines = [f"- {claim.sentence} (`{claim.method}` against `{claim.reference}`)" for claim in missing]
        parts += ["**Not tested here**", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _row(claim: Claim, row: pd.Series) -> str:
    cells = [
        claim.sentence,
        f"**{row['verdict']}**",
        interval(row),
        str(row["n_questions"]),
        str(row["n_seeds"]),
        _p(row["p_holm"]),
        f"{{numref}}`{claim.figure}`, `{claim.command}`",
    ]
    return "| " + " | ".join(cells) + " |"


def interval(row: pd.Series) -> str:
    """'-0.012 (-0.020 to -0.004)'; without an interval, why."""
    if pd.isna(row["low"]):
        return "too few questions for an interval"
    return f"{row['effect']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"


def _p(p: float) -> str:
    return "none" if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _counts(tested: pd.DataFrame) -> str:
    of = tested["verdict"].value_counts()
    return (
        f"Of {len(tested)} claims tested, {of.get('supported', 0)} are supported, {of.get('mixed', 0)} mixed and "
        f"{of.get('not supported', 0)} not supported."
    )


def _groups(claim: Claim, table: pd.DataFrame) -> str:
    """Where the groups differ: which of them support the claim, and in which it is the other way round."""
    rows = table[(table["claim"] == claim.sentence) & (table["group"] != "all")]
    sure = rows["p_holm"] < 0.05
    better = rows["group"][rows["verdict"] == "supported"].tolist()
    worse = rows["group"][sure & (rows["low"] > rows["margin"])].tolist()
    if not len(rows) or not better and not worse:
        return ""
    others = [group for group in rows["group"] if group not in better]
    named = better if len(better) <= len(others) else ["not " + ", ".join(others)] if others else ["all"]
    said = [f"supported for {len(better)} of {len(rows)} groups ({', '.join(named)})"] if better else []
    said += [f"the other way round for {', '.join(worse)}"] if worse else []
    return f"- {claim.sentence[:-1]}: {'; '.join(said)}."


def reviewers_page(table: pd.DataFrame) -> str:
    """MyST text: what reviewers of the original paper asked, answered from the claims table."""
    tested = table[table["group"] == "all"].set_index("claim")
    groups = table.loc[table["group"] != "all", "group"].nunique()
    supported = (tested["verdict"] == "supported").sum()
    answers = {
        "What was actually done?": (
            f"Δ was fitted and scored on {tested['n_questions'].max()} questions and {groups} groups, each question by an "
            f"offset fitted without it. Of the claims above, {supported} of {len(tested)} hold in this run. "
            "{doc}`/reproduce` gives the commands."
        ),
        "Why such heavy notation?": "{doc}`/method` has the whole method on one page.",
        "Where are the results on diverse viewpoints?": _on_groups(table),
        "How does it relate to Anthropic's feature-steering study?": (
            "That study turned single features of a large model up and down by hand and watched the answers; here an "
            "offset on many latents is fitted to survey answers and scored on other questions. {doc}`/related` says more."
        ),
    }
    return "\n\n".join(f"**{question}**\n{answer}" for question, answer in answers.items()) + "\n"


def _on_groups(table: pd.DataFrame) -> str:
    rows = table[(table["method"] == "delta") & (table["reference"] == "shared-delta") & (table["group"] != "all")]
    if not len(rows):
        return "This run has none: no group's own offset was compared with the shared one."
    better = rows["group"][rows["verdict"] == "supported"].tolist()
    found = f"for {len(better)} of {len(rows)} groups" + (f" ({', '.join(better)})" if better else "")
    return (
        "Group by group in {doc}`/chapters/07_alignment`. Beyond one offset shared by all, the group's own part brings the "
        f"answers closer {found}, corrected for the number of groups."
    )
