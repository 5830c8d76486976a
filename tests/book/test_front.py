"""The first page says what the tables say: when they turn, its sentences do."""

import numpy as np
import pandas as pd
import pytest

from opinion_sae.artifacts import write_csv, write_json
from opinion_sae.book.figures.gaps import front_figure
from opinion_sae.book.front import FRONT, abstract, abstract_of, front_rows, front_table, make_front, told
from opinion_sae.book.gap_claims import MEASURES

NONE = pd.DataFrame({"method": []})  # no splits
ABOUT = {"model": "packaged:a-model", "hook_layer": 7}


@pytest.fixture
def gaps():
    """The six methods at 0, 0.1, ... on both measures, and one group beside all."""
    rows = []
    for place, method in enumerate((*FRONT, "words+direct")):
        values = {name: place / 10 for name in MEASURES}
        values |= {
            f"{name}_{end}": place / 10 + by for name in MEASURES for end, by in (("low", -0.05), ("high", 0.05))
        }
        about = {"task": "toplines", "method": method, "n_questions": 12, "n_seeds": 1}
        rows += [about | {"group": group} | values for group in ("all", "Female")]
    return pd.DataFrame(rows)


def claims(seeds=1, **verdicts):
    """All supported but those named, such as words=('not supported', 'contradicted'): by correlation, by KL."""
    rows = []
    references = ("delta", "dense-reading", "random-dictionary", "words")
    pairs = [("delta-reading", reference) for reference in references]
    for method, reference in (*pairs, ("words+direct", "words")):
        name = "added" if method == "words+direct" else reference.replace("-", "_")
        found = verdicts.get(name, ("supported", "supported"))
        for measure, verdict in zip(MEASURES, found, strict=True):
            size = dict(effect=-0.04, low=-0.072, high=0.011, n_seeds=seeds)
            rows.append(dict(method=method, reference=reference, measure=measure, verdict=verdict, **size))
    return pd.DataFrame(rows)


def test_four_sentences_with_the_numbers_of_the_table(gaps):
    did, found, made_of, words = abstract(gaps, claims(), ABOUT, NONE).splitlines()
    assert "after layer 7 of a-model" in did and "1 groups" in did and "12 held-out questions" in did
    assert "0.10 (0.05 to 0.15) and closes 0.10" in found and "(0.00 and 0.00)" in found
    assert "0.20 and 0.20" in made_of and "without an autoencoder 0.40 and 0.40 (worse by both)" in made_of
    assert made_of.endswith("on random directions 0.30 and 0.30 (worse by both).")
    assert "0.50 (0.45 to 0.55) and 0.50" in words
    assert "does better than them on both measures" in words
    assert "words and latents (0.60 and 0.60) does better than words alone on both measures" in words
    assert words.endswith("(one seed, 95% intervals, corrected tests).")


def test_what_a_gap_is_and_which_kl_is_meant_is_said_where_they_come_first(gaps):
    said = abstract(gaps, claims(), ABOUT, NONE)
    assert (
        "each group's gap on 12 held-out questions: its mean place on the scale of options minus everybody's." in said
    )
    assert said.index("gap") == said.index("gap on 12") and said.index("KL") == said.index("KL divergence between")


def test_no_sentence_is_longer_than_it_can_be_read(gaps):
    unsure = dict.fromkeys(
        ("delta", "dense_reading", "random_dictionary", "words", "added"), ("not supported", "contradicted")
    )
    for line in abstract(gaps, claims(**unsure), ABOUT, NONE).splitlines():
        assert len(line.split()) <= 70, line


def test_a_number_turns_with_the_table(gaps):
    gaps.loc[gaps["method"] == "words", ["gap_r", "gap_r_low", "gap_r_high"]] = -0.2, -0.3, -0.1
    assert "reach -0.20 (-0.30 to -0.10)" in abstract(gaps, claims(), ABOUT, NONE)


@pytest.mark.parametrize(
    ("reference", "line", "than"),
    [
        ("delta", 1, "one that is the same for every question"),
        ("words", 3, "them"),
    ],
)
def test_a_verdict_turns_with_the_tests(gaps, reference, line, than):
    def said(by_r, by_kl):
        verdicts = {reference.replace("-", "_"): (by_r, by_kl)}
        return abstract(gaps, claims(**verdicts), ABOUT, NONE).splitlines()[line]

    assert f"does better than {than} on both measures" in said("supported", "supported")
    assert f"does worse than {than} on both measures" in said("contradicted", "contradicted")
    assert f"is not shown to differ from {than} on either measure" in said("not supported", "not supported")
    unsure = f"does worse than {than} by KL, and by correlation no difference is shown"
    assert unsure in said("not supported", "contradicted")
    assert f"does better than {than} by correlation, and by KL worse" in said("supported", "contradicted")


@pytest.mark.parametrize(("reference", "value"), [("dense-reading", "0.40"), ("random-dictionary", "0.30")])
def test_what_is_lost_without_a_part_turns_with_the_tests(gaps, reference, value):
    def said(by_r, by_kl):
        verdicts = {reference.replace("-", "_"): (by_r, by_kl)}
        return abstract(gaps, claims(**verdicts), ABOUT, NONE).splitlines()[2]

    assert f"{value} and {value} (worse by both)" in said("supported", "supported")
    assert f"{value} and {value} (better by both)" in said("contradicted", "contradicted")
    assert f"{value} and {value} (not shown to differ)" in said("not supported", "not supported")
    assert f"{value} and {value} (worse by KL)" in said("not supported", "supported")
    assert f"{value} and {value} (worse by correlation, better by KL)" in said("supported", "contradicted")


