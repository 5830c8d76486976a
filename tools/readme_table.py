"""Write the README's table of claims from the committed tables of the default run.

python tools/readme_table.py
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from opinion_sae.artifacts import read_json, replacing

ROOT = Path(__file__).parents[1]
HEAD = "| What the run shows (KL in nats, 95% intervals over questions) | Figure | Chapter | Time |"


def claims(results: Path) -> list[tuple[str, str, str]]:
    """Each claim with its numbers, the figure that draws it and the chapter that computes it."""
    numbers = read_json(results / "numbers.json")
    table = {name: pd.read_csv(results / f"{name}.csv") for name in ("alignment", "comparisons", "surveys", "dose")}
    kl = _overall(table["alignment"]).set_index("method")["kl"]
    pairs = _overall(table["comparisons"]).set_index(["method", "reference"])
    surveys, dose = table["surveys"], table["dose"].set_index("strength")

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
            f"Equal shares for all options have a KL of {kl['uniform']:.3f}, the unsteered model {kl['unsteered']:.3f}",
            "headline",
            "02_unsteered",
        ),
        (
            f"The SAE leaves {numbers['sae_fvu']} of the variance of held-out text unexplained and recovers "
            f"{numbers['ce_recovered']} of the loss",
            "training the SAE",
            "03_sae",
        ),
        (f"One offset for all groups, against none: {difference('shared-delta', 'unsteered')}", "headline", "04_delta"),
        (
            f"Offsets with the groups' own part, against it: {difference('delta', 'shared-delta')}",
            "Δ over Δ_shared",
            "04_delta",
        ),
        (f"Δ against a dense vector with the same loss: {difference('delta', 'dense')}", "headline", "04_delta"),
        (
            f"With the SAE trained along, against Δ alone: {difference('delta-joint', 'delta')}",
            "joint training",
            "05_joint",
        ),
        (
            f"Δ against people's preference for places, which reads no question: {difference('delta', 'position-prior')}",
            "headline",
            "06_controls",
        ),
        (_few_latents(pd.read_csv(results / "path.csv")), "few latents", "08_budget"),
        (_tilt(pd.read_csv(results / "tilt.csv")), "tilt", "08_budget"),
        (
            f"{numbers['constant_share']} of what Δ adds to the residual stream is the same for every question",
            "offsets across groups",
            "09_latents",
        ),
        (
            f"At full strength Δ multiplies the perplexity of plain text by {dose.loc[1.0, 'perplexity_ratio']:.2f}; at "
            f"half strength by {dose.loc[0.5, 'perplexity_ratio']:.2f}, with a KL of {dose.loc[0.5, 'kl']:.3f}",
            "dose",
            "10_steering",
        ),
    ]


def _overall(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["group"] == "all"]


def _few_latents(path: pd.DataFrame) -> str:
    path = _overall(path).sort_values("latents", ascending=False)
    refitted, dense = path[path["method"] == "refitted"], path[path["method"] == "dense"]
    found = ", ".join(f"{row.kl:.3f} at {row.latents:.0f}" for row in refitted.itertuples())
    return (
        f"Cut to few latents per group and refitted, Δ has a KL of {found}; a dense vector of the same norm: "
        + ", ".join(f"{kl:.3f}" for kl in dense["kl"])
    )


def _tilt(table: pd.DataFrame) -> str:
    values = table[table["measure"] == "kl"].set_index(["which", "t"])["value"]
    most = table["t"].max()
    worst, mean = ([values[which, t] for t in (0.0, most)] for which in ("worst-off group", "mean over groups"))
    return (
        f"Tilting the loss to the worst-off group (t = {most:g}) moves its KL from {worst[0]:.3f} to {worst[1]:.3f}, "
        f"the mean from {mean[0]:.3f} to {mean[1]:.3f}"
    )


def markdown(results: Path) -> str:
    """The table, a row per claim, with the wall time of the chapter that computes it."""
    times = read_json(results / "run.json")["notebooks"]
    rows = [
        f"| {claim} | {figure} | `{chapter}` | {times[chapter]['seconds']:.0f} s |"
        for claim, figure, chapter in claims(results)
    ]
    return "\n".join([HEAD, "| :-- | :-- | :-- | --: |", *rows]) + "\n"


def with_table(readme: str, table: str) -> str:
    """The README with the table in place of the one that it has."""
    start = readme.index("| What the run shows")
    return readme[:start] + table + readme[readme.index("\n\n", start) + 1 :]


if __name__ == "__main__":
    readme = ROOT / "README.md"
    text = with_table(readme.read_text(encoding="utf-8"), markdown(ROOT / "results/default"))
    with replacing(readme) as side:
        side.write_text(text, encoding="utf-8")
