"""Chapter 26's tables, figures and sentences: another table, another sentence; every run that is there is shown."""

import numpy as np
import pandas as pd
import pytest

from opinion_sae.artifacts import write_csv, write_json
from opinion_sae.book import places
from opinion_sae.book.figures import places as figures
from opinion_sae.book.places import COLUMNS, PLACES, every_map, load_map

ABOUT = {
    "command": "opinion-sae study places -- default",
    "machine": "two cores",
    "seconds": {"total": 600.0},
    "profile": {"model": "models/town.gguf", "hook_layer": 1, "survey": ["gss", "opinionqa:data/opinionqa"]},
}


def around(name, value, by=0.1):
    return {name: value, f"{name}_low": value - by, f"{name}_high": value + by}


def decoded(peaks, words=0.4):
    """Four layers, the first the embedding; each place peaks at layer 1, which layer 2 is not told apart from."""
    rows = []
    for place, peak in peaks.items():
        for layer, (lower, behind) in enumerate([(0.4, 0.2), (0.2, 0.1), (0.0, 0.0), (0.05, -0.02)]):
            about = {"place": place, "layer": layer - 1, "n_questions": 24, "n_groups": 4}
            rows.append({**about, **around("gap_r", peak - lower), "behind_low": behind, "behind_high": behind + 0.1})
    behind = max(peaks.values()) - words
    about = {"place": "words", "layer": None, "n_questions": 24, "n_groups": 4}
    ends = {"behind_low": behind - 0.05, "behind_high": behind + 0.05}
    return pd.DataFrame([*rows, {**about, **around("gap_r", words), **ends}])


def entering():
    """The last token learns of the group at layer 1; before the first layer nothing of it varies."""
    rows = []
    for place in PLACES:
        for layer, named in enumerate([np.nan if place == "last" else 0.0, 0.01, 0.08, 0.1]):
            about = {"place": place, "layer": layer - 1, "n_questions": 12, "n_pairs": 2}
            of = {**around("named", named, 0.005), **around("same", named / 2, 0.005), **around("pair_r", named * 3)}
            rows.append({**about, **of})
    answers = {"place": "answers", "layer": None, "n_questions": 12, "n_pairs": 2, **around("pair_r", 0.05)}
    return pd.DataFrame([*rows, answers])


def write(folder, peaks=None, words=0.4, personas=True, **profile):
    write_csv(folder / "places.csv", decoded(peaks or {"last": 0.3, "question": 0.5, "options": 0.1}, words))
    if personas:
        write_csv(folder / "personas.csv", entering())
        write_csv(folder / "pairs.csv", pd.DataFrame([("party", "D", "R")], columns=list(COLUMNS["pairs"])))
    write_json(folder / "study.json", ABOUT | {"profile": ABOUT["profile"] | profile})
    return load_map(folder)


def test_each_place_is_held_against_words_at_the_hook_layer(tmp_path):
    write(tmp_path, hook_layer=2)
    table = decoded({"last": 0.3, "question": 0.5, "options": 0.1}).assign(over_words=0.06)
    table = table.assign(over_words_low=0.012, over_words_high=0.112)
    table.loc[table["layer"] != 2, ["over_words", "over_words_low", "over_words_high"]] = 9.0
    write_csv(tmp_path / "places.csv", table)
    said = places.decoded_sentence(load_map(tmp_path))
    assert (
        "At the book's hook layer, 2, the correlation less that of words is +0.06 (+0.01 to +0.11) for the last" in said
    )
    assert said.endswith("for the option ends (paired intervals, not corrected for their number).")


def test_every_run_that_is_there_is_shown_once(tmp_path):
    assert every_map(tmp_path / "results" / "default", tmp_path) == []
    write(tmp_path / "results" / "studies" / "places", model="packaged:small", survey="gss")
    write(tmp_path / "results" / "opinionqa-qwen" / "studies" / "places", personas=False)
    write(tmp_path / "results" / "mine" / "studies" / "places", model="hub/mine")
    names = [one.name for one in every_map(tmp_path / "results" / "mine", tmp_path)]
    assert names == ["small on gss", "town on gss and opinionqa", "mine on gss and opinionqa"]
    for own in ("opinionqa-qwen", "default"):
        assert len(every_map(tmp_path / "results" / own, tmp_path)) == 2


