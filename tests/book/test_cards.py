"""Lists of latents with cards, and what chapter 09 says of them: text from outside stays text, sentences turn with
tables."""

import re

import pandas as pd
import pytest

from opinion_sae.artifacts import write_csv, write_json
from opinion_sae.book import cards, latent_report
from opinion_sae.book.cards import COLUMNS, complete, places, read_labels

BAD = "</mark><script>alert(1)</script>\n```\n# not a heading"
CARD = {
    **{
        "latent": 7,
        "role": "read",
        "axis": 1,
        "weight": 0.5,
        "groups": "Up +1",
        "firing_rate": 0.1,
        "label": "road, *bad*",
    },
    **{"label_score": 0.75, "random_score": None, "fuzzing_score": 0.6, "random_fuzzing_score": 0.5},
    **{"gap_r_if_removed": -0.01, "gap_r_low": None, "gap_r_high": None, "kl_if_removed": 1.2e-6, "kl_low": -2e-6},
    **{"kl_high": 5e-7, "in_fit_to_all": True, "folds": 2, "seeds": None, "weights": [0.5, -0.25]},
    **{"pull": [("<b>Up", 1.0)], "promoted": [" <i>", " "], "suppressed": ["x"], "nearest": [(9, 0.5), (8, 0.25)]},
    "contexts": {
        "questions": {"rate": 0.01, "top": [("before ", "<road>", BAD, 2.5)], "middle": []},
        "texts": {"rate": 0.0, "top": [], "middle": []},
    },
}
WRITTEN = CARD | {"role": "write", "axis": None, "weight": -3.0, "weights": [-3.0]}
AXIS = {
    **{"axis": 1, "sentence": "Axis 1: questions about *roads*.", "groups": [["Up | down", 0.5, 0.4, 0.6]]},
    **{"up": [["Is it {{ kl }} or <b>?", "roads", 0.5]], "down": []},
}


def pages(results):
    return cards.pages(complete(results))


@pytest.fixture
def page(tmp_path, monkeypatch):
    monkeypatch.setattr(cards, "ON_A_PAGE", 1)
    others = [CARD | {"latent": 9, "axis": 2}, CARD | {"latent": 10, "weights": [-0.5, 0.0]}]
    others += [WRITTEN | {"latent": n} for n in (11, 7)]
    write_json(tmp_path / "cards.json", {"axes": [AXIS, AXIS | {"axis": 2}], "cards": [CARD, *others]})
    found = pages(tmp_path)
    assert list(found) == ["cards/axis-1", "cards/axis-2", "cards/written", "cards/written-2"]
    return found["cards/axis-1"]


def test_no_pages_before_the_chapter_has_run(tmp_path):
    assert pages(tmp_path) == {}


def test_text_from_outside_is_shown_as_it_is(page):
    lines = page.splitlines()
    assert "<script>" not in page and "<road>" not in page and "&lt;road&gt;" in page
    assert lines.count("```") == 2 and not any(line.startswith("# not") for line in lines)
    assert r"\{\{ kl \}\}" in page and r"\*roads\*" in page and r"Up \| down" in page and "&lt;b&gt;Up" in page


def test_a_card_can_be_linked_to_and_links_to_others(page):
    assert "(axis-1)=" in page and "(latent-7)=\n### Latent 7: road, \\*bad\\*" in page
    assert '<a href="../latents/9.html">9</a> (0.50), 8 (0.25)' in page
    assert "{ref}`7 <latent-7>`" in page and "{ref}`10 <latent-10>`" in page
    assert page.index("| +0.50 | {ref}") < page.index("| -0.50 | {ref}")


