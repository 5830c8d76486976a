"""Leaderboards of several models side by side, and what stands against a model's size."""

import json

import numpy as np
import pandas as pd
import pytest

from opinion_sae.book import benches, leaders
from opinion_sae.book.figures.published import gaps_by_size
from opinion_sae.book.leaderboard import COLUMNS
from opinion_sae.book.published import GAPS, Published


def run_of(model, gaps=()):
    """A published run with those gap correlations on nine questions, each with an interval of 0.1 on either side."""
    rows = {m: (by, by - 0.1, by + 0.1, by, by - 0.1, by + 0.1, 9) for m, by in dict(gaps).items()}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=[*GAPS, "n_questions"])
    empty = pd.DataFrame()
    about = {"profile": {"model": model, "hook_layer": 1}}
    return Published(empty, empty, empty, empty, empty, {}, about, table, empty, empty)


def write_board(folder, r):
    """Methods with their gap correlation; 'lora' on three of nine questions, without a rank."""
    folder.mkdir()
    table = pd.DataFrame({"method": [*r], "gap_r": [*r.values()]}).reindex(columns=COLUMNS)
    table["kind"], table["n_questions"], table["group_kl_closed"] = "latents", 9, 0.2
    table.loc[table["method"] == "lora", "n_questions"] = 3
    table["gap_r_low"], table["gap_r_high"] = table["gap_r"] - 0.1, table["gap_r"] + 0.1
    table["rank"] = table["gap_r"].where(table["n_questions"] == 9).rank(ascending=False)
    table["minus_reading"] = table["gap_r"] - r["delta-reading"]
    for end, by in (("low", -0.07), ("high", 0.07)):
        table[f"minus_reading_{end}"] = table["minus_reading"] + by
    table.to_csv(folder / "leaderboard.csv", index=False)
    about = {"machine": "2 cores", "seconds": {"total": 600.0}, "missing": ["yapo"]}
    (folder / "leaderboard.json").write_text(json.dumps(about))


@pytest.fixture
def found(tmp_path):
    write_board(tmp_path / "one", {"delta-reading": 0.3, "words": 0.5, "delta": 0.1, "cast": 0.31, "lora": 0.0})
    write_board(tmp_path / "two", {"delta-reading": 0.4, "words": 0.5, "delta": 0.45, "lora": 0.1})
    runs = {"one": run_of("a-1b"), "two": run_of("b-2b"), "three": run_of("c-3b")}
    return benches.boards(runs, tmp_path)


def test_boards_stand_side_by_side_in_the_order_of_the_first(found):
    wide = benches.side_by_side(found)
    assert list(wide.index) == ["words", "cast", "delta-reading", "delta", "lora"]
    assert wide.loc["words", ("a-1b", "gap correlation")] == "0.50 (0.40 to 0.60)"
    assert wide.loc["lora", ("b-2b", "questions")] == "3" and wide.loc["cast", ("b-2b", "questions")] == ""
    assert list(wide.columns.levels[0]) == ["a-1b", "b-2b"]  # none of the run without a leaderboard
    assert benches.side_by_side({}).empty


def test_what_lies_above_the_reading_offset_is_named(found):
    first, second, third, *rest = benches.boards_text(found).splitlines()
    said = (
        "- With a-1b: the reading Δ lies above 1 of 3 other methods on all questions; above it: the read-out of words;"
    )
    assert first.startswith(said)
    assert (
        "not to be told from it: the conditional vector of CAST (intervals" in first
        and "2 cores in 10 minutes" in first
    )
    assert "missing are `yapo`" in first
    assert (
        "lies above 0 of 2 other methods on all questions; above it: the read-out of words; not to be told from it: Δ ("
        in second
    )
    assert third == f"- With c-3b: {leaders.NONE}"
    # by hand: delta, delta-reading, words are 1, 2, 3 in one and 2, 1, 3 in two: 1 - 6 x 2 / (3 x 8)
    assert "0.50 between a-1b and b-2b (3 methods)" in "".join(rest)
    assert benches.agreement({"three": found["three"]}).startswith("There are not two models'")


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("smollm2-135m-instruct", 135e6),
        ("qwen2.5-coder-0.5b-instruct-q4_k_m", 0.5e9),
        ("google/gemma-2-2b", 2e9),
        ("gpt2", np.nan),
        ("a-4bit-model", np.nan),
    ],
)
def test_a_models_name_says_how_large_it_is(name, count):
    assert benches.parameters(name) == pytest.approx(count, nan_ok=True)


def test_gaps_against_size_are_those_of_the_tables(found):
    three = ("delta", "delta-reading", "words")
    runs = {
        "two": run_of("models/b-1.5b.gguf", dict.fromkeys(three, 0.5)),
        "one": run_of("packaged:a-100m", dict.fromkeys(three, 0.1)),
        "three": run_of("gpt2", {"delta": 0.3}),
    }
    table = benches.gaps_by_size(runs, found)
    assert list(table["parameters"]) == [1e8] * 4 + [1.5e9] * 4  # lora from the leaderboards; gpt2 has no size
    assert table.loc[table["method"] == "lora", "whole"].tolist() == [False, False]
    figure = gaps_by_size({"OpinionQA": table, "another": table[:3], "none": table[:0]})
    lines = {bar.get_label(): bar.lines[0] for bar in figure.axes[0].containers}
    assert [list(line.get_ydata()) for line in lines.values()] == [[0.1, 0.5]] * 3 + [[0.0, 0.1]]
    assert [*lines][3] == "L: LoRA (3 questions)" and "questions" not in "".join([*lines][:3])
    assert [list(bar.lines[0].get_ydata()) for bar in figure.axes[1].containers] == [[0.1]] * 3
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["OpinionQA, 9 questions", "another, 9 questions"]
    said = benches.gaps_by_size_sentence({"OpinionQA": table})
    assert "from 100 million to 1,500 million" in said and "that of the reading Δ from 0.10 to 0.50" in said
    assert said.count("lie apart") == 2 and "words alone, which use no model, stand at 0.10" in said
    assert "that of LoRA over prompts that name the group from 0.00 to 0.10 (3 questions, intervals meet)" in said
    runs["two"] = run_of("b-1.5b", dict.fromkeys(three, 0.2))
    nearer = benches.gaps_by_size(runs, found)
    assert benches.gaps_by_size_sentence({"OpinionQA": nearer}).count("meet") == 3
    alone = benches.gaps_by_size({"one": runs["one"]}, found)
    both = benches.gaps_by_size_sentence({"here": alone, "there": table})
    assert both.startswith("On here: there are not yet two models to compare. On there: from 100 million")
    none = benches.gaps_by_size({}, {})
    assert len(none) == 0 and gaps_by_size({"here": none}).axes[0].texts