def test_the_sentence_says_where_the_peak_is_and_what_is_not_told_apart_from_it(tmp_path):
    one = write(tmp_path)
    said = places.decoded_sentence(one)
    assert "no place is told apart as the best for reading group differences; the highest is the question's" in said
    assert "question's tokens at layer 1 with r = 0.50 (0.40 to 0.60), layers 1 to 2 not told apart from it" in said
    assert "meets that of the last token." in said  # up to 0.4, from which the best goes on
    assert "Words alone reach 0.40 (0.30 to 0.50), less than the best cell does, which is the best on" in said
    assert "At the book's hook layer" not in said  # of a table that was made before
    assert "which is not told apart from the best cell." in places.decoded_sentence(write(tmp_path, words=0.48))
    assert "more than any cell does." in places.decoded_sentence(write(tmp_path, words=0.7))
    apart = write(tmp_path, {"last": 0.9, "question": 0.5, "options": 0.1})
    assert "read best from the last token" in places.decoded_sentence(apart)
    assert "meets that of neither other place." in places.decoded_sentence(apart)
    one.tables["places"]["behind_low"] = -0.1
    assert places.decoded_sentence(one).count("no other layer told apart from it") == 3
    one.tables["places"]["behind_low"] = 0.1
    assert places.decoded_sentence(one).count("every other layer behind it") == 3


def test_layers_are_named_in_runs():
    assert places._runs([3, 4, 5, 9]) == "layers 3 to 5 and 9"
    assert places._runs([-1, 0, 1]) == "layers the embedding to 1" and places._runs([2]) == "layers 2"
    assert places._runs([-1, 3, 5]) == "layers the embedding, 3 and 5"


def test_what_a_persona_changes_is_said_for_each_place(tmp_path):
    one = write(tmp_path)
    said = places.named_sentence(one)
    whole = "of the last token at most 10.0% (9.5 to 10.5) at layer 2, half of that by layer 1 and 50% of it the same"
    assert whole in said and said.count("at most") == 3
    said = places.pairs_sentence(one)
    assert "on 12 held-out questions and 2 pairs of groups" in said
    assert "0.30 (0.20 to 0.40) for the last token (layer 2; above 0 by its interval at 2 of 4 layers)" in said
    assert said.endswith("The model's own answers under the personas: 0.05 (-0.05 to 0.15).")
    one.tables["personas"]["pair_r_low"] = -0.1
    assert places.pairs_sentence(one).count("above 0 by its interval at none of 4 layers") == 3
    without = write(tmp_path / "without", personas=False)
    assert "no persona has been named yet" in places.named_sentence(without) + places.pairs_sentence(without)


def test_tables_and_notes(tmp_path):
    one = write(tmp_path)
    assert "24 questions and 4 groups, 10 minutes on two cores" in places.note([one])
    assert "has not been run" in places.note([]) and "has not been run" in places.said_of([], places.named_sentence)
    assert "0.50 (0.40 to 0.60), layer 1" in places.summary_table([one]).html.replace("\u00a0", " ")
    assert "Nothing to show" in places.summary_table([]).text and "Nothing to show" in places.pairs_table([]).text
    assert "party" in places.pairs_table([one]).html


def test_figures_have_a_line_per_place_and_a_panel_per_run(tmp_path):
    one, other = write(tmp_path / "one"), write(tmp_path / "other", personas=False)
    panels = figures.decoded([one, other]).axes
    titles = [panel.get_title(loc="left").replace("\n", " ") for panel in panels]
    assert titles == [one.name, other.name]
    names = [line.get_label() for line in panels[0].get_lines()]
    assert [name for name in names if not str(name).startswith("_")] == [*PLACES.values(), "words"]
    assert len(figures.entering([one, other]).axes) == 2
    for nothing in (figures.decoded([]), figures.entering([other])):
        assert nothing.axes[0].texts[0].get_text() == figures.NOT_RUN


@pytest.mark.parametrize(("file", "text", "wrong"), [
    ("places.csv", "place,layer\nlast,1\n", r"places\.csv: columns .*gap_r.* are missing"),
    ("study.json", "{}", r"study\.json: fields"),
])  # fmt: skip
def test_tables_of_another_form_are_refused_by_name(tmp_path, file, text, wrong):
    write(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(ValueError, match=wrong):
        load_map(tmp_path)