def test_an_axis_has_the_cards_of_its_ends_and_a_row_for_every_latent(tmp_path, monkeypatch):
    """One card at either end of five latents; of those without one the row has the name that links lead to."""
    monkeypatch.setattr(cards, "STRONGEST", 1)
    weights = {1: -0.9, 2: 0.8, 3: -0.7, 4: 0.6, 5: 0.0}
    found = [CARD | {"latent": n, "folds": 0, "weights": [weight, 0.0]} for n, weight in weights.items()]
    found[3] |= {"label": "cars"}
    found[4] |= {"label": "cars"}
    found[1] |= {"in_fit_to_all": False, "folds": 1}
    found[2] |= {"seeds": 3, "others": 4, "label": "a|b", "label_score": None}
    write_json(tmp_path / "cards.json", {"axes": [AXIS], "cards": found})
    head, _, rows = pages(tmp_path)["cards/axis-1"].partition("## All latents\n")
    assert re.findall("### Latent ([0-9]+)", head) == ["1", "2"]
    assert re.findall("{ref}`([0-9]+)", head) == ["2", "1"]
    assert rows.strip().splitlines() == [
        "5 latents have their largest weight on this axis. Each has a page of its own.",
        "",
        "````{table} All latents of this axis by size of weight, as above",
        "| Weight | Latent | Label | Label's score | Fits | Found by other seeds |",
        "| :-- | :-- | :-- | :-- | :-- | :-- |",
        r'| -0.90 | <a href="../latents/1.html">1</a> | road, \*bad\* | 0.75 | all questions | not known |',
        r'| +0.80 | <a href="../latents/2.html">2</a> | road, \*bad\* | 0.75 | 1 fold | not known |',
        r'| -0.70 | <a id="latent-3" href="../latents/3.html">3</a> | a\|b | not measured | all questions | 3 of 4 |',
        r'| +0.60 | <a id="latent-4" href="../latents/4.html">4</a> | cars | 0.75 | all questions | not known |',
        r'| +0.00 | <a id="latent-5" href="../latents/5.html">5</a> | cars | 0.75 | all questions | not known |',
        "````",
    ]
    assert places(found)["read", 4] == "axis-1.html#latent-4"


def test_what_is_written_has_a_page_of_its_own(page, tmp_path):
    assert "latent-11" not in page and "written-7" not in page
    written, second = (pages(tmp_path)[f"cards/{name}"] for name in ("written", "written-2"))
    assert "(what-is-written)=\n# What is written, 1 to 1\n" in written and "(what-is-written)=" not in second
    assert "on every axis: 2 to 2 by the size of their weights; the others: {doc}`1 to 1 <written>`.\n" in second
    assert '| -3 | <a id="written-7" href="../latents/7.html">7</a> | road, \\*bad\\* | 0.75 |' in second
    assert '| -3 | <a id="written-11" href="../latents/11.html">11</a> |' in written and "written-7" not in written
    assert "latent-card" not in written and places([WRITTEN, WRITTEN | {"latent": 11}]) == {
        ("write", 7): "written.html#written-7",
        ("write", 11): "written-2.html#written-11",
    }


def test_whether_other_seeds_have_it_is_said(page, tmp_path):
    assert "is not known: <code>make evaluate</code>" in page
    write_json(tmp_path / "cards.json", {"axes": [AXIS], "cards": [CARD | {"seeds": 0, "others": 4}]})
    assert "; found again in 0 of 4 SAEs of other seeds</dd>" in pages(tmp_path)["cards/axis-1"]


def test_labels_by_others_stand_on_the_card_as_text(tmp_path):
    write_json(tmp_path / "cards.json", {"sae": "ab", "axes": [AXIS], "cards": [CARD]})
    rows = [
        (7, "m at <b>", "m at <b>", "</dd><script>", 0.5, None, 0.25, 0.75, 20, 1, "ab"),
        (7, "packaged:a-model", "packaged:a-model", "packed", *[0.5] * 4, 20, 20, "ab"),
        (7, "statistics", "the label's words", "road", *[0.5] * 4, 20, 20, "ab"),
        (8, "m", "m", "None", *[1] * 6, "ab"),
        (7, "m", "m", "of another SAE", *[1] * 6, "cd"),
    ]
    write_csv(tmp_path / "labels.csv", pd.DataFrame(rows, columns=list(COLUMNS)))
    page = pages(tmp_path)["cards/axis-1"]
    assert (
        "<dt>Label by m at &lt;b&gt;</dt><dd>&lt;/dd&gt;&lt;script&gt;: detection 0.50 (random latent not measured),"
        in page
    )
    assert (
        "fuzzing 0.25 (random latent 0.75); judged by m at &lt;b&gt; on 20 stretches and 1 word of these texts</dd>"
        in page
    )
    assert "<dt>Label by a-model</dt><dd>packed: " in page and "judged by a-model on 20 stretches" in page
    assert page.count("the same on which a model's labels are judged</dd>") == 1  # the rule's scores on fewer texts
    assert "of another SAE" not in page
    assert read_labels(tmp_path, "ab")["label"].tolist() == ["</dd><script>", "packed", "road", "None"]


