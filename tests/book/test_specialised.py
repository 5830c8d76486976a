"""Chapter 24's tables and sentences: another table, another sentence; what is absent is said."""

import pandas as pd
import pytest

from opinion_sae.book import specialised
from opinion_sae.book.figures import specialised as figures
from opinion_sae.book.study_tables import load_tables
from opinion_sae.score.metrics import ENDS

SAES = [("general", "", 0.0), ("tuned", "dense", 0.0), ("tuned", "dense", 500.0), ("scratch", "dense", 0.0)]


def ends(name, *values):
    return dict(zip((f"{name}{end}" for end in ENDS), values, strict=True))


def about(kind):
    return dict(zip(("start", "strategy", "tilt"), kind, strict=True)) | {"n_seeds": 1}


@pytest.fixture
def gaps():
    """All latents: the first gains for sure, the last loses for sure; 64 latents: nobody knows."""
    gains = [(0.0, 0.0, 0.0), (0.05, 0.01, 0.09), (0.01, -0.02, 0.04), (-0.06, -0.1, -0.02)]
    rows = [
        {**about(kind), "latents": latents, **ends("gap_r", 0.5, 0.4, 0.6), **ends("group_kl_closed", 0.2, 0.1, 0.3)}
        | (ends("gap_r_gain", *gain) if not latents else ends("gap_r_gain", 0.0, -0.1, 0.1))
        | ends("group_kl_closed_gain", 0.0, 0.0, 0.0)
        for kind, gain in zip(SAES, gains, strict=True)
        for latents in (0, 64)
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def quality():
    rows = [
        {**about(("model", "", 0.0)), "k": 0, **ends("perplexity_text", 20, 20, 20)}
        | ends("perplexity_questions", 9, 9, 9)
    ]
    for number, kind in enumerate(SAES):
        for k in (16, 32, 64):
            of = [ends(f"l0_{place}", k, k, k) for place in ("text", "questions")]
            value = 30 - k / 8 + number
            of += [ends(f"perplexity_{place}", value, value, value) for place in ("text", "questions")]
            rows.append({**about(kind), "k": k, **{key: cell for one in of for key, cell in one.items()}})
    return pd.DataFrame(rows)


@pytest.fixture
def dictionary():
    places = {"covered": ("from 0", "from 1"), "error": ("from 1", "from 1001"), "own": ("0.5",), "cosine": ("0.5",)}
    rows = [
        {**about(kind), "measure": measure, "place": place, **ends("value", *[0.1 * number + 0.3] * 3)}
        for number, kind in enumerate(SAES)
        for measure, of in places.items()
        for place in of
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def accuracy():
    cells = {
        ("confounded", 0): 0.2,
        ("zeroed", 64): 0.3,
        ("retrained", 64): 0.4,
        ("retrained-cards", 64): 0.35,
        ("random", 64): 0.25,
        ("balanced", 0): 0.6,
    }
    rows = [
        {"features": name, "treatment": treatment, "taken": taken, "draws": 30, "questions": 270}
        | ends("accuracy", 0.6, 0.5, 0.7)
        | ends("worst", worst, worst - 0.1, worst + 0.1)
        | ends("gain", worst - 0.2, worst - 0.25, worst - 0.15)
        for name in specialised.FEATURES
        for (treatment, taken), worst in cells.items()
        if name != "stream" or treatment != "retrained-cards"
    ]
    return pd.DataFrame(rows)


def test_gains_are_counted_by_their_intervals(gaps):
    said = specialised.gains(gaps)
    assert "reading all latents, 1 of 3 specialised SAEs gives a higher" in said and "and 1 a lower one" in said
    assert "trained on: sentence embeddings (+0.050, +0.010 to +0.090)" in said
    assert "reading 64 latents an axis, none of 3" in said
    turned = specialised.gains(gaps.assign(gap_r_gain_low=-1.0, gap_r_gain_high=1.0))
    assert "reading all latents, none of 3" in turned and "and none a lower" in turned


def test_findings_turn_with_both_tables(gaps, accuracy):
    said = specialised.findings(gaps, accuracy)
    assert said.startswith("1 of 3 specialised SAEs") and "on 5 of 5 kinds of features (best +0.20)" in said
    turned = specialised.findings(gaps.assign(gap_r_gain_low=-1.0), accuracy.assign(gain_low=-1.0))
    assert turned.startswith("none of 3") and "on 0 of 5" in turned
    assert specialised.findings(gaps.iloc[:0], accuracy.iloc[:0]).endswith("has not been measured.")


def test_perplexity_tells_the_range_of_those_trained_on(quality):
    other = quality[quality["strategy"].eq("dense") & quality["start"].eq("tuned")].assign(strategy="bm25", tilt=0.0)
    quality = pd.concat([quality, other.assign(perplexity_text=40.0)])
    said = specialised.perplexity(quality)
    assert "on held-out text perplexity is 20.0 with the model as it is, 26.0 with the book's SAE" in said
    assert "from 27.0 (sentence embeddings) to 40.0 (BM25)" in said
    turned = specialised.perplexity(quality.assign(perplexity_text=50 - quality["perplexity_text"]))
    assert "from 10.0 (BM25) to 23.0 (sentence embeddings)" in turned


def test_unexplained_variance_is_told_by_place():
    kinds = [*SAES[:2], ("tuned", "seed", 0.0)]
    values = {"fvu_text": (0.15, 0.17, 0.2), "fvu_questions": (0.07, 0.06, 0.05), "fvu_answers": (0.1, 0.2, 0.3)}
    table = pd.DataFrame([about(kind) | {name: of[n] for name, of in values.items()} for n, kind in enumerate(kinds)])
    said = specialised.unexplained(table)
    assert "at held-out text 0.150 with the book's SAE and, trained on, from 0.170 (sentence embeddings)" in said
    assert (
        "at the tokens of held-out questions 0.070 with the book's SAE and, trained on, from 0.050 (questions" in said
    )
    assert "from 0.900" in specialised.unexplained(table.assign(fvu_text=0.9))
    assert specialised.unexplained(table.iloc[:0]).startswith("No SAE")


def test_tokens_and_rows_turn_with_their_table(dictionary):
    said = specialised.tokens(dictionary)
    assert "0.300 (the book's SAE), 0.400 (trained on: sentence embeddings), 0.500" in said
    turned = dictionary.assign(value=0.9)
    assert "0.900 (the book's SAE)" in specialised.tokens(turned)
    assert specialised.rows(dictionary).startswith("Half of the live rows have a cosine of at least 0.400 with the row")
    assert "0.900 with the nearest" in specialised.rows(turned)


def test_the_highest_of_the_rows_and_their_seeds(gaps):
    best = gaps["start"].eq("scratch")
    said = specialised.highest(gaps.assign(gap_r=gaps["gap_r"] + 0.05 * best, n_seeds=3 - best))
    assert "is that of scratch: sentence embeddings (0.550), and it lies within the intervals of 4 of 4 SAEs" in said
    assert said.endswith("means over 2 to 3 seeds.")
    turned = specialised.highest(gaps.assign(gap_r=gaps["gap_r"] + 0.2 * best))
    assert "within the intervals of 0 of 4 SAEs" in turned and turned.endswith("means over 1 seed.")
    assert specialised.highest(gaps.iloc[:0]) == "No offset has been fitted to an SAE yet."


def test_how_few_latents_an_offset_needs(gaps):
    more = pd.concat([gaps, gaps[gaps["latents"] == 64].assign(latents=16, gap_r=0.3)])
    said = specialised.needed(more)
    assert said.startswith(
        "For 90% of the gap correlation that all latents give, an axis has to read 64 with the book's"
    )
    assert said.endswith("the fewest of 16, 64 from which on none reaches less.")
    turns = pd.concat([more, gaps[gaps["latents"] == 64].assign(latents=128, gap_r=0.3)])
    assert "more than 128 with the book's SAE" in specialised.needed(turns)  # 64 is enough, 128 is not
    turns = pd.concat([turns, gaps[gaps["latents"] == 64].assign(latents=256, gap_r=0.5)])
    assert "256 with the book's SAE" in specialised.needed(turns)
    assert "16 with the book's SAE" in specialised.needed(more.assign(gap_r=0.5))
    worse = more.assign(gap_r=more["gap_r"].where(more["latents"] == 0, 0.1))
    assert "more than 64 with the book's SAE" in specialised.needed(worse)
    assert "has not been measured" in specialised.needed(gaps)


def test_the_middle_latent_is_told_by_its_spread(dictionary):
    rows = dictionary[dictionary["measure"] == "own"]
    more = pd.concat([rows.assign(measure=measure) for measure in ("entropy", "maximum")])
    said = specialised.spreads(more)
    assert "entropy over tokens 0.30 nats (the book's SAE) to 0.60 nats (scratch: sentence embeddings)" in said
    assert "strongest firing 0.30" in said and "0.90 nats" in specialised.spreads(more.assign(value=0.9))
    assert specialised.spreads(dictionary) == "No spread is known."


def test_the_map_says_how_little_it_shows():
    table = pd.DataFrame([{"first_explained": 0.012, "second_explained": 0.01}])
    assert "hold 2.2% of the variance" in specialised.on_the_plane(table)
    assert specialised.on_the_plane(table.iloc[:0]) == ""


def test_labels_are_told_by_their_scores():
    table = pd.DataFrame([{**about(SAES[1]), "latents": 90, **ends("detection", 0.7, 0.6, 0.8)}])
    assert "0.70 (0.60 to 0.80) with trained on: sentence embeddings" in specialised.labels(table)
    assert "0.90" in specialised.labels(table.assign(detection=0.9))
    assert specialised.labels(table.iloc[:0]).startswith("No labels")


def test_the_probe_is_told_beside_the_oracle(accuracy):
    said = specialised.shift(accuracy)
    assert "with the oracle: the stream itself 0.20, 0.40 without 64 (clearly more), oracle 0.60" in said
    assert "The largest gain is without fitting the probe anew +0.10 and with as many drawn at random" in said
    assert "one half" not in said
    turned = specialised.shift(accuracy.assign(worst=0.4, gain_low=-1.0))
    assert "0.40, 0.40 without 64 (not clearly more), oracle 0.40" in turned
    assert "lies below one half even for the oracles" in turned


def test_cards_are_told_beside_scores(accuracy):
    said = specialised.by_cards(accuracy)
    assert "in 4 of 4 cases, by an interval of the gain, and chosen by score in 4" in said
    assert said.endswith("the best gain by cards is +0.15, without 64 on the book's SAE.")
    best = (accuracy["features"] == "narrow") & (accuracy["treatment"] == "retrained-cards")
    turned = accuracy.assign(gain_low=-1.0).assign(gain=accuracy["gain"].mask(best, 0.3))
    said = specialised.by_cards(turned)
    assert "in none of 4 cases" in said and said.endswith("+0.30, without 64 on an eighth of the width.")
    assert specialised.by_cards(accuracy.iloc[:0]) == ""


def test_more_numbers_of_latents_get_a_panel_of_their_own(gaps, dictionary):
    more = pd.concat([gaps, gaps[gaps["latents"] == 64].assign(latents=16)])
    assert len(figures.gains(gaps).axes) == 1 and len(figures.gains(more).axes) == 2
    assert [text.get_text() for text in figures.gains(more).axes[1].get_xticklabels()] == ["16", "64", "all"]
    assert len(figures.tokens(dictionary).axes) == 3  # shares, errors, and the cosines, of which the middle is known


def test_figures_draw_what_is_there_and_say_so_where_nothing_is(gaps, quality, dictionary, accuracy):
    row = {"row": 0, "first": 0.1, "second": 0.2, "first_explained": 0.5, "second_explained": 0.2}
    places = pd.DataFrame([{"sae": name, **row} for name in ("general-0", "tuned-dense-0", "tuned-dense-t500-0")])
    for draw, table in (
        (figures.gains, gaps),
        (figures.perplexity, quality),
        (figures.tokens, dictionary),
        (figures.places, places),
        (figures.worst_group, accuracy),
    ):
        assert len(draw(table).axes[0].get_xlabel() + draw(table).axes[0].get_ylabel()) > 0
        assert not draw(table.iloc[:0]).axes[0].axison


def test_tables_that_are_not_there_are_said_to_be_missing(tmp_path):
    found = load_tables("specialised", tmp_path)
    assert all(table.empty for table in found.tables.values()) and found.about == {}
    assert specialised.gains(found["gaps"]).startswith("No offset")
    assert specialised.perplexity(found["quality"]).startswith("No SAE")


def test_an_sae_without_a_strategy_is_read_as_it_was_written(tmp_path, gaps):
    (tmp_path / "specialised").mkdir()
    gaps.to_csv(tmp_path / "specialised" / "gaps.csv", index=False)
    pd.testing.assert_frame_equal(load_tables("specialised", tmp_path)["gaps"], gaps, check_dtype=False)


def test_a_broken_table_is_refused_by_file_and_row(tmp_path, gaps):
    (tmp_path / "specialised").mkdir()
    gaps.assign(gap_r="high").to_csv(tmp_path / "specialised" / "gaps.csv", index=False)
    with pytest.raises(ValueError, match="gaps.csv: row 2, column 'gap_r': 'high' is no number"):
        load_tables("specialised", tmp_path)
