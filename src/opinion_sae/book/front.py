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
from opinion_sae.book.markdown import captioned
from opinion_sae.book.profile import model_name
from opinion_sae.book.recorded import read_fields
from opinion_sae.score.names import label

FRONT = ("delta", "delta-reading", "delta-reading-64", "random-dictionary", "dense-reading", "words")
SURE, UNSURE = {"supported": "better", "contradicted": "worse"}, "not supported"


def make_front(results: Path, figures: Path) -> dict[str, str]:
    """Draw `front.svg`; return `abstract` and `front_table` for the pages. Nothing of a run without group gaps."""
    if not (results / "gaps.csv").is_file():
        return {}
    gaps = with_seeds(results, "gaps", ("task", "method", "group"))
    save_svg(front_figure(front_rows(gaps)), figures / "front.svg")
    return {"abstract": abstract_of(results), "front_table": front_table(gaps)}


def abstract_of(results: Path) -> str:
    """`abstract` of the tables in a run's results folder."""
    gaps = with_seeds(results, "gaps", ("task", "method", "group"))
    about = read_fields(results / "run.json", {"profile": {"model": str, "hook_layer": int}})["profile"]
    return abstract(gaps, with_seeds(results, "gap_claims", ("method", "reference", "measure")), about)


def with_seeds(results: Path, name: str, keys: Sequence[str]) -> pd.DataFrame:
    """A table of a run: its rows over several seeds (`evaluate_<name>.csv`) if they are of the run's survey, model and
    SAE, as chapter 18 asks of them too; the run's own where they lack what `keys` say."""
    one, beside = read_csv(results / f"{name}.csv", ("method",)), results / "evaluate.json"
    seeds = Evaluated(results, "").table(name)
    if not len(seeds) or not beside.is_file():
        return one
    theirs, ours = (read_fields(path, {"hashes": {}})["hashes"] for path in (beside, results / "run.json"))
    if any(theirs.get(name) != ours.get(name, {}).get(name) for name in ("data", "model", "sae")):
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
        lines.append(f"| {label(str(method))} | {' | '.join(measured(row, measure) for measure in MEASURES)} |")
    return captioned(f"On held-out questions, from toplines, with 95% intervals{over}", lines)


def beside(claims: pd.DataFrame, reference: str, than: str, method: str = "delta-reading") -> str:
    """What the tests say of a method beside a reference, which the sentence calls `than`; what is sure comes first."""
    rows = claims[(claims["method"] == method) & (claims["reference"] == reference)]
    verdicts = rows.set_index("measure").loc[list(MEASURES), "verdict"]
    by_r, by_kl = verdicts
    if by_r == by_kl:
        if by_r == UNSURE:
            return f"is not shown to differ from {than} on either measure"
        return f"does {SURE[by_r]} than {than} on both measures"
    said = sorted(zip(verdicts, ("correlation", "KL"), strict=True), key=lambda pair: pair[0] == UNSURE)
    (first, measure), (second, other) = said
    rest = "no difference is shown" if second == UNSURE else SURE[second]
    return f"does {SURE[first]} than {than} by {measure}, and by {other} {rest}"


def seeds_of(claims: pd.DataFrame, method: str, reference: str) -> str:
    """Over how many seeds a method was tested against a reference."""
    rows = claims[(claims["method"] == method) & (claims["reference"] == reference)]
    seeds = int(rows["n_seeds"].min())
    return f"{seeds} seeds" if seeds > 1 else "one seed"


def abstract(gaps: pd.DataFrame, claims: pd.DataFrame, about: Mapping[str, Any]) -> str:
    """Four sentences, a line each: what was done, what was found, of what it is made, what words alone do and what the
    model adds to them. What a gap is, and of what KL a share is closed, is said where it comes first.

    `about` is the profile in `run.json`.
    """
    rows = front_rows(gaps)
    r, closed = ({method: plain(value) for method, value in rows[measure].items()} for measure in MEASURES)
    sure = {method: measured(row, "gap_r") for method, row in rows.iterrows()}
    groups = gaps.loc[gaps["group"] != "all", "group"].nunique()
    model, layer, n = model_name(about["model"]), about["hook_layer"], gaps["n_questions"].max()
    read, few, dense, drawn = "delta-reading", "delta-reading-64", "dense-reading", "random-dictionary"
    added, of_kl = (float(overall(gaps)[measure].to_dict()["words+direct"]) for measure in MEASURES)
    return "\n".join(
        [
            f"We fitted offsets Δ on the latents of a sparse autoencoder, after layer {layer} of {model}, to how "
            f"{groups} groups of people answered surveys, and predicted each group's gap on {n} held-out questions: "
            "its mean place on the scale of options minus everybody's.",
            f"An offset that reads the question predicts gaps with correlation {sure[read]} and closes "
            f"{closed[read]} of the KL divergence between everybody's answers and the group's; it "
            f"{beside(claims, 'delta', 'one that is the same for every question')} "
            f"({r['delta']} and {closed['delta']}).",
            f"With at most 64 latents read per axis these are {r[few]} and {closed[few]}; the reading offset "
            f"{beside(claims, dense, 'its like without an autoencoder')} ({r[dense]} and {closed[dense]}), and "
            f"{beside(claims, drawn, 'one on random directions')} ({r[drawn]} and {closed[drawn]}).",
            f"The question's words alone, with no language model, reach {sure['words']} and {closed['words']}: "
            f"the reading offset {beside(claims, 'words', 'them')}, and a read-out of words and latents "
            f"({plain(added)} and {plain(of_kl)}) {beside(claims, 'words', 'words alone', 'words+direct')} "
            f"({seeds_of(claims, read, 'words')}, 95% intervals over questions, corrected tests).",
        ]
    )
