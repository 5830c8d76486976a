"""The first page: what was done, what was found and how sure it is, in four sentences, six rows and one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from opinion_sae.artifacts import read_csv
from opinion_sae.book.evaluated import Evaluated
from opinion_sae.book.figures.gaps import front_figure
from opinion_sae.book.figures.style import save_svg
from opinion_sae.book.gap_claims import MEASURES
from opinion_sae.book.gap_report import measured, overall, plain
from opinion_sae.book.leaders import load_leaderboard, turned_sentence
from opinion_sae.book.markdown import captioned
from opinion_sae.book.profile import model_name
from opinion_sae.book.recorded import read_fields
from opinion_sae.book.typeset import unbroken
from opinion_sae.score.names import label, prose

FRONT = ("delta", "delta-reading", "delta-reading-64", "random-dictionary", "dense-reading", "words")
TOLD = ("prompt-best", "lora")  # by a text before the question, chosen on validation; by that and an adapter
SURE, UNSURE = {"supported": "better", "contradicted": "worse"}, "not supported"


def make_front(results: Path, figures: Path) -> dict[str, str]:
    """Draw `front.svg`; return `abstract`, `front_table`, `told` and what the leaderboard says of options in reverse,
    `turned`, for the pages. Nothing of a run without group gaps."""
    if not (results / "gaps.csv").is_file():
        return {}
    gaps = with_seeds(results, "gaps", ("task", "method", "group"))
    save_svg(front_figure(front_rows(gaps)), figures / "front.svg")
    turned = turned_sentence(load_leaderboard(results)[0])
    said = told(gaps, with_seeds(results, "gap_claims", ("method", "reference", "measure")))
    return {"abstract": abstract_of(results), "front_table": front_table(gaps), "turned": turned, "told": said}


def abstract_of(results: Path) -> str:
    """`abstract` of the tables in a run's results folder."""
    gaps = with_seeds(results, "gaps", ("task", "method", "group"))
    about = read_fields(results / "run.json", {"profile": {"model": str, "hook_layer": int}})["profile"]
    claims = with_seeds(results, "gap_claims", ("method", "reference", "measure"))
    splits = Evaluated(results, "").table("splits") if evaluated_too(results) else gaps.iloc[:0]
    return abstract(gaps, claims, about, splits)


def evaluated_too(results: Path) -> bool:
    """Whether `make evaluate` left tables of the run's survey, model and SAE, as chapter 18 asks of them too."""
    if not (beside := results / "evaluate.json").is_file():
        return False
    theirs, ours = (read_fields(path, {"hashes": {}})["hashes"] for path in (beside, results / "run.json"))
    return all(theirs.get(name) == ours.get(name, {}).get(name) for name in ("data", "model", "sae"))


def with_seeds(results: Path, name: str, keys: Sequence[str]) -> pd.DataFrame:
    """A table of a run: its rows over several seeds (`evaluate_<name>.csv`) if there are such (`evaluated_too`); the
    run's own where they lack what `keys` say."""
    one, seeds = read_csv(results / f"{name}.csv", ("method",)), Evaluated(results, "").table(name)
    if not len(seeds) or not evaluated_too(results):
        return one
    return pd.concat([seeds, one]).drop_duplicates(list(keys), ignore_index=True)


def front_rows(gaps: pd.DataFrame) -> pd.DataFrame:
    """The rows of `gaps.csv` that the first page shows: task from toplines, all groups; by method."""
    return overall(gaps).loc[list(FRONT)]


def front_table(gaps: pd.DataFrame) -> str:
    """A row per method of `FRONT`."""
    lines, rows = ["| Method | Gap correlation | Group KL closed |", "| :-- | --: | --: |"], front_rows(gaps)
    seeds = int(rows["n_seeds"].max())
    over = f", over {seeds} seeds where there is something to draw" if seeds > 1 else ""
    for method, row in rows.iterrows():
        lines.append(f"| {label(str(method))} | {' | '.join(unbroken(measured(row, one)) for one in MEASURES)} |")
    return captioned(f"On held-out questions, from toplines, with 95% intervals{over}", lines)


def verdicts_of(claims: pd.DataFrame, reference: str, method: str = "delta-reading") -> tuple[str, str]:
    """What the tests say of a method beside a reference, by correlation and by KL."""
    rows = claims[(claims["method"] == method) & (claims["reference"] == reference)]
    by_r, by_kl = rows.set_index("measure").loc[list(MEASURES), "verdict"]
    return by_r, by_kl


def beside(claims: pd.DataFrame, reference: str, than: str, method: str = "delta-reading") -> str:
    """The same as part of a sentence, which calls the reference `than`; what is sure comes first."""
    by_r, by_kl = verdicts_of(claims, reference, method)
    if by_r == by_kl:
        if by_r == UNSURE:
            return f"is not shown to differ from {than} on either measure"
        return f"does {SURE[by_r]} than {than} on both measures"
    said = sorted(zip((by_r, by_kl), ("correlation", "KL"), strict=True), key=lambda pair: pair[0] == UNSURE)
    (first, measure), (second, other) = said
    rest = "no difference is shown" if second == UNSURE else SURE[second]
    return f"does {SURE[first]} than {than} by {measure}, and by {other} {rest}"


