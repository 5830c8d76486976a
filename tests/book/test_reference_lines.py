"""Lines that figures draw at a mean over groups, read back from the SVG and held against the run's tables."""

import csv
import xml.etree.ElementTree as ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from opinion_sae.book.figures.latents import latent_path
from opinion_sae.book.figures.style import reference_line, save_svg
from opinion_sae.book.paths import ROOT
from opinion_sae.score.metrics import alignment_table, mean_over_groups, noise_floor, score

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def scale(axes, which):
    """Pixel to value along an axis, from its first and last tick and what is written at them."""
    ticks = []
    for tick in axes.iter(f"{SVG}g"):
        if tick.get("id", "").startswith(f"{which}tick_"):
            place, text = next(tick.iter(f"{SVG}use")), "".join(next(tick.iter(f"{SVG}text")).itertext())
            ticks.append((float(place.get(which)), float(text.strip().replace("\u2212", "-"))))
    (low, one), (high, two) = ticks[0], ticks[-1]
    return lambda pixel: one + (pixel - low) / (high - low) * (two - one)


def reference_lines(path):
    """{(measure, method): value} of the lines whose names say what they stand for."""
    found = {}
    for axes in ElementTree.parse(path).iter(f"{SVG}g"):
        if axes.get("id", "").startswith("axes_"):
            for group in axes.iter(f"{SVG}g"):
                measure, of, method = group.get("id", "").partition("-of-")
                if of:
                    start, end = (part.split() for part in next(group.iter(f"{SVG}path")).get("d")[1:].split("L"))
                    across = float(start[1]) == float(end[1])
                    found[measure, method] = scale(axes, "y" if across else "x")(float(start[across]))
    return found


def published(folder):
    """The same means as the committed tables give them."""
    found = {}
    for name in ("alignment.csv", "floor.csv"):
        with (folder / name).open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["group"] == "all":
                    for measure in ("kl", "alignment"):
                        found[measure, row.get("method", "floor")] = float(row[measure])
    return found


def test_a_chapter_draws_the_mean_of_the_tables_where_groups_answered_different_questions(tiny, tmp_path):
    """Two groups, of which one answered a quarter of the questions: as ideology does in the default surveys."""
    rng = np.random.default_rng(3)
    shares, questions = rng.dirichlet((2, 2), (2, 8)), [tiny.question(f"q{i}") for i in range(8)]
    shares[1, 2:] = np.nan
    people = tiny.survey(shares, questions, ("x", "y"))
    known = {name: np.log(rng.dirichlet((2, 2), (1, 8))) for name in ("unsteered", "shared-delta")}
    scores = {name: score(people, log_probs) for name, log_probs in known.items()}
    table = alignment_table(people, scores, noise_floor(people, 20), np.arange(8), "question", 20, 0)
    expected = table[table["group"] == "all"].set_index("method")["kl"]
    lines = {name: mean_over_groups(people, cells.kl) for name, cells in scores.items()}
    columns = [
        "latents",
        "method",
        "group",
        *(f"{m}{end}" for m in ("kl", "alignment") for end in ("", "_low", "_high")),
    ]
    path = [(n, one, "all", *(0.2, 0.1, 0.3) * 2) for n in (1, 64) for one in ("refitted", "cut", "dense")]
    save_svg(latent_path(pd.DataFrame(path, columns=columns), lines, 8), tmp_path / "path.svg")
    found = reference_lines(tmp_path / "path.svg")
    assert found == {("kl", name): pytest.approx(kl, abs=2e-3) for name, kl in expected.items()}
    both = np.isfinite(scores["unsteered"].kl).all(0)  # the mean of before: only what all groups answered
    assert abs(scores["unsteered"].kl.mean(0)[both].mean() - expected["unsteered"]) > 0.01


def test_lines_are_read_from_an_svg_to_a_thousandth(tmp_path):
    figure, axes = plt.subplots()
    axes.plot([0, 3], [-0.1, 0.4])
    reference_line(axes, "kl", "uniform", 0.2063)
    reference_line(axes, "alignment", "floor", 1.234, upright=True)
    save_svg(figure, tmp_path / "lines.svg")
    expected = {
        ("kl", "uniform"): pytest.approx(0.2063, abs=1e-3),
        ("alignment", "floor"): pytest.approx(1.234, abs=2e-3),
    }
    assert reference_lines(tmp_path / "lines.svg") == expected


@pytest.mark.parametrize("name", ["latent_path", "alignment", "dose"])
def test_the_committed_figures_lines_stand_where_the_tables_say(name):
    found = reference_lines(ROOT / "book" / "figures" / f"{name}.svg")
    tables = published(ROOT / "results" / "default")
    assert found and found == {key: pytest.approx(tables[key], abs=2e-3) for key in found}


def test_the_path_ends_at_delta_and_its_lines_at_the_tables(tmp_path):
    """The chapter's figure, drawn anew from the committed tables."""
    path, tables = pd.read_csv(ROOT / "results/default/path.csv"), published(ROOT / "results/default")
    lines = {method: tables["kl", method] for method in ("unsteered", "shared-delta")}
    figure = latent_path(path, lines, 71)
    drawn = {line.get_gid(): line.get_ydata()[0] for line in figure.axes[0].lines if line.get_gid()}
    assert drawn == {"kl-of-unsteered": tables["kl", "unsteered"], "kl-of-shared-delta": tables["kl", "shared-delta"]}
    refitted = path[(path["group"] == "all") & (path["method"] == "refitted")].sort_values("latents")
    assert refitted["kl"].iloc[-1] == pytest.approx(tables["kl", "delta"], abs=1e-6)