def test_a_card_says_what_chapter_22_found(tmp_path):
    write_json(tmp_path / "cards.json", {"axes": [AXIS], "cards": [CARD, CARD | {"latent": 8}]})
    rows = [("read", 7, "<b>Up; Down", s, 0.01 * s, -1, 10) for s in (-10.0, 1.0, 10.0)]
    rows += [("write", 8, "Up", s, s, -1, 10) for s in (-10.0, 1.0, 10.0)]
    names = ["role", "latent", "meant_for", "strength", "on_target", "bounded_from", "bounded_to"]
    pd.DataFrame(rows, columns=names).to_csv(tmp_path / "causal_audit.csv", index=False)
    page = pages(tmp_path)["cards/axis-1"]
    assert "moves &lt;b&gt;Up, Down by +0.0100 places as it is, +0.100 at 10 times, -0.100 at -10 times" in page
    assert "bounded from -1 to 10</dd>" in page and page.count("<dt>Turned up and down</dt><dd>not measured</dd>") == 1


def test_what_was_not_measured_is_said(page):
    assert "<dd>to first order, gap correlation -0.010, KL +0.0000012 (-0.0000020 to +0.0000005) nats" in page
    assert "detection 0.75 (random latent not measured)" in page and "None" not in page
    assert "fuzzing 0.60 (random latent 0.50), on all of the texts that the label was not made from</dd>" in page


def test_rates_are_of_tokens(page):
    assert "<dd>1% of the questions' tokens and 0% of the tokens in the SAE's texts</dd>" in page


def test_what_no_fold_uses_cannot_be_taken_out(tmp_path):
    without = {"gap_r_if_removed": None, "gap_r_low": None, "kl_if_removed": None, "kl_low": None, "kl_high": None}
    write_json(tmp_path / "cards.json", {"axes": [AXIS], "cards": [CARD | without | {"folds": 0}]})
    assert "<dd>not measured: no fold's offset uses it</dd>" in pages(tmp_path)["cards/axis-1"]


def table(**changes):
    rows = [
        ("read", 7, 1, 0.5, "road", -0.02, -0.03, -0.01, True, 3),
        ("read", 9, 1, -0.2, "tree", 0.01, 0.005, 0.02, True, 1),
        ("read", 8, 2, 0.1, "", float("nan"), float("nan"), float("nan"), True, 0),
        ("write", 3, None, 2.0, "rain", 0.0, float("nan"), float("nan"), False, 3),
    ]
    columns = ["role", "latent", "axis", "weight", "label", "gap_r_if_removed", "gap_r_low", "gap_r_high"]
    made = pd.DataFrame(rows, columns=[*columns, "in_fit_to_all", "folds"])
    scores = {"label_score": 0.75, "random_score": 0.5, "fuzzing_score": 0.6, "random_fuzzing_score": 0.55}
    return made.assign(**scores | changes)


def test_sentences_turn_with_the_table():
    said = latent_report.read_page(table(), 2)
    assert "reads 3 latents and writes 0" in said and "every one of the 3 reads 1. There are 2 cards." in said
    assert (
        "Of 2 latents" in said
        and "for 1 (the interval" in said
        and "raises it for 1, where" in said
        and "latent 7 (road)" in said
    )
    assert "read detection 0.75 (random latents 0.50) and fuzzing 0.60 (0.55)" in said
    turned = latent_report.removal_sentence(
        table(gap_r_low=-1.0, gap_r_high=1.0, gap_r_if_removed=[0.1, -0.2, 0.0, 0.0])
    )
    assert "clearly for 0" in turned and "latent 9 (tree) costs most: -0.200" in turned
    assert "is not known: `make evaluate` has not run" in said
    again = pd.DataFrame({"latent": range(10), "seeds": [0] * 7 + [1, 2, 2], "of": 2})
    assert (
        "Of 3 latents that are read, 100% are found again (a decoder row of a cosine of 0.7 or more) in one of 2"
        in (found := latent_report.again_sentence(table(), again))
    )
    assert "at least, 67% in all; of all 10 latents 30% and 20%." in found
    nothing = table().iloc[:0]
    assert "nan" not in latent_report.read_page(nothing, 0, again)
    assert latent_report.read_page(nothing, 0).count(latent_report.NOTHING) == 3