def test_what_no_fit_saw_is_said_and_when_the_toplines_alone_are_nearer(gaps):
    row = {"task": "toplines", "group": "all", "gap_r": 0.01, "group_kl_closed": -0.05, "group_kl_closed_high": -0.03}
    of = {"topic": {"gap_r": 0.17, "group_kl_closed": 0.07, "group_kl_closed_high": 0.1}, "survey": {}}
    splits = pd.DataFrame(
        [row | {"method": f"delta-reading-by-{split}", "split": split} | more for split, more in of.items()]
    )

    def said(splits):
        return abstract(gaps, claims(), ABOUT, splits).splitlines()[1]

    alone = "; on unseen topics 0.17 and 0.07, on another survey 0.01 and -0.05"
    assert said(splits).endswith(f"{alone}, worse than everybody's answers.")
    assert said(splits.assign(group_kl_closed_high=0.1)).endswith(f"{alone}.")
    assert said(splits[splits["split"] == "topic"]) == said(NONE)  # with one of them only, neither


def test_what_the_model_adds_to_words_turns_with_the_tests(gaps):
    said = abstract(gaps, claims(added=("not supported", "supported")), ABOUT, NONE)
    assert "does better than words alone by KL, and by correlation no difference is shown" in said


def test_claims_over_seeds_are_taken_where_they_are_of_the_same_run(gaps, tmp_path):
    own = {"data": "d", "model": "m", "sae": "s"}
    write_json(tmp_path / "run.json", {"profile": ABOUT, "hashes": {name: {name: of} for name, of in own.items()}})
    write_csv(tmp_path / "gaps.csv", gaps)
    write_csv(tmp_path / "gap_claims.csv", claims(words=("contradicted", "contradicted")))
    one = abstract_of(tmp_path).splitlines()
    assert "does worse than them on both measures" in one[3] and "one seed" in one[3]
    many = claims(5, words=("not supported", "contradicted"), added=("not supported", "not supported"))
    many = many[many["reference"] != "delta"]  # a pair that these lack
    write_csv(tmp_path / "evaluate_gap_claims.csv", many)
    assert abstract_of(tmp_path).splitlines() == one  # it is not known of what they are
    write_json(tmp_path / "evaluate.json", {"hashes": own})
    seeds = abstract_of(tmp_path).splitlines()
    assert "does worse than them by KL, and by correlation no difference is shown" in seeds[3] and "5 seeds" in seeds[3]
    assert "is not shown to differ from words alone on either measure (5 seeds, 95%" in seeds[3]
    assert seeds[:3] == one[:3]
    several = gaps[gaps["method"] == "delta-reading"].assign(gap_r=0.15, n_seeds=5)
    write_csv(tmp_path / "evaluate_gaps.csv", several)
    assert "with correlation 0.15 (" in abstract_of(tmp_path) and "(0.00 and 0.00)" in abstract_of(tmp_path)
    assert "over 5 seeds where there is" in make_front(tmp_path, tmp_path)["front_table"]
    write_json(tmp_path / "evaluate.json", {"hashes": own | {"sae": "another"}})
    assert abstract_of(tmp_path).splitlines() == one


def test_the_table_has_six_rows_and_no_nan(gaps):
    gaps.loc[gaps["method"] == "words", "gap_r"] = np.nan
    lines = front_table(gaps).splitlines()
    assert len(lines) == 10 and "too few questions" in lines[-2] and "nan" not in lines[-2]
    assert any("(0.05\u00a0to\u00a00.15)" in line for line in lines)  # in one piece on a phone


def test_the_picture_shows_the_rows_of_the_table(gaps):
    figure = front_figure(front_rows(gaps))
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()][1] == "reading Δ"
    drawn = [bar.lines[0].get_xdata()[0] for bar in figure.axes[0].containers]
    assert drawn == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])


def test_the_model_that_is_told_of_its_group_is_held_against_reading_where_it_was_asked(gaps):
    assert (
        told(gaps, claims()) == "`make evaluate` asks the model that is told of its group, and has not been run here."
    )
    prompted = gaps[gaps["method"] == "words"].assign(
        method="prompt-best", gap_r=-0.02, gap_r_low=-0.1, gap_r_high=0.06
    )
    others = claims().replace({"reference": {"words": "prompt-best"}})
    said = told(pd.concat([gaps, prompted]), others)
    assert (
        "the reading Δ does better than the persona prompt in the style chosen on validation (-0.02 (-0.10 to" in said
    )
    assert said.endswith("and 0.50) on both measures.") and "LoRA" not in said
    worse = others.assign(verdict="contradicted")
    assert "the reading Δ does worse than the persona prompt" in told(pd.concat([gaps, prompted]), worse)


def test_a_run_without_gaps_has_no_first_page(tmp_path):
    assert make_front(tmp_path, tmp_path) == {}
