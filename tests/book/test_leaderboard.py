"""The leaderboard: ranks and ratios by hand, sentences that turn with the table, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from opinion_sae.artifacts import write_csv, write_json
from opinion_sae.book import compare, leaders
from opinion_sae.book.command import main
from opinion_sae.book.figures.leaderboard import LOOKS, gain_and_cost
from opinion_sae.book.leaderboard import COLUMNS, harmonic_mean, leaves_the_model, side_effect_ratio, with_ranks
from opinion_sae.methods.registry import KINDS, METHODS


def board(**changes):
    """Three methods on 100 questions and a prompt on 9."""
    rows = {
        "delta-reading": {"kind": "reading", "gap_r": 0.5, "total_seconds": 60.0, "next_token_kl": 0.02, "target": 0.4},
        "words": {"kind": "read only", "gap_r": 0.6, "total_seconds": 2.0},
        "direct": {"kind": "read only", "gap_r": 0.55, "total_seconds": 5.0},
        "prompt-qa": {"kind": "prompt", "gap_r": 0.1, "total_seconds": 90.0, "n_questions": 9},
    }
    for method, cells in changes.items():
        rows[method.replace("_", "-")] |= cells
    found = pd.DataFrame([{"method": method, "n_questions": 100, **cells} for method, cells in rows.items()])
    found["gap_r_low"], found["gap_r_high"] = found["gap_r"] - 0.1, found["gap_r"] + 0.1
    found["minus_reading"] = found["gap_r"] - 0.5
    found["minus_reading_low"], found["minus_reading_high"] = (
        found["minus_reading"] - 0.07,
        found["minus_reading"] + 0.07,
    )
    whole = found["n_questions"] == 100
    found["rank"] = found["gap_r"].where(whole).rank(ascending=False)
    found["rank_low"], found["rank_high"] = found["rank"].clip(upper=1), found["rank"] + 1
    found["accuracy_change"] = 0.01
    return found.reindex(columns=COLUMNS)


def kept(folder, found):
    write_csv(folder / "leaderboard.csv", found)
    about = {"machine": "2 cores", "seconds": {"gpo": 90.0, "total": 600.0}, "missing": ["yapo", "words-cost"]}
    write_json(folder / "leaderboard.json", about)


def test_it_is_read_best_first_with_what_made_it(tmp_path):
    kept(tmp_path, board())
    found, note = leaders.load_leaderboard(tmp_path)
    assert found["method"].tolist() == ["words", "direct", "delta-reading", "prompt-qa"]
    assert "2 cores in 10 minutes" in note and "missing are `yapo`." in note
    for caption, columns in leaders.TABLES.items():
        assert len(columns) <= 11 and set(columns.values()) <= set(COLUMNS)
        assert "reading Δ" in str(leaders.shown(found, caption).html)


def test_without_one_everything_says_so(tmp_path):
    found, note = leaders.load_leaderboard(tmp_path)
    assert note == leaders.NONE == leaders.first_sentence(found) == leaders.cost_sentence(found)
    assert all(leaders.shown(found, caption).text == leaders.NONE for caption in leaders.TABLES)
    assert leaders.kind_sentence(found, "prompt").endswith("nothing has been compared.")
    assert leaders.NONE in gain_and_cost(found).axes[0].texts[0].get_text()


def test_a_broken_table_is_refused(tmp_path):
    kept(tmp_path, board().drop(columns="gap_r"))
    with pytest.raises(ValueError, match="gap_r"):
        leaders.load_leaderboard(tmp_path)


def test_the_first_sentence_turns_with_the_table():
    said = leaders.first_sentence(board())
    assert "is that of the read-out of words, 0.60 (0.50 to 0.70)" in said and "3 of 3 methods" in said
    found = board(delta_reading={"gap_r": 0.9})
    found["rank_low"] = found["rank"]
    said = leaders.first_sentence(found)
    assert "the reading Δ, 0.90" in said and "no other comes first" in said


def test_a_kinds_sentence_turns_with_the_table():
    assert "it is above the reading Δ by 0.10 (0.03 to 0.17)" in leaders.kind_sentence(board(), "read only")
    said = leaders.kind_sentence(board(words={"gap_r": 0.3}), "read only")
    assert said.startswith(
        "Of 2 read-outs of the question the highest gap correlation, 0.55 (0.45 to 0.65), is that of the"
    )
    assert "read-out of latents; it cannot be told from" in said
    said = leaders.kind_sentence(board(), "prompt")
    assert "on 9 of 100 questions only" in said and "it is below the reading Δ by 0.40 (0.33 to 0.47)" in said
    said = leaders.kind_sentence(board(), "reading")
    assert "0.02 nats" in said and "+1 points" in said and "below" not in said
    with pytest.raises(KeyError):
        leaders.kind_sentence(board(), "nonsense")


def test_each_method_has_a_sentence_that_turns_with_the_table():
    said = leaders.method_sentences(board(words={"harmonic_mean": 0.91})).splitlines()
    assert len(said) == 4 and said[1] == (
        "- The read-out of words: gap correlation 0.60 (0.50 to 0.70), rank 1 (1 to 2), above the reading Δ; "
        "harmonic mean 0.91; 2 s."
    )
    assert said[0].startswith("- The reading Δ: gap correlation 0.50 (0.40 to 0.60), rank 3 (1 to 4); 60 s.")
    assert "not to be told from the reading Δ" in said[2]
    assert "on 9 of 100 questions, below the reading Δ; 90 s." in said[3]
    assert leaders.method_sentences(board()[:0]) == leaders.NONE


def test_what_was_asked_little_is_told_with_what_the_rest_would_take():
    found = board(prompt_qa={"ms_per_answer": 171.2, "total_seconds": 1394.0})
    assert leaders.unasked_sentence(found) == (
        "To ask all 100 questions for every group would take the persona prompt as a question 23 minutes (171 ms an "
        "answer)."
    )
    assert leaders.unasked_sentence(found[:3]) == "Every method answered every question."


def test_the_sentence_of_two_wordings(tmp_path):
    found = board(delta_reading={"reworded_r": 0.8}, words={"reworded_r": 0.4}, direct={"reworded_r": 0.6})
    assert "nothing has been compared" in leaders.reworded_sentence(found, tmp_path)
    write_json(tmp_path / "leaderboard.json", {"people": {"pairs": 13.0, "reworded_r": 0.5, "corrected": 0.7}})
    assert leaders.reworded_sentence(found, tmp_path) == (
        "Over 13 questions that were asked in two wordings, people's gaps correlate at 0.50 (0.70 without the noise of "
        "sampling); from toplines the reading Δ has 0.80, the 2 others 0.40 to 0.60."
    )


def test_the_sentence_of_what_remains_of_an_attribute(tmp_path):
    assert leaders.remains_sentence(tmp_path) == "What attributes share has not been measured."
    left = {"party without race": 0.75, "race without party": 0.5, "age without race": 0.25}
    write_json(tmp_path / "leaderboard.json", {"remains": {"splits": 5, "used": 5, "left": left}})
    assert leaders.remains_sentence(tmp_path) == (
        "Of the square of Δ's own parts there is left: of party, without what it shares with race, 75%; of race, "
        "without what it shares with party, 50%; over all 3 ordered pairs the least is age without race, 25%."
    )
    write_json(tmp_path / "leaderboard.json", {"remains": {"splits": 5, "used": 2, "left": left}})
    said = leaders.remains_sentence(tmp_path)
    assert "parts in the 2 of 5 splits that have such parts (in the rest D = 0) there is left: of party" in said
    write_json(tmp_path / "leaderboard.json", {"remains": {"splits": 5, "used": 0, "left": {}}})
    assert leaders.remains_sentence(tmp_path).startswith("In every split D = 0")


def test_rows_of_methods_whose_answers_are_gone_stay_without_ranks_if_the_bench_is_the_same(tmp_path, capsys):
    of = {"data": "a", "model": "b", "sae": "c"}
    assert not len(compare.kept_rows(tmp_path, of))
    write_csv(tmp_path / "leaderboard.csv", board().drop(columns="reworded_r"))  # of an older version
    write_json(tmp_path / "leaderboard.json", {"hashes": of})
    found = compare.kept_rows(tmp_path, of)
    assert found["gap_r"].tolist() == [0.5, 0.6, 0.55, 0.1] and list(found.columns) == COLUMNS
    assert found[["rank", "rank_low", "rank_high", "reworded_r"]].isna().all(axis=None)
    together = compare.with_kept(board()[:1], found)
    assert together["method"].tolist() == ["delta-reading", "words", "direct", "prompt-qa"]
    assert together["rank"].notna().tolist() == [True, False, False, False]
    assert not len(compare.kept_rows(tmp_path, of | {"sae": "d"}))
    assert "of another survey, model or SAE" in capsys.readouterr().out


def test_the_cost_sentence_names_what_nothing_faster_beats():
    assert leaders.cost_sentence(board()) == (
        "Of the methods that were timed, better than all that take less time: the read-out of words (2 s, 0.60)."
    )
    said = leaders.cost_sentence(board(words={"gap_r": 0.3}))
    assert "words (2 s, 0.30); the read-out of latents (5 s, 0.55)." in said


def test_the_figure_names_the_best_of_each_kind():
    found = board()
    drawn = gain_and_cost(found)
    named = {text.get_text().replace("\n", " ") for text in drawn.axes[0].texts}
    assert named == {"reading Δ", "words", "persona prompt, question"}
    assert set(LOOKS) == set(KINDS)


def test_ranks_share_the_best_place_and_leave_out_who_answered_few():
    table = pd.DataFrame({"method": ["a", "b", "c", "d"], "n_questions": [5, 5, 5, 2]})
    draws = {"a": [0.2, 0.3, 0.1], "b": [0.4, 0.2, 0.4], "c": [0.2, 0.1, 0.0], "d": [0.9, 0.9, 0.9]}
    found = with_ranks(table, {name: np.array(r) for name, r in draws.items()}).set_index("method")
    assert found["rank"].tolist()[:3] == [2, 1, 2] and np.isnan(found.loc["d", "rank"])
    assert found.loc["c", "rank_low"] == 3 and found.loc["b", "rank_high"] == pytest.approx(2, abs=0.1)


def test_side_effect_ratio_by_hand():
    shares = np.array([[[0.6, 0.4], [0.3, 0.7], [0.5, 0.5], [np.nan, np.nan]]])
    plain = np.log(np.array([[[0.9, 0.1]] * 4]))
    table = np.log(np.array([[[0.2, 0.8], [0.2, 0.8], [0.8, 0.2], [0.2, 0.8]]]))
    # the first is changed for the worse, the second for the better, the third not at all, nobody answered the fourth
    assert side_effect_ratio(shares, plain, table) == 0.5
    assert np.isnan(side_effect_ratio(shares, plain, plain))


def test_text_and_facts_stay_the_models_under_what_reads_or_rescales_only():
    assert all(leaves_the_model(name) for name in ("uniform", "words", "direct", "calibrated", "probe"))
    assert not any(leaves_the_model(name) for name in ("delta-joint", "prompt-best", "lora", "unembedding"))


def test_harmonic_mean():
    assert harmonic_mean([0.5, 1.0, 1.0]) == pytest.approx(0.75) and harmonic_mean([0.0, 1.0, 1.0]) == 0


def test_an_unknown_method_gets_one_line_with_the_names(capsys):
    assert main(["compare", "--methods", "delta,nonsense", "--", "smoke"]) == 1
    said = capsys.readouterr().err
    assert "no method is called nonsense; there are unsteered, " in said and "lora" in said
    assert len(said.strip().splitlines()) == 1


def test_methods_run_in_order_of_worth():
    assert compare.check_names(["gpo", "corrsteer"]) == ["corrsteer", "gpo"]
    assert compare.check_names([]) == list(METHODS)


def test_options_in_reverse_say_whether_letters_or_opinions_are_moved():
    rows = pd.DataFrame({"method": ["delta-reading", "delta", "words"], "wording_r": [0.41, -0.9, 1.0]})
    said = leaders.turned_sentence(rows)
    assert "at 0.41 for the reading Δ, -0.90 for Δ; below zero" in said and said.endswith("no opinion (Δ).")
    assert "below zero" not in leaders.turned_sentence(rows.assign(wording_r=0.2))
    assert leaders.turned_sentence(rows.assign(wording_r=np.nan)).startswith("Nothing has been asked")
