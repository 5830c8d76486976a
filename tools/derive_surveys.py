"""Derive the answer counts of a shipped survey from its public source.

    python tools/derive_surveys.py gss --source <folder with gss_2016.csv.gz and gss_2018.csv.gz>
    python tools/derive_surveys.py nonvoters-2020 --source nonvoters_data.csv

Writes counts.csv (of gss, packed: counts.csv.gz) of src/opinion_sae/data/<survey>; the wording (questions.csv), the
codes behind the options (items.csv of gss) and the provenance (provenance.json) beside it are written by hand.
"""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from opinion_sae.artifacts import replacing
from opinion_sae.survey.checks import read_table
from opinion_sae.survey.counted import read_questions
from opinion_sae.survey.table import CELL_COLUMNS, count_answers, intersect

DATA = Path(__file__).parents[1] / "src" / "opinion_sae" / "data"
INTERSECTIONS = ("party x race", "party x sex", "party x race x sex")
GSS_YEARS = (2016, 2018)


def derive_gss(folder: Path) -> pd.DataFrame:
    """Counts of gss: the people of both years together, each year's weights scaled to mean 1."""
    years = [pd.read_csv(folder / f"gss_{year}.csv.gz", low_memory=False) for year in GSS_YEARS]
    # three decimals, so that the sums of weights and of their squares are exact as written
    weights = np.concatenate([(year["weight"] / year["weight"].mean()).round(3) for year in years])
    people = pd.concat(years, ignore_index=True)
    items = read_table(DATA / "gss" / "items.csv", ("key", "option", "code"))
    codes = {key: tuple(rows["code"].astype(int)) for key, rows in items.groupby("key", sort=False)}
    return _counts(people, codes, _gss_groups(people), weights)


def _gss_groups(people: pd.DataFrame) -> dict[str, list[str | None]]:
    hispanic = people["hispanic"]
    race = people["race"].map({1: "White", 2: "Black", 3: "Other race"})
    party = dict(enumerate(["Democrat"] * 3 + ["Independent"] + ["Republican"] * 3))  # leaners with their party
    religion = {1: "Protestant", 11: "Protestant", 13: "Protestant", 2: "Roman Catholic", 4: "No religion"}
    services = pd.cut(people["attend"], [-1, 0, 2, 5, 8], labels=_ATTENDANCE)  # 5 is 2 or 3 times a month
    region = pd.cut(people["region"], [0, 2, 4, 7, 9], labels=["Northeast", "Midwest", "South", "West"])
    return {
        "sex": _names(people["sex"].map({1: "Male", 2: "Female"})),
        "age": _ages(people["age"]),
        "race": _names(race.mask(hispanic > 1, "Hispanic").mask(hispanic.isna())),
        "education": _schooling(people),
        # household income: code 17 ends at $39,999, code 20 at $74,999; 27 is a refusal
        "income": _names(pd.cut(people["income16"], [0, 17, 20, 26], labels=_INCOMES)),
        "party": _names(people["partyid"].map(party)),
        "ideology": _ideology(people),
        "religion": _names(
            people["relig"]
            .map(religion)
            .mask(~people["relig"].isin([*religion]), "Other religion")
            .mask(people["relig"].isna())
        ),
        "religious attendance": _names(services),
        "region": _names(region),
    }


_ATTENDANCE = ["Never", "Seldom", "Monthly or a few times a year", "Weekly or nearly so"]


def _schooling(people: pd.DataFrame) -> list[str | None]:
    college = people["degree"] >= 3
    some = (people["degree"] == 2) | (people["educ"] > 12)
    education = np.select([college, some], ["College graduate", "Some college"], "High school or less")
    return _names(pd.Series(education).mask(people["educ"].isna() & ~(people["degree"] >= 2)))


def _ideology(people: pd.DataFrame) -> list[str | None]:
    return _names(pd.cut(people["polviews"], [0, 3, 4, 7], labels=["Liberal", "Moderate", "Conservative"]))


def derive_nonvoters(csv: Path) -> pd.DataFrame:
    """Counts of nonvoters-2020: 46 attitude items, weighted with the poll's own weights."""
    people = pd.read_csv(csv)
    questions = read_questions(DATA / "nonvoters-2020" / "questions.csv", "nonvoters-2020")
    codes = {q.key: tuple(range(1, len(q.options) + 1)) for q in questions}
    incomes = dict(
        zip(["Less than $40k", "$40-75k", "$75-125k"], _INCOMES, strict=False), **{"$125k or more": _INCOMES[2]}
    )
    party = people["Q30"].map({1: "Republican", 2: "Democrat", 3: "Independent", 5: "Independent"})
    leaning = people["Q33"].map({1: "Republican", 2: "Democrat"})
    groups = {
        "sex": _names(people["gender"]),
        "age": _ages(people["ppage"]),
        "race": _names(people["race"].replace("Other/Mixed", "Other race")),
        "education": _names(people["educ"].replace("College", "College graduate")),
        "income": _names(people["income_cat"].map(incomes)),
        # 3 independent, 5 no preference, with the party that they lean to; 4 (another party) and refusals: no group
        "party": _names(party.mask(party.eq("Independent") & leaning.notna(), leaning)),
    }
    return _counts(people, codes, groups, people["weight"].to_numpy())


_INCOMES = ["Lower income", "Middle income", "Upper income"]


def _names(column: pd.Series) -> list[str | None]:
    return [None if pd.isna(value) else str(value) for value in column]


def _ages(age: pd.Series) -> list[str | None]:
    return _names(pd.cut(age, [17, 29, 49, 64, 120], labels=["18-29", "30-49", "50-64", "65+"]))


def _counts(
    people: pd.DataFrame,
    codes: Mapping[str, Sequence[int]],
    groups: dict[str, list[str | None]],
    weights: np.ndarray,
) -> pd.DataFrame:
    """Count each item's codes (in the order of its options); any other code is no answer."""
    answers = np.column_stack(
        [people[key].map({code: i for i, code in enumerate(c)}).fillna(-1) for key, c in codes.items()]
    ).astype(int)
    groups = groups | {name: intersect(groups, name) for name in INTERSECTIONS}
    cells = count_answers(list(codes), [len(c) for c in codes.values()], answers, groups, weights)
    cells = cells[cells["respondents"] > 0].copy()
    # weights have at most four decimals, so these sums are exact
    cells["weight"] = cells["weight"].round(4)
    cells["weight_squared"] = cells["weight_squared"].round(8)
    return cells.sort_values(list(CELL_COLUMNS[1:4]), kind="stable").sort_values(
        "question", kind="stable", key=lambda keys: keys.map(list(codes).index)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    derive = {"gss": derive_gss, "nonvoters-2020": derive_nonvoters}
    parser.add_argument("survey", choices=sorted(derive))
    parser.add_argument(
        "--source", type=Path, required=True, help="gss: the folder of its files; nonvoters-2020: the poll's file"
    )
    options = parser.parse_args()
    cells = derive[options.survey](options.source)
    packed = options.survey == "gss"
    with replacing(DATA / options.survey / ("counts.csv.gz" if packed else "counts.csv")) as side:
        text = cells.to_csv(index=False, float_format="%.10g", lineterminator="\n").encode()
        side.write_bytes(gzip.compress(text, mtime=0) if packed else text)  # same counts, same bytes
    print(f"{options.survey}: {len(cells)} cells, {cells['question'].nunique()} questions")


if __name__ == "__main__":
    main()