def test_tables_link_to_the_cards_there_are():
    cards = [{"latent": 7, "axis": 2, "role": "read"}, {"latent": 8, "axis": 1, "role": "read"}]
    cards.append({"latent": 3, "axis": None, "role": "write"})
    labels = labelled().assign(latent=[7, 7, 3, 3])
    page = latent_report.latents_page(table(), cards, labels.iloc[:0], "read", 1).html.replace("\u00a0", " ")
    assert '<a href="../latents/7.html">7</a>' in page and "latents/9.html" not in page
    assert "-0.020 (-0.030 to -0.010)" in page and "not measured" in page
    written = latent_report.latents_page(table(), cards, labels, "write", 3).html
    link = '<a href="../latents/3.html">3</a>'
    cells = [link, "+2.00", "rain", "0.75 (0.50)", "places", "0.70 (0.40)", "+0.000"]
    assert re.findall("<td[^>]*>(.*?)</td>", written) == cells
    read = latent_report.latents_page(table(), cards, labels[labels["latent"] == 7], "read", 3).html
    assert "label by a model" in read and "not labelled" in read
    packaged = labels.replace("a model", "packaged:a-model")
    read = latent_report.latents_page(table(), cards, packaged[packaged["latent"] == 7], "read", 3).html
    assert "label by a-model" in read and "packaged:" not in read
    read = latent_report.latents_page(table(), cards, labels[labels["latent"] == 3], "read", 3).html
    assert "label by" not in read  # of none that is shown


def labelled(**changes):
    rows = [(n, by, f"what {by} says", "places", *scores, 20, 20, "ab") for n in (7, 9) for by, *scores in LABELERS]
    return pd.DataFrame(rows, columns=list(COLUMNS)).assign(**changes)


LABELERS = (("statistics", 0.6, 0.5, 0.5, 0.5), ("a model", 0.7, 0.4, 0.5, 0.75))


def test_labelers_are_held_against_random_latents():
    said = latent_report.labelers_page(labelled())
    assert said.startswith("So labelled and judged are 2 latents by statistics and 2 latents by a model, what is read")
    assert "by the intervals below: detection by statistics, detection by a model.\n\nOn 2 latents that have" in said
    assert "statistics says: detection 0.60, random latents 0.50 (+0.100 (+0.100 to +0.100)); fuzzing" in said
    assert "fuzzing 0.50, random latents 0.75 (-0.250 (-0.250 to -0.250))." in said
    assert "intervals below: none." in latent_report.labelers_page(labelled(detection=0.4))
    packaged = latent_report.labelers_page(labelled().replace("a model", "packaged:a-model"))
    assert "- by a-model, judged by" in packaged and "packaged:" not in packaged
    assert "No two latents" in latent_report.labelers_page(labelled(detection=[float("nan"), 1, 1, 1]))
    assert "No other labels have been made" in latent_report.labelers_page(labelled().iloc[:0])


def test_the_path_to_few_latents_in_a_sentence():
    rows = [("0", "cut", 0.1), ("1", "cut", 0.1), ("4", "cut", 0.2), ("1", "refitted", 0.14), ("4", "refitted", 0.3)]
    rows += [("64", "as fitted", 0.46), ("all", "as fitted", 0.5)]
    path = pd.DataFrame(rows, columns=["latents", "fit", "gap_r"])
    assert latent_report.path_sentence(path) == (
        "From the constant part alone to all latents read, the gap correlation goes from 0.10 to 0.50; of that gain "
        "1 latent an axis keeps 10% refitted and 0% only cut, 4 latents an axis keep 50% refitted and 25% only cut, "
        "and 64 keep 90%."
    )
    assert latent_report.path_sentence(path.assign(gap_r=0.0)) == latent_report.NOTHING
    assert latent_report.path_sentence(path[path["fit"] == "as fitted"]) == latent_report.NOTHING
