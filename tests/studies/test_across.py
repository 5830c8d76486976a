"""From one survey to another: who is asked, what a fit may see, and what is said of it."""

import dataclasses

import numpy as np
import pytest

from opinion_sae.book.across import across_sentence, across_table
from opinion_sae.book.study_tables import ABSENT, StudyTables, load_tables
from opinion_sae.studies import across
from opinion_sae.survey.export import write_tidy

WORDS = "doctors gardens ships letters mountains bridges songs farms kitchens clocks markets lamps".split()


@pytest.fixture
def both(book, tiny, tmp_path):
    """The book's survey as a file, and a maker of another one of three of its groups and a fourth."""
    people = np.full((4, 24), 100)
    write_tidy(dataclasses.replace(book.survey, respondents=people), tmp_path / "own.csv")

    def other(seed, attributes=("sex", "sex", "party", "party")):
        rng = np.random.default_rng(seed)
        questions = [tiny.question(f"p{i}", "ab", f"{WORDS[i % 12]} {i}?", "uvw"[i % 3]) for i in range(24)]
        survey = tiny.survey(rng.dirichlet(np.ones(2), (4, 24)), questions, "fmdk", attributes)
        write_tidy(dataclasses.replace(survey, respondents=people), tmp_path / "other.csv")
        given = dataclasses.replace(book, folder=tmp_path / "study", data=tmp_path / "other.csv")
        return dataclasses.replace(given, surveys=[str(tmp_path / "own.csv")])

    return other


def test_each_side_is_answered_by_what_saw_the_other_alone(both):
    """Other answers to the questions tested change no prediction; other answers to those fitted do."""
    given = both(1)
    survey = across.Both(given).survey
    assert survey.groups == ("d", "Female", "Male") and len(survey.questions) == 48
    for split in across.Both(given).splits:
        of = {
            name: {survey.questions[q].survey for q in part} for name, part in split._asdict().items() if name != "name"
        }
        assert of["train"] == of["validation"] and of["train"] | of["test"] == {across.BOOK, across.OTHER}
        assert len(of["test"]) == 1 and f"to {of['test'].pop()}" == split.name
    before = {name: item.make() for name, item in across.items(given).items()}
    after = {name: item.make() for name, item in across.items(both(2)).items()}
    assert set(before) == {"to-book", "from-book"}
    for method, table in before["from-book"].items():
        assert table.shape[1:] == (24, 2) and np.isfinite(table).all()
        np.testing.assert_array_equal(table, after["from-book"][method])
    assert not np.array_equal(before["to-book"]["words"], after["to-book"]["words"])

    tables = across.tables(given, before)
    rows = tables["gaps"].set_index(["tested_on", "task", "method"])
    assert rows.index.is_unique and (rows["n_groups"] == 3).all() and (rows["n_questions"] == 24).all()
    assert set(rows.loc[(across.OTHER, "toplines"), "fitted_to"]) == {across.BOOK}
    said = across_sentence(StudyTables("across", tables, {}))
    first, second = said.split("\n\n")
    assert first.startswith("Fitted to 24 questions of the book's surveys and tested on 24 of yours, for the 3 groups")
    row = rows.loc[(across.BOOK, "toplines", "words")]
    assert f"words has a gap correlation of {row['gap_r']:.2f}" in second.replace("-0.00", "0.00")
    assert "tested on yours" in str(across_table(StudyTables("across", tables, {})).html)


def test_nothing_in_common_is_said_with_what_there_is(both):
    with pytest.raises(ValueError, match=r"other.csv: its attributes are age, region; of sex, party there is none"):
        across.items(both(1, ("age", "age", "region", "region")))


def test_without_tables_the_page_says_so(tmp_path):
    study = load_tables("across", tmp_path)
    assert across_sentence(study) == ABSENT and "Nothing to show" in across_table(study).text
