"""Write what the README opens with, and `book/every-result.md`, from the committed tables of the published runs.

python tools/readme_table.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from opinion_sae.artifacts import read_json, replacing
from opinion_sae.book.claims import CLAIMS
from opinion_sae.book.evaluated import Evaluated, seeds_sentence
from opinion_sae.book.execute import products
from opinion_sae.book.front import abstract_of, make_front
from opinion_sae.book.gap_claims import gap_claims_page
from opinion_sae.book.gap_report import gaps_sentence, pair_sentence
from opinion_sae.book.markdown import captioned
from opinion_sae.book.profile import model_name
from opinion_sae.book.report import kept_epochs, own_part, verdict
from opinion_sae.book.sentences import claims_counted, count_verdicts, with_ends
from opinion_sae.score.names import prose
from opinion_sae.score.statistics import verdicts

ROOT = Path(__file__).parents[1]
START, END = "<!-- numbers: python tools/readme_table.py -->\n", "<!-- end of numbers -->\n"
PAGE = ROOT / "book" / "every-result.md"
HEAD = "| What the run shows (KL in nats, 95% intervals over questions) | Figure | Chapter | Time |"


def claims(results: Path) -> list[tuple[str, str, str]]:
    """Each claim with its numbers, the figure that draws it and the chapter that computes it."""
    numbers = read_json(results / "numbers.json")
    table = {name: pd.read_csv(results / f"{name}.csv") for name in ("alignment", "comparisons", "surveys")}
    kl = _overall(table["alignment"]).set_index("method")["kl"]
    pairs = _overall(table["comparisons"]).set_index(["method", "reference"])
    surveys, kept = table["surveys"], kept_epochs(pd.read_csv(results / "delta_history.csv")).loc["delta"]
    used = (kept["own part, epoch"] != "not used").sum()

    def difference(method: str, reference: str) -> str:
        row = pairs.loc[(method, reference)]
        return f"{row['kl_difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"

    above = (surveys["tv_low"] > surveys["floor"]).sum()
    return [
        (
            f"{above} of {len(surveys)} groups differ from all respondents by more than sampling alone would show",
            "mean distance of each group",
            "01_surveys",
        ),
        (
            f"Equal shares, the same for every option, have a KL of {kl['uniform']:.3f}, the unsteered model {kl['unsteered']:.3f}",
            "methods by KL (chapter 07)",
            "02_unsteered",
        ),
        (
            f"The SAE leaves {numbers['sae_fvu']} of the variance of held-out text unexplained and recovers "
            f"{numbers['ce_recovered']} of the loss",
            "training the SAE",
            "03_sae",
        ),
        (
            f"One offset for all groups, against none: {difference('shared-delta', 'unsteered')}",
            "methods by KL (chapter 07)",
            "04_delta",
        ),
        (
            f"Offsets with the groups' own part, which {used} of {len(kept)} folds use, against it: "
            + difference("delta", "shared-delta"),
            "Δ over Δ_shared",
            "04_delta",
        ),
        (
            f"Δ against {prose('dense')}, fitted with the same loss: {difference('delta', 'dense')}",
            "methods by KL (chapter 07)",
            "04_delta",
        ),
        (
            f"With the SAE trained along, against Δ alone: {difference('delta-joint', 'delta')}",
            "joint training",
            "05_joint",
        ),
        (
            f"Δ against {prose('position-prior')}, which reads no question: {difference('delta', 'position-prior')}",
            "methods by KL (chapter 07)",
            "06_controls",
        ),
        (_few_latents(pd.read_csv(results / "path.csv")), "few latents", "08_budget"),
        (
            f"{pd.read_csv(results / 'fixed_part.csv')['constant share'].mean():.1%} of what Δ adds to the residual "
            "stream is the same for every question",
            "how much of Δ is fixed (a table)",
            "09_latents",
        ),
        (
            _half_strength(pd.read_csv(results / "side_effects.csv"), kl["uniform"]),
            "loss against gain",
            "12_side_effects",
        ),
    ]


def _overall(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["group"] == "all"]


def _half_strength(effects: pd.DataFrame, uniform: float) -> str:
    """What a dose costs on the plain passages, and what it is left with beside equal shares."""
    value = _overall(effects).set_index(["method", "quantity"])["value"]
    return (
        f"At full strength Δ multiplies the perplexity of plain text by {value['delta', 'perplexity_ratio']:.2f}; at half "
        f"strength by {value['delta-half', 'perplexity_ratio']:.2f}, with a KL of {value['delta-half', 'kl']:.3f} where "
        f"{prose('uniform')} have {uniform:.3f}"
    )


def _few_latents(path: pd.DataFrame) -> str:
    path = _overall(path).sort_values("latents", ascending=False)
    refitted, dense = path[path["method"] == "refitted"], path[path["method"] == "dense"]
    found = ", ".join(f"{row.kl:.3f} at {row.latents:.0f}" for row in refitted.itertuples())
    return (
        f"Cut to few latents per group and refitted, Δ has a KL of {found}; a dense vector of the same norm: "
        + ", ".join(f"{kl:.3f}" for kl in dense["kl"])
    )


def markdown(results: Path) -> str:
    """A table, a row per claim, with the wall time of the chapter that computes it."""
    times = read_json(results / "run.json")["notebooks"]
    rows = [
        f"| {claim} | {figure} | `{chapter}` | {times[chapter]['seconds']:.0f} s |"
        for claim, figure, chapter in claims(results)
    ]
    said = "What the default run shows, where, and how long its chapter takes"
    return captioned(said, [HEAD, "| :-- | :-- | :-- | --: |", *rows])


class Run:
    """What the paragraphs need of one published run."""

    def __init__(self, results: Path):
        self.results, self.run = results, read_json(results / "run.json")
        self.pairs = _overall(self.table("comparisons")).set_index(["method", "reference"], drop=False)
        rows = [self.table(name) for name in ("alignment", "evaluate") if (results / f"{name}.csv").is_file()]
        self.kl = _overall(pd.concat(rows).drop_duplicates(["method", "group"])).set_index("method")["kl"]

    def table(self, name: str) -> pd.DataFrame:
        return pd.read_csv(self.results / f"{name}.csv")

    def claims(self, name: str) -> pd.DataFrame:
        table = self.table(name)
        table["verdict"] = verdicts(table)
        return _overall(table).set_index(["method", "reference"])

    def have(self, *methods: str) -> str:
        return ", ".join(f"{prose(method)} {self.kl[method]:.3f}" for method in methods)

    @property
    def minutes(self) -> float:
        return sum(chapter["seconds"] for chapter in self.run["notebooks"].values()) / 60


def _change(row: pd.Series, value: str) -> str:
    return with_ends(row[value], row["low"], row["high"], 3)


def _contradicted(table: pd.DataFrame) -> str:
    """' Contradicted: "sentence" (effect with interval).' for each such claim; nothing if there is none."""
    those = table[table["verdict"] == "contradicted"]
    said = {(claim.method, claim.reference): claim.sentence.rstrip(".") for claim in CLAIMS}
    named = [f'"{said[pair]}": {_change(row, "effect")}' for pair, row in those.iterrows()]
    return f" Contradicted: {'; '.join(named)}." if named else ""


def _over_seeds(run: Run, own: tuple[str, str]) -> str:
    """What `make evaluate` adds, or that it has not been run on this survey."""
    said = "The intervals are over questions. Another training run of the SAE moves the numbers as well"
    if not (run.results / "evaluate_claims.csv").is_file():
        return f"{said}: `make evaluate` measures that, and has not been run on these surveys yet."
    seeds = run.claims("evaluate_claims")
    ours = Evaluated(run.results, "")  # of this run, or its chapters would have left them out
    gaps = f"\n{seeds_sentence(ours)}\n{gap_claims_page(ours.table('gap_claims'))}" if len(ours.table("gaps")) else ""
    slow = [method for method in ("lora", "prompt-best", "few-shot") if method in run.kl]
    more = f"\nIt also runs what a book has no time for. Held-out KL: {run.have(*slow)}." if slow else ""
    return (
        f"{said}, which `make evaluate` measures: under five seeds, each with an SAE of its own, the groups' own part "
        f"changes the KL by {_change(seeds.loc[own], 'effect')}, questions and seeds drawn; of {claims_counted(seeds)}, "
        f"{count_verdicts(seeds['verdict'])} (`results/default/evaluate*.csv`).{_contradicted(seeds)}{gaps}{more}"
    )


def _of_larger(root: Path, *names: str) -> str:
    """What offsets that read do with the larger models, a paragraph each."""
    found = {name: Run(root / name) for name in names if (root / name / "run.json").is_file()}
    return "\n".join(
        f"With {model_name(run.run['profile']['model'])} (profile `{name}`):\n{gaps_sentence(run.table('gaps'))}\n"
        f"{gap_claims_page(run.table('gap_claims'))}"
        for name, run in found.items()
    )


def _without_toplines(folder: Path, own: tuple[str, str]) -> str:
    """The KL of a larger model with the constant offsets."""
    run = Run(folder)
    return (
        f"{model_name(run.run['profile']['model'])} has {run.kl['unsteered']:.3f} unsteered: "
        f"{run.have('shared-delta', 'delta')}; Δ against {prose('shared-delta')}: "
        f"{_change(run.pairs.loc[own], 'kl_difference')}, one run."
    )


def summary(root: Path) -> str:
    """The paragraphs below the table, a sentence a line."""
    ours, other = (Run(root / name) for name in ("default", "opinionqa"))
    own = ("delta", "shared-delta")
    there = [method for method in ("position-prior", "calibrated", "unembedding", "probe") if method in other.kl]
    questions, groups = other.pairs.loc[own, "n_questions"], other.table("comparisons")["group"].nunique() - 1
    speed = ours.run.get("throughput")
    where = f"The times are of {ours.run['machine']}, {products(speed)}.\n" if speed else ""
    return f"""{where}{gaps_sentence(ours.table("gaps"))}
{pair_sentence(ours.table("pair_gaps"), "delta-reading")}
Of this one seed, which others may not bear out (below):
{gap_claims_page(ours.table("gap_claims"))}
Without the toplines, on this small model: {verdict(ours.pairs.loc[("shared-delta", "unsteered")])}
{verdict(ours.pairs.loc[own])}
{own_part(ours.table("delta_history"))}
{verdict(ours.pairs.loc[("delta", "position-prior")])}
Where nothing could be shown the book says so, and {{doc}}`chapters/14_claims` lists every claim with its verdict.

