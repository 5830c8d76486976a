"""What may be claimed of group differences, task from toplines: from the run's tables, whichever way it falls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Int

from opinion_sae.score.gap_effects import gap_effects, shares_kept
from opinion_sae.score.gaps_table import Tables, with_toplines
from opinion_sae.score.names import prose
from opinion_sae.score.statistics import holm
from opinion_sae.survey import Survey

MEASURES = {"gap_r": "gap correlation", "group_kl_closed": "share of the group KL closed"}
KEPT = 0.7  # of the reading offset's measures, with few latents read
COLUMNS = "claim measure method reference effect margin low high n_questions n_seeds p p_holm verdict".split()


class GapClaim(NamedTuple):
    """`method` exceeds `reference` on both measures; with `kept`, it has more than that share of the reference's."""

    method: str
    reference: str
    kept: float = 0.0

    @property
    def sentence(self) -> str:
        if self.kept:
            return f"{prose(self.method)} keeps at least {self.kept:.0%} of what {prose(self.reference)} reaches."
        return f"{prose(self.method)} tells groups apart better than {prose(self.reference)}."


OTHERS = (
    "toplines",
    "delta",
    "dense-reading",
    "shuffled-questions",
    "random-dictionary",
    "words",
    "prompt-best",
    "lora",
    "shuffled-groups-reading",
)
GAP_CLAIMS = (
    *(GapClaim("delta-reading", other) for other in OTHERS),
    GapClaim("delta-reading-64", "random-read-latents"),
    GapClaim("words+direct", "words"),
    GapClaim("delta-reading-64", "delta-reading", KEPT),
)


def gap_claims_table(
    survey: Survey,
    tables: Tables,
    clusters: Int[np.ndarray, "question"],
    claims: Sequence[GapClaim] = GAP_CLAIMS,
    replicates: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """`gap_claims.csv`: a row per claim and measure, over all groups; only claims whose methods have a table.

    `effect` is method minus reference, or their ratio where the claim is on the share kept; p is of its being the
    margin, `p_holm` corrected over all rows. The verdict is 'supported' if the interval lies above the margin and
    p_holm < 0.05, 'contradicted' if it lies below it just as surely, 'not supported' otherwise.
    """
    given, rows = with_toplines(survey, tables, "toplines"), []
    for claim in claims:
        if claim.method not in given or claim.reference not in given:
            continue
        pair = (survey, given[claim.method], given[claim.reference], clusters)
        if claim.kept:
            effects = shares_kept(*pair, claim.kept, replicates, seed)
        else:
            effects = {name: of["all"] for name, of in gap_effects(*pair, replicates=replicates, seed=seed).items()}
        for measure in MEASURES:
            about = {"claim": claim.sentence, "measure": measure, "method": claim.method}
            about |= {"reference": claim.reference, "margin": claim.kept}
            rows.append(about | effects[measure]._asdict())
    table = pd.DataFrame(rows, columns=[name for name in COLUMNS if name not in ("p_holm", "verdict")])
    table["p_holm"] = holm(table["p"].to_numpy(float))
    sure = table["p_holm"] < 0.05
    above, below = sure & (table["low"] > table["margin"]), sure & (table["high"] < table["margin"])
    table["verdict"] = np.select([above, below], ["supported", "contradicted"], "not supported")
    return table[COLUMNS]


def found(row: pd.Series) -> str:
    """The verdict of one row of `gap_claims_table`, and the numbers behind it."""
    measure = MEASURES[row["measure"]]
    if np.isnan(row["low"]):
        share = f"no share, as what {prose(row['reference'])} itself reaches is not surely above 0"
        return f"by {measure} {share if row['margin'] else 'too few questions for an interval'}"
    size = f"{row['effect']:.2f} of it" if row["margin"] else f"{row['effect']:+.3f}"
    digits = ".2f" if row["margin"] else "+.3f"
    interval = f"95% interval {row['low']:{digits}} to {row['high']:{digits}}"
    return f"by {measure} **{row['verdict']}** ({size}, {interval}, p {_p(row['p_holm'])} after Holm)"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def gap_claims_page(table: pd.DataFrame) -> str:
    """MyST text: a sentence for each claim, with what was found by each measure."""
    if not len(table):
        return "No claim could be tested: its methods are not in this run."
    lines = []
    for claim, rows in table.groupby("claim", sort=False):
        each = "; ".join(found(row) for _, row in rows.iterrows())
        lines.append(f"- {claim[0].upper()}{claim[1:-1]}: {each}.")
    return "\n".join(lines) + "\n"
