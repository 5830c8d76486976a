"""The tables of a published run, as a chapter reads them."""

import pandas as pd
import pytest

from opinion_sae.paths import ROOT
from opinion_sae.published import COLUMNS, load_published

TABLES = ROOT / "results" / "opinionqa"


def write(folder, methods=("unsteered", "delta"), groups=("Women", "Men", "all")):
    folder.mkdir()
    rows = [
        (m, g, "question", 4, 0.1 * (i + 1) + j, *[0.5] * 7) for i, m in enumerate(methods) for j, g in enumerate(groups)
    ]
    pd.DataFrame(rows, columns=COLUMNS).to_csv(folder / "alignment.csv", index=False)
    pd.DataFrame({"group": groups, "kl": 0.01, "alignment": 0.99}).to_csv(folder / "floor.csv", index=False)
    pair = {"group": groups, "method": "delta", "reference": "unsteered", "kl_difference": 0.1, "low": 0.0, "high": 0.2}
    pd.DataFrame(pair).to_csv(folder / "comparisons.csv", index=False)
    (folder / "numbers.json").write_text('{"n_questions": "4"}')
    (folder / "run.json").write_text('{"profile": {"survey": "opinionqa:data/opinionqa"}}')


def test_tables_come_back_by_method_and_by_group(tmp_path):
    write(tmp_path / "mine")
    found = load_published("mine", tmp_path)
    assert list(found.overall.index) == ["unsteered", "delta"] and "group" not in found.overall
    assert found.overall.loc["delta", "kl"] == pytest.approx(2.2)
    assert list(found.by_group.index) == ["Women", "Men"]  # in the table's order, without `all`
    assert found.by_group.loc["Men", "unsteered"] == pytest.approx(1.1)
    assert len(found.table) == 6 and found.numbers["n_questions"] == "4"
    assert found.run["profile"]["survey"] == "opinionqa:data/opinionqa"


@pytest.mark.parametrize("name", ["alignment.csv", "floor.csv", "comparisons.csv", "numbers.json", "run.json"])
def test_an_absent_table_says_how_to_make_it(tmp_path, name):
    write(tmp_path / "mine")
    (tmp_path / "mine" / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"mine/{name}: not there; `make book PROFILE=mine` writes it"):
        load_published("mine", tmp_path)


def test_a_table_of_another_form_is_refused(tmp_path):
    write(tmp_path / "mine")
    path = tmp_path / "mine" / "alignment.csv"
    table = pd.read_csv(path)
    table.drop(columns="tv").to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"alignment.csv: columns \['tv'\] are missing; found"):
        load_published("mine", tmp_path)
    table[:0].to_csv(path, index=False)
    with pytest.raises(ValueError, match="alignment.csv: no rows"):
        load_published("mine", tmp_path)


@pytest.mark.skipif(not TABLES.is_dir(), reason="results/opinionqa is not in this checkout")
def test_the_committed_tables_load_and_hold_figures_only():
    """Pew's terms forbid passing answers on; of the questions not even the wording is here."""
    found = load_published()
    assert found.run["profile"]["survey"].startswith("opinionqa:")
    assert {"unsteered", "shared-delta", "delta", "dense", "everyone"} <= set(found.overall.index)
    assert len(found.by_group) >= 12 and (found.overall["n_questions"] > 400).all()
    for path in set(TABLES.glob("*.csv")) - {TABLES / "open_answers.csv"}:  # which the model wrote
        for column in pd.read_csv(path, dtype=str).items():
            assert column[1].str.len().max() < 100, (path.name, column[0])  # OpinionQA's questions are longer