def told(gaps: pd.DataFrame, claims: pd.DataFrame) -> str:
    """How well the model tells groups apart that is told of which group it is to be, by a prompt or an adapter too,
    and whether reading does better; what is missing where neither was asked all questions."""
    rows, said = overall(gaps), []
    for method, row in rows.loc[[name for name in TOLD if name in rows.index]].iterrows():
        than = f"{prose(str(method))} ({measured(row, 'gap_r')} and {plain(row['group_kl_closed'])})"
        said.append(f"{prose('delta-reading')} {beside(claims, str(method), than)}")
    if not said:
        return "`make evaluate` asks the model that is told of its group, and has not been run here."
    return f"Beside a model that is told of its group: {'; '.join(said)}."


def without(claims: pd.DataFrame, reference: str) -> str:
    """What is lost without a part of the reading offset, the reference being the offset that lacks it: 'worse by KL'
    where no difference by correlation is shown."""
    lost = {"supported": "worse", "contradicted": "better", UNSURE: "not shown to differ"}
    by_r, by_kl = (lost[verdict] for verdict in verdicts_of(claims, reference))
    if by_r == by_kl:
        return by_r if by_r == lost[UNSURE] else f"{by_r} by both"
    said = [f"{by_r} by correlation", f"{by_kl} by KL"]
    return ", ".join(part for part in said if not part.startswith(lost[UNSURE]))


def unseen(splits: pd.DataFrame, method: str = "delta-reading") -> str:
    """Both measures on topics and on a survey that no fit saw, and whether the toplines alone would have been nearer;
    nothing where they were not taken."""
    said = []
    for split, where in (("topic", "unseen topics"), ("survey", "another survey")):
        rows = splits[splits["method"] == f"{method}-by-{split}"]
        found = overall(rows[rows["split"] == split]) if len(rows) else rows
        if not len(found):
            return ""
        row = found.iloc[0]
        nearer = ", worse than everybody's answers" if row["group_kl_closed_high"] < 0 else ""
        said.append(f"on {where} {plain(row['gap_r'])} and {plain(row['group_kl_closed'])}{nearer}")
    return f"; {', '.join(said)}"


def seeds_of(claims: pd.DataFrame, method: str, reference: str) -> str:
    """Over how many seeds a method was tested against a reference."""
    rows = claims[(claims["method"] == method) & (claims["reference"] == reference)]
    seeds = int(rows["n_seeds"].min())
    return f"{seeds} seeds" if seeds > 1 else "one seed"


def abstract(gaps: pd.DataFrame, claims: pd.DataFrame, about: Mapping[str, Any], splits: pd.DataFrame) -> str:
    """Four sentences, a line each: what was done, what was found and how far it holds, of what it is made, what words
    alone do and what the model adds to them. What a gap is, and of what KL a share is closed, is said where it comes
    first.

    `about` is the profile in `run.json`; `splits`, of `evaluate_splits.csv`, may be without rows.
    """
    rows = front_rows(gaps)
    r, closed = ({method: plain(value) for method, value in rows[measure].items()} for measure in MEASURES)
    sure = {method: measured(row, "gap_r") for method, row in rows.iterrows()}
    groups = gaps.loc[gaps["group"] != "all", "group"].nunique()
    model, layer, n = model_name(about["model"]), about["hook_layer"], gaps["n_questions"].max()
    read, few, dense, drawn = "delta-reading", "delta-reading-64", "dense-reading", "random-dictionary"
    added, of_kl = (float(overall(gaps)[measure].to_dict()["words+direct"]) for measure in MEASURES)
    seeds = seeds_of(claims, read, "words")
    return "\n".join(
        [
            f"We fitted offsets Δ on the latents of a sparse autoencoder, after layer {layer} of {model}, to how "
            f"{groups} groups of people answered surveys, and predicted, given everybody's answers, each group's gap "
            f"on {n} held-out questions: its mean place on the scale of options minus everybody's.",
            f"An offset that reads the question predicts gaps with correlation {sure[read]} and closes "
            f"{closed[read]} of the KL divergence between everybody's answers and the group's, and "
            f"{beside(claims, 'delta', 'one that is the same for every question')} "
            f"({r['delta']} and {closed['delta']}){unseen(splits)}.",
            f"With at most 64 latents read per axis these are {r[few]} and {closed[few]}; without an autoencoder "
            f"{r[dense]} and {closed[dense]} ({without(claims, dense)}); on random directions {r[drawn]} and "
            f"{closed[drawn]} ({without(claims, drawn)}).",
            f"The question's words alone, with no model, reach {sure['words']} and {closed['words']}: "
            f"the reading offset {beside(claims, 'words', 'them')}, and a read-out of words and latents "
            f"({plain(added)} and {plain(of_kl)}) {beside(claims, 'words', 'words alone', 'words+direct')} "
            f"({seeds}, 95% intervals, corrected tests).",
        ]
    )
