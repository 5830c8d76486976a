"""Bias in Bios on made-up biographies: the reader, and the study on a small model."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from opinion_sae.studies import bios, shift
from opinion_sae.studies.biographies import LEAST, NURSE, PROFESSOR, load_biographies, some_of_each

SAID = {PROFESSOR: "teaches algebra", NURSE: "cares for patients"}
ROWS = [
    (f"{('He', 'She')[gender]} {SAID[profession]} in town {number}.", profession, gender)
    for number in range(LEAST)
    for profession in (PROFESSOR, NURSE)
    for gender in (0, 1)
]
OTHERS = [("He paints.", 20, 0), ("She sings.", 27, 1)]


def frame(rows=(*ROWS, *OTHERS)):
    return pd.DataFrame(rows, columns=["hard_text", "profession", "gender"])


WRITERS = {
    "csv": lambda path, rows: rows.to_csv(path, index=False),
    "jsonl": lambda path, rows: rows.to_json(path, orient="records", lines=True),
    "parquet": lambda path, rows: rows.to_parquet(path),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_the_same_biographies_are_read_from_every_kind_of_file(kind, tmp_path):
    path = tmp_path / f"train.{kind}"
    WRITERS[kind](path, frame())
    found = load_biographies(path)
    assert found["text"].tolist() == [text for text, _, _ in ROWS]
    assert found["professor"].tolist() == [profession == 21 for _, profession, _ in ROWS]
    assert found["male"].tolist() == [gender == 0 for _, _, gender in ROWS]


def test_a_folder_is_read_whole_and_each_text_once(tmp_path):
    (tmp_path / "data").mkdir()
    frame(ROWS[:50]).to_parquet(tmp_path / "data" / "test.parquet")
    frame(ROWS[40:]).to_csv(tmp_path / "data" / "train.csv", index=False)
    (tmp_path / "README.md").write_text("what it is")
    assert sorted(load_biographies(tmp_path)["text"]) == sorted(text for text, _, _ in ROWS)


def test_a_pickle_is_never_read(tmp_path):
    path = tmp_path / "BIOS.pkl"
    frame().to_pickle(path)
    with pytest.raises(ValueError, match=r"BIOS.pkl: not .parquet, .csv, .jsonl \(a pickle can run code, and is not"):
        load_biographies(path)
    with pytest.raises(FileNotFoundError, match="no file in .parquet, .csv, .jsonl; take the Hub's LabHC"):
        load_biographies(tmp_path)
    path.rename(tmp_path / "bios.parquet")
    with pytest.raises(ValueError, match="bios.parquet: not a whole Parquet file"):
        load_biographies(tmp_path)
    with pytest.raises(FileNotFoundError, match="none.csv: no such file"):
        load_biographies(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("column", "bad", "said"),
    [("profession", 28, "'28' is not 0 to 27"), ("gender", 2, "'2' is not 0 to 1"), ("hard_text", " ", "' ' is not a")],
)
def test_a_cell_that_cannot_be_is_refused_by_file_row_and_column(column, bad, said, tmp_path):
    rows = frame()
    rows.loc[3, column] = bad
    for kind, row in (("csv", "row 5"), ("jsonl", "row 4"), ("parquet", "row 4")):
        path = tmp_path / f"some.{kind}"
        WRITERS[kind](path, rows)
        with pytest.raises(ValueError, match=f"some.{kind}: {row}, column '{column}': {said}"):
            load_biographies(path)


def test_few_biographies_of_a_kind_are_refused(tmp_path):
    frame([row for row in ROWS if row[1:] != (NURSE, 0)] + ROWS[2:3]).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(ValueError, match="a.csv: biographies of 1 male nurses; at least 20 of each kind are needed"):
        load_biographies(tmp_path / "a.csv")


def test_as_many_of_each_kind_are_drawn(tmp_path):
    WRITERS["csv"](tmp_path / "a.csv", frame())
    found = load_biographies(tmp_path / "a.csv").iloc[1:]
    some = some_of_each(found, 5, 0)
    assert some.groupby(["professor", "male"]).size().tolist() == [5] * 4 and some.index.is_monotonic_increasing
    assert some_of_each(found, 99, 0).groupby(["professor", "male"]).size().tolist() == [LEAST - 1] * 4
    assert not some.equals(some_of_each(found, 5, 1))


@pytest.fixture
def own(book, tmp_path, monkeypatch):
    monkeypatch.setattr(bios, "DRAWS", 2)
    monkeypatch.setattr(shift, "TAKEN", (4,))
    WRITERS["csv"](tmp_path / "a.csv", frame())
    return dataclasses.replace(book, folder=tmp_path, data=tmp_path / "a.csv")


def test_training_is_confounded_as_in_the_paper(own):
    """Male professors and female nurses alone."""
    found = bios.Biographies(own)
    one = shift.divided(found.theme, found.y, np.random.default_rng(0))
    texts = found.found["text"].to_numpy()[one.confounded]
    assert all(text.startswith(("He teaches", "She cares")) for text in texts)
    assert {text[: text.index(" ", 4)] for text in texts} == {"He teaches", "She cares"}


def test_streams_are_those_of_each_text_without_bos(own, lm):
    texts = ["He teaches.", "She cares for patients in town."]
    found = bios.first_tokens(lm, texts, 1, length=12)
    for number, text in enumerate(texts):
        ids = lm.tokenizer(text)["input_ids"][:12]
        assert ids[0] == lm.tokenizer.bos_token_id
        kept = found.token[found.piece == number].tolist()
        whole = lm.residual(torch.tensor([ids]), 1)[0]
        where = [place for place in range(1, len(ids)) if ids[place] in kept]
        assert len(kept) >= len(ids) - 2 and set(kept) <= set(ids[1:])
        torch.testing.assert_close(found.x[found.piece == number][-1].float(), whole[where[-1]], rtol=1e-2, atol=1e-2)


def test_the_study_runs_on_a_file_and_its_table_is_that_of_shift(own):
    items = bios.items(own)
    assert list(items) == list(shift.FEATURES)
    found = bios.tables(own, {name: items[name].make() for name in ("stream", "general", "narrow")})["accuracy"]
    assert set(found["features"]) == {"stream", "general", "narrow"} and (found["biographies"] == 4 * LEAST).all()
    assert set(found["treatment"]) == set(shift.TREATMENTS) and found["worst"].between(0, 1).all()
    other = dataclasses.replace(own, data=own.folder / "b.csv")
    frame(ROWS[::-1]).to_csv(other.data, index=False)
    assert bios.items(other)["stream"].about != items["stream"].about


def test_an_sae_of_another_kind_is_judged_as_it_is(own):
    own.__dict__["sae"] = own.sae
    own.sae.k, before = None, own.sae.k
    try:
        assert list(bios.items(own)) == ["stream", "general"]
    finally:
        own.sae.k = before


def test_without_a_path_there_is_no_study(book):
    with pytest.raises(ValueError, match="no path of Bias in Bios is given"):
        bios.items(book)