On OpinionQA there are {questions} questions and {groups} groups (`make tables PROFILE=opinionqa`, chapter `13_opinionqa`; its chapters took {other.minutes:.0f} minutes added up, beside other work).
{gaps_sentence(other.table("gaps"))}
{gap_claims_page(other.table("gap_claims"))}
Without the toplines the groups' own part of the constant Δ changes the KL of {prose("shared-delta")} there by {_change(other.pairs.loc[own], "kl_difference")}, p {other.claims("claims").loc[own, "p_holm"]:.2f} after Holm's correction over the claims; Δ has a KL of {other.kl["delta"]:.3f}, {other.have(*there)}.
{_of_larger(root, "opinionqa-qwen", "opinionqa-qwen-1.5b")}
Without the toplines {_without_toplines(root / "opinionqa-qwen", own)}

On the default surveys, with larger models:
{_of_larger(root, "gss-qwen", "gss-qwen-1.5b")}

{_over_seeds(ours, own)}
"""


def page(root: Path) -> str:
    """The appendix: a row per claim with what makes it, then the paragraphs."""
    return f"""# Every result and its command

Written by `python tools/readme_table.py` from the committed tables (`results/`); a test compares them.

{markdown(root / "default")}
A chapter's command is, once the chapters it needs have run (`make book` runs them all in order):

    .venv/bin/papermill notebooks/07_alignment.ipynb out.ipynb -f profiles/default.yaml

Times are wall times of the chapters in that run, two at a time; `results/default/run.json` has the machine and its versions.

{summary(root)}"""


def with_abstract(readme: str, results: Path) -> str:
    """The README with the abstract of the first page between the two marks."""
    text = f"{abstract_of(results)}\n{cost(read_json(results / 'run.json'))}"
    return f"{readme[: readme.index(START)]}{START}{text}\n{readme[readme.index(END) :]}"


def cost(run: dict[str, Any]) -> str:
    """What the run took: its chapters' times added up, and how fast its cores multiply matrices, as measured there."""
    minutes, speed = sum(chapter["seconds"] for chapter in run["notebooks"].values()) / 60, run.get("throughput")
    measured = f", {products(speed)}" if speed else ""
    return f"All chapters of that run together took {minutes:.0f} minutes, on {run['machine']}{measured}."


if __name__ == "__main__":
    readme = ROOT / "README.md"
    make_front(ROOT / "results/default", ROOT / "book/figures")
    pages = {readme: with_abstract(readme.read_text(encoding="utf-8"), ROOT / "results/default")}
    pages[PAGE] = page(ROOT / "results")
    for path, text in pages.items():
        with replacing(path) as side:
            side.write_text(text, encoding="utf-8")
