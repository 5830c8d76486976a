"""What `make evaluate` left, for the chapters that show it beside their own run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from opinion_sae.artifacts import read_json
from opinion_sae.book.claims import CLAIMS, claims_page
from opinion_sae.score.statistics import verdicts
from opinion_sae.survey import Survey, survey_hash

# held-out answers that the chapters before the comparison leave
ANSWERS = tuple(f"answers{part}.safetensors" for part in ("", "-joint", "-controls", "-selected"))


class Evaluated(NamedTuple):
    """What `make evaluate` left for a run; tables without rows, and a note that says why, if it is of another."""

    rows: pd.DataFrame  # the columns of alignment.csv
    claims: pd.DataFrame  # the columns of claims.csv
    side_effects: pd.DataFrame  # the columns of side_effects.csv
    note: str


def load_evaluated(results: Path, survey: Survey, model: str) -> Evaluated:
    """The tables of `evaluate` in a results folder, if they are of this survey and of the model of this hash."""
    if not (results / "evaluate.json").is_file():
        note = "`make evaluate` has not been run for this profile, so what takes longer is not here."
    else:
        hashes = read_json(results / "evaluate.json")["hashes"]
        wrong = [name for name, ours in (("data", survey_hash(survey)), ("model", model)) if hashes[name] != ours]
        if not wrong:
            rows, claims, effects = (
                pd.read_csv(results / f"evaluate{name}.csv") for name in ("", "_claims", "_side_effects")
            )
            claims["verdict"] = verdicts(claims)  # by today's rule, whenever the table was made
            return Evaluated(rows, claims, effects, "Of this survey and model are also the tables of `make evaluate`.")
        note = f"The tables of `make evaluate` are of other {' and '.join(wrong)} than this run, and are left out."
    return Evaluated(pd.DataFrame({"method": []}), pd.DataFrame({"claim": []}), pd.DataFrame({"method": []}), note)


def with_evaluated(table: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """A table with a row for each method and, below it, the rows of the methods that only `make evaluate` has."""
    new = rows[~rows["method"].isin(table["method"])]
    return pd.concat([table, new], ignore_index=True) if len(new) else table


def evaluated_page(evaluated: Evaluated) -> str:
    """MyST text: the claims page of `make evaluate`, after the note on where it comes from."""
    claims = [replace(claim, figure="fig-evaluated", command="make evaluate") for claim in CLAIMS]
    pages = [claims_page(claims, evaluated.claims)] if len(evaluated.claims) else []
    return "\n\n".join([evaluated.note, *pages])
