"""Figures of the committed tables, by another route: the shipped CSV files, the csv module and plain sums."""

import csv
import gzip
import math
from collections import defaultdict

import numpy as np
import pytest

from opinion_sae.book.paths import ROOT

DATA, RESULTS = ROOT / "src" / "opinion_sae" / "data", ROOT / "results" / "default"
SURVEYS = ("gss", "nonvoters-2020")  # those of profiles/default.yaml
ATTRIBUTES = ("sex", "age", "race", "education", "income", "party", "ideology")
LEAST = 50  # respondents of a cell


def rows(path):
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def table(name):
    return {(row["method"], row["group"]): row for row in rows(RESULTS / name)}


@pytest.fixture(scope="module")
def cells():
    """{question: {group: [(weight, squared weight), ...]}} of the groups of enough people, and 'everyone'."""
    found = defaultdict(dict)
    for survey in SURVEYS:
        options = {row["key"]: row["options"].split("|") for row in rows(DATA / survey / "questions.csv")}
        people = defaultdict(int)
        for row in rows(next((DATA / survey).glob("counts.csv*"))):
            if row["attribute"] in (*ATTRIBUTES, "all"):
                cell = found[row["question"]].setdefault(row["group"], [(0.0, 0.0)] * len(options[row["question"]]))
                cell[int(row["option"])] = (float(row["weight"]), float(row["weight_squared"]))
                people[row["question"], row["group"]] += int(row["respondents"])
        for (question, group), count in people.items():
            if count < LEAST:
                del found[question][group]
    return found


@pytest.fixture(scope="module")
def ordinal():
    return {row["key"]: row["ordinal"] == "true" for name in SURVEYS for row in rows(DATA / name / "questions.csv")}


def uniform(by_group):
    return [1 / len(by_group["everyone"])] * len(by_group["everyone"])


def everyone(by_group):
    """All respondents' shares, half a respondent added to each option; weighted people count for fewer."""
    weight = sum(one for one, _ in by_group["everyone"])
    effective = weight**2 / sum(square for _, square in by_group["everyone"])
    counts = [one / weight * effective + 0.5 for one, _ in by_group["everyone"]]
    return [count / sum(counts) for count in counts]


def measures(cell, p):
    """KL, TV and alignment of one cell, option by option."""
    total = sum(weight for weight, _ in cell)
    h = [weight / total for weight, _ in cell]
    moved, work = 0.0, 0.0
    for a, b in zip(h[:-1], p[:-1], strict=True):  # carry what is over to the next option
        moved += a - b
        work += abs(moved)
    kl = math.fsum(a * math.log(a / b) for a, b in zip(h, p, strict=True) if a > 0)
    return kl, math.fsum(abs(a - b) for a, b in zip(h, p, strict=True)) / 2, 1 - work / (len(h) - 1)


@pytest.mark.parametrize("method", [uniform, everyone], ids=lambda one: one.__name__)
def test_kl_tv_and_alignment_of_answers_that_need_no_model(method, cells, ordinal):
    by_question, by_group = [], defaultdict(list)
    for question, groups in cells.items():
        found = {name: measures(cell, method(groups)) for name, cell in groups.items() if name != "everyone"}
        scale = [1, 1, 1 if ordinal[question] else math.nan]
        for name, values in found.items():
            by_group[name].append(np.multiply(values, scale))
        by_question.append(np.multiply(np.mean(list(found.values()), axis=0), scale))
    expected = {"all": by_question, **by_group}
    published = {group: row for (name, group), row in table("alignment.csv").items() if name == method.__name__}
    assert set(published) == set(expected)
    for group, values in expected.items():
        row = published[group]
        assert int(row["n_questions"]) == len(values)
        found = [float(row[measure]) for measure in ("kl", "tv", "alignment")]
        np.testing.assert_allclose(found, np.nanmean(values, axis=0), rtol=1e-5)


def test_gap_closed_from_the_three_numbers_it_is_made_of():
    published = table("alignment.csv")
    floor = {row["group"]: float(row["kl"]) for row in rows(RESULTS / "floor.csv")}
    own = [key for key, row in published.items() if row["split"] == "question"]
    assert len(own) > 10 * len(floor)
    for method, group in own:
        unsteered, ours = float(published["unsteered", group]["kl"]), float(published[method, group]["kl"])
        expected = (unsteered - ours) / (unsteered - floor[group])
        assert float(published[method, group]["gap_closed"]) == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_the_floor_is_what_samples_of_this_size_would_score(cells):
    """E KL of n answers drawn from shares of N options to those shares is (N - 1) / (2n), unchosen options aside."""
    expected = defaultdict(list)
    for groups in cells.values():
        for name, cell in groups.items():
            effective = sum(w for w, _ in cell) ** 2 / sum(square for _, square in cell)
            expected[name].append((sum(w > 0 for w, _ in cell) - 1) / (2 * effective))
    for row in rows(RESULTS / "floor.csv")[1:]:
        assert float(row["kl"]) == pytest.approx(np.mean(expected[row["group"]]), rel=0.1)


@pytest.mark.parametrize(("name", "column"), [("comparisons.csv", "kl_difference"), ("claims.csv", "effect")])
def test_differences_are_those_of_the_means(name, column):
    if not (RESULTS / name).is_file():
        pytest.skip(f"results/default has no {name} yet")
    published, compared = table("alignment.csv"), 0
    for row in rows(RESULTS / name):
        pair = [published.get((row[which], row["group"])) for which in ("method", "reference")]
        if all(pair):  # another's offset is no method
            ours, theirs = (float(one["kl"]) for one in pair)
            assert float(row[column]) == pytest.approx(ours - theirs, abs=2e-6)
            compared += 1
    assert compared > 100
