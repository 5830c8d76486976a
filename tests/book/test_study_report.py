"""The studies' tables as the chapter reads them, and sentences that turn with their tables."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from opinion_sae.artifacts import write_csv, write_json
from opinion_sae.book import study_report as report
from opinion_sae.book.figures import studies as figures
from opinion_sae.book.study_tables import StudyTables, anew, load_tables, note

LONG = ("architecture", "target_l0", "measure", "n_seeds", "value", "low", "high")
ABOUT = {
    "seconds": {"topk-32-0": 60.0, "gated-32-0": 120.0, "total": 180.0},
    "machine": "2 CPU cores",
    "throughput": {"gflops_float32": 46.4},
    "missing": ["gaps-gated-32-0"],
}
VALUES = {  # measure: (topk, gated, book)
    "fvu": (0.30, 0.24, 0.05),
    "fvu_at_l0": (0.30, 0.25, None),
    "l0": (32.0, 24.0, 32.0),
    "fvu_at_answers": (0.70, 0.90, 0.1),
    "l0_at_answers": (32.0, 2.0, 32.0),
    "stability": (0.30, 0.34, None),
    "gap_r_gain": (0.0, 0.02, 0.05),
    "gap_r": (0.40, 0.42, 0.45),
    "group_kl_closed": (0.10, 0.12, 0.15),
    "topic_16": (0.86, 0.80, 0.9),
    "decade_16": (0.56, 0.60, 0.6),
    "party_16": (0.50, 0.52, 0.5),
    "absorbed": (0.20, 0.04, 0.1),
    "ratio": (1.0, 4.0, None),
}


def rows(l0=32):
    for measure, values in VALUES.items():
        for name, value in zip(("topk", "gated", "book"), values, strict=True):
            if value is not None:
                ends = (None, None) if measure == "l0" else (value - 0.03, value + 0.03)
                yield (name, l0, measure, 3, value, *ends)


@pytest.fixture
def architectures(tmp_path):
    more = [("topk", 16, "fvu", 1, 0.6, None, None), ("topk", 16, "l0", 1, 16.0, None, None)]
    more += [("topk", 64, "gap_r", 1, 0.39, 0.3, 0.5), ("gated", 64, "gap_r", 1, 0.44, 0.3, 0.5)]
    write_csv(tmp_path / "architectures" / "architectures.csv", pd.DataFrame([*rows(), *more], columns=[*LONG]))
    write_json(tmp_path / "architectures" / "study.json", ABOUT)
    return load_tables("architectures", tmp_path)


@pytest.fixture
def size(tmp_path):
    means = {"fvu": [0.4, 0.3], "dead": [0.0, 0.25], "processor": [2.0, 8.0]}
    ends = {f"{name}{end}": value for name, value in means.items() for end in ("_low", "_high")}
    table = pd.DataFrame({"width": [1024, 4096], "n_seeds": 3} | means | ends)
    table = table.assign(fvu_at_answers=0.5, split=[None, 1.5], kept=[None, 0.5], gap_r=[0.3, 0.35])
    write_csv(tmp_path / "size" / "size.csv", table.assign(gap_r_low=0.2, gap_r_high=0.5))
    fits = [("fvu", -0.21, -0.25, -0.17, 0.5), ("processor", 1.0, None, None, -6.2)]
    fits = pd.DataFrame(fits, columns=["measure", "exponent", "exponent_low", "exponent_high", "constant"])
    write_csv(tmp_path / "size" / "exponents.csv", fits)
    write_json(tmp_path / "size" / "study.json", ABOUT)
    return load_tables("size", tmp_path)


def changed(study, measure, name, **values):
    """The same study with one cell of its table changed."""
    table = study["architectures"].copy()
    at = (table["measure"] == measure) & (table["architecture"] == name) & (table["target_l0"] == 32)
    for column, value in values.items():
        table.loc[at, column] = value
    return study._replace(tables={"architectures": table})


def test_no_interval_goes_where_its_measure_cannot(architectures):
    few = changed(architectures, "l0_at_answers", "gated", value=4.0, low=-1.3, high=9.6)
    assert report.at_middle(few, "l0_at_answers")["gated"] == (4.0, 0.0, 9.6)
    assert "4.00 (0.00 to 9.60)" in report.architectures_table(few).html.replace("\u00a0", " ")
    worse = changed(architectures, "fvu_at_answers", "gated", value=0.9, low=-0.2, high=1.3)  # which may be over 1
    assert report.at_middle(worse, "fvu_at_answers")["gated"] == (0.9, -0.2, 1.3)
    lost = changed(architectures, "gap_r_gain", "gated", low=-0.4)
    assert report.at_middle(lost, "gap_r_gain")["gated"].low == -0.4


def test_the_note_says_command_time_machine_and_what_is_missing(architectures, tmp_path):
    said = note(architectures)
    assert "`make study NAME=architectures` in 3 minutes on 2 CPU cores, 46 GFLOP/s" in said
    assert "2 of 3 items were run" in said
    done = architectures._replace(about=ABOUT | {"missing": []})
    assert "items" not in note(done)
    none = load_tables("size", tmp_path / "nowhere")
    assert note(none) == "This study has not been run: `make study NAME=size` does that, after `make book`."


def test_the_note_says_when_the_run_has_another_sae_by_now(architectures, tmp_path):
    of = {"profile": {"output": "results/mine"}}
    study = architectures._replace(about=ABOUT | of)
    assert anew(study, tmp_path) == ""  # no such run
    write_json(tmp_path / "results" / "mine" / "run.json", {"hashes": {"sae": {"sae": "ab"}}})
    assert "has been made anew since, with another SAE" in anew(study, tmp_path)
    assert anew(study._replace(about=study.about | {"sae": "ab"}), tmp_path) == ""
    named = {"audit": pd.DataFrame({"sae_sha256": ["ab", "cd"]})}
    assert anew(study._replace(tables=named), tmp_path) == ""


def test_the_sentence_of_reconstruction_turns(architectures):
    said = report.reconstruction_sentence(architectures)
    assert said == (
        "At the same L0 of 32 on held-out text the least variance is left unexplained by gated (0.25 (0.22 to 0.28)), "
        "the most by TopK (0.30 (0.27 to 0.33)). The book's own, TopK on many more tokens, leaves 0.05 (0.02 to 0.08)."
    )
    other = report.reconstruction_sentence(changed(architectures, "fvu_at_l0", "gated", value=0.6))
    assert "unexplained by TopK (0.30" in other


def test_the_sentence_of_what_is_kept_turns(architectures):
    said = report.kept_sentence(architectures)
    assert "0.70 (TopK) to 0.90 (gated) of the variance is left unexplained, with fewer latents active there" in said
    assert "than on text by gated 2." in said
    assert "0.30 (TopK) to 0.34 (gated) is the mean cosine with another seed's nearest row" in said
    assert "1.0 (TopK) to 4.0 (gated) times TopK's processor time is taken by training." in said
    more = report.kept_sentence(changed(architectures, "l0_at_answers", "gated", value=30.0))
    assert "fewer" not in more and "(gated) of the variance is left unexplained. From seed" in more


def test_the_sentence_of_gaps_turns(architectures):
    said = report.gaps_sentence(architectures)
    assert "from 0.40 (TopK) to 0.42 (gated). Question by question and seed by seed none differs" in said
    assert "the largest gain is that of gated, +0.020, -0.010 to +0.050." in said
    assert "At an L0 of 64 in training (one seed) it lies between 0.39 and 0.44." in said
    assert said.endswith("With the book's own SAE it is 0.45 (0.42 to 0.48).")
    apart = report.gaps_sentence(changed(architectures, "gap_r_gain", "gated", value=0.2, low=0.15, high=0.25))
    assert "against TopK's it is higher with gated (+0.200, +0.150 to +0.250)." in apart
    below = report.gaps_sentence(changed(architectures, "gap_r_gain", "gated", value=-0.2, low=-0.25, high=-0.15))
    assert "it is lower with gated" in below


def test_the_sentence_of_probes_turns(architectures):
    said = report.probing_sentence(architectures)
    assert "a question's topic with an AUC of 0.80 to 0.86, above chance by its interval for 2 of 2" in said
    assert "its party with an AUC of 0.50 to 0.52, above chance by its interval for none of 2" in said
    apart = report.probing_sentence(changed(architectures, "topic_16", "gated", value=0.7, low=0.68, high=0.72))
    assert "0.70 to 0.86 (TopK), above" in apart
    assert "between 4% (gated) and 20% (TopK)" in said
    assert "between 20% (TopK) and 50% (gated)" in report.probing_sentence(
        changed(architectures, "absorbed", "gated", value=0.5)
    )


def test_the_sentence_of_size_turns(size):
    said = report.size_sentence(size)
    assert said.startswith("From 1,024 to 4,096 latents, variance unexplained goes from 0.40 to 0.30; it is least")
    assert "at 4,096, 0.30 (fitted: width to the power -0.21 (-0.25 to -0.17)). Dead latents go from 0% to 25%" in said
    assert "and processor time grows as width to the power +1.00." in said
    assert "50% of the narrowest SAE's latents fire with some of the widest's (correlation of 0.5 or more)" in said
    assert "each in 1.5 on average." in said
    assert said.endswith("The gap correlation is 0.30 at 1,024 latents and 0.35 at 4,096.")
    wider = pd.concat([size["size"], size["size"].iloc[1:].assign(width=8192, fvu=0.7)])
    said = report.size_sentence(size._replace(tables={**size.tables, "size": wider}))
    assert "from 0.40 to 0.70" in said and "it is least at 4,096, 0.30, and grows beyond" in said


def test_without_tables_all_of_them_say_so(tmp_path):
    none = {name: load_tables(name, tmp_path) for name in ("architectures", "size")}
    for sentence in (report.reconstruction_sentence, report.gaps_sentence, report.probing_sentence):
        assert "has not been run: `make study NAME=architectures`" in sentence(none["architectures"])
    assert "has not been run: `make study NAME=size`" in report.size_sentence(none["size"])
    assert isinstance(report.architectures_table(none["architectures"]).text, str)
    assert isinstance(report.size_table(none["size"]).text, str)


def test_tables_have_a_row_for_each(architectures, size):
    html, widths = (
        made.html.replace("\u00a0", " ")
        for made in (report.architectures_table(architectures), report.size_table(size))
    )
    assert (
        html.index("TopK") < html.index("gated") < html.index("the book&#x27;s own") and "0.25 (0.22 to 0.28)" in html
    )
    assert "1,024" in widths and "0.35 (0.20 to 0.50)" in widths


def test_the_highest_of_the_widths_in_a_sentence(size):
    said = report.widths_sentence(size)
    assert said == (
        "The highest gap correlation is 0.35 at 4,096 latents; it lies within the intervals of 2 of 2 widths."
    )
    turned = size._replace(tables={**size.tables, "size": size["size"].assign(gap_r=[0.6, 0.3])})
    assert "0.60 at 1,024 latents; it lies within the intervals of 0 of 2" in report.widths_sentence(turned)
    none = size._replace(tables={**size.tables, "size": size["size"].drop(columns="gap_r")})
    assert "Made by" in report.widths_sentence(none)


def test_figures_are_drawn_with_and_without_tables(architectures, size, tmp_path):
    lines = figures.frontier(architectures).axes[0].get_lines()
    topk, gated = lines[0], lines[3]  # each followed by the caps of its intervals
    assert list(topk.get_xdata()) == [16, 32] and list(topk.get_ydata()) == [1, 1]
    at_24 = 0.6 * 0.5 ** (np.log(24 / 16) / np.log(2))  # on the line from (16, 0.6) to (32, 0.3) of the logarithms
    assert gated.get_xdata()[0] == 24 and gated.get_ydata()[0] == pytest.approx(0.24 / at_24)
    assert (
        len(figures.gaps_by_architecture(architectures).axes) == len(figures.told_by_latents(architectures).axes) == 2
    )
    assert len(figures.scaling(size).axes) == 4
    none = load_tables("architectures", tmp_path / "nowhere")
    for draw in (figures.frontier, figures.gaps_by_architecture, figures.told_by_latents):
        assert "has not been run" in draw(none).axes[0].texts[0].get_text()
    assert "has not been run" in figures.scaling(load_tables("size", tmp_path / "nowhere")).axes[0].texts[0].get_text()
    plt.close("all")


def test_a_table_of_another_form_is_refused(tmp_path):
    write_csv(tmp_path / "architectures" / "architectures.csv", pd.DataFrame({"architecture": ["topk"]}))
    with pytest.raises(ValueError, match=r"architectures.csv: columns \['target_l0'"):
        load_tables("architectures", tmp_path)


def test_committed_tables_are_of_this_form_and_name_known_architectures():
    study = load_tables("architectures")
    assert isinstance(study, StudyTables)
    assert set(study["architectures"]["architecture"]) <= set(report.LABELS)
    assert set(load_tables("size")["size"]["width"].astype(int) % 1024) <= {0}
