"""Figures of few latents and of groups as points: they mark what the tables say, and every line has its name."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Annotation

from opinion_sae.book.figures.group_map import BEFORE, group_map_figure
from opinion_sae.book.figures.latents import latent_path, reading_path
from opinion_sae.book.figures.style import WIDTH


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def path(cut=(0.0, 0.1, 0.3), anew=(0.2, 0.35), whole=0.5):
    """gap_r of each row; the KL is a hundredth of what is left to 1."""
    rows = [(str(n), "cut", r) for n, r in zip((0, 1, 4), cut, strict=True)]
    rows += [(str(n), "refitted", r) for n, r in zip((1, 4), anew, strict=True)]
    rows += [("64", "as fitted", 0.9 * whole), ("all", "as fitted", whole)]
    table = pd.DataFrame(rows, columns=["latents", "fit", "gap_r"])
    table = table.assign(gap_r_low=table["gap_r"] - 0.05, gap_r_high=table["gap_r"] + 0.05)
    ends = {f"kl{to}": (1 - table[f"gap_r{of}"]) / 100 for to, of in (("", ""), ("_low", "_high"), ("_high", "_low"))}
    return table.assign(**ends)


def boxes(figure):
    figure.draw_without_rendering()
    return {text.get_gid(): text.get_window_extent() for text in figure.findobj(Annotation)}


def test_the_path_has_a_scale_for_the_share_of_the_gain():
    figure = reading_path(path())
    figure.draw_without_rendering()
    for axes, half in zip(figure.axes, (0.25, 0.0075), strict=False):
        (second,) = axes.child_axes
        assert second.get_ylabel() == "share of the gain"
        low, high = axes.get_ylim()
        assert np.interp(half, (low, high), second.get_ylim()) == pytest.approx(0.5)
    assert not any(axes.child_axes for axes in reading_path(path(whole=-0.1)).axes)  # there is no gain to share


def test_the_paths_lines_are_named_where_they_are_furthest_apart():
    figure = reading_path(path())
    found = {text.get_gid(): text for text in figure.findobj(Annotation)}
    assert {gid: text.get_text() for gid, text in found.items()} == {
        **{"gap_r-of-refitted": "refitted", "gap_r-of-cut": "only cut"},
        **{"kl-of-refitted": "refitted", "kl-of-cut": "only cut"},
    }
    assert found["gap_r-of-refitted"].xy == (1, pytest.approx(0.25))  # at 1 latent, above its interval
    assert found["kl-of-cut"].xy == (pytest.approx(1.1), pytest.approx(0.0095)) and not figure.axes[0].get_legend()
    where = [*boxes(figure).values()]
    assert not any(one.overlaps(other) for n, one in enumerate(where) for other in where[:n])
    turned = reading_path(path(cut=(0.0, 0.3, 0.3), anew=(0.1, 0.3)))
    below = {text.get_gid(): text.xy[1] for text in turned.findobj(Annotation)}
    assert below["gap_r-of-refitted"] < 0.1 < 0.3 < below["gap_r-of-cut"]


def test_names_of_the_budget_stand_by_the_ends_of_their_lines():
    ends = [f"{m}{end}" for m in ("kl", "alignment") for end in ("", "_low", "_high")]
    rows = [(n, one, "all", *(0.2, 0.1, 0.3) * 2) for n in (1, 64) for one in ("refitted", "cut", "dense")]
    figure = latent_path(pd.DataFrame(rows, columns=["latents", "method", "group", *ends]), {"shared-delta": 0.2}, 8)
    figure.draw_without_rendering()
    panel = figure.axes[0]
    height, end = panel.get_window_extent().height, panel.transData.transform((64, 0.2))[1]
    names = {text.get_text(): text.get_window_extent() for text in panel.texts}
    assert set(names) == {"refitted", "only cut", "dense vector", "Δ_shared"}
    assert all(abs((box.y0 + box.y1) / 2 - end) < 0.2 * height for box in names.values())


def test_the_map_marks_where_the_unsteered_model_puts_all_groups():
    of = {"people": [(0.1, 0.0), (-0.1, 0.05)], "unsteered": [(0.01, 0.02)] * 2, "delta": [(0.05, 0), (0, 0)]}
    rows = [(name, group, *place) for name, places in of.items() for group, place in zip("ab", places, strict=True)]
    points = pd.DataFrame(rows, columns=["method", "group", "x", "y"])
    near = pd.DataFrame([("delta", "all", 0.7, 0.03)], columns=["method", "fold", "explained", "distance"])
    figure = group_map_figure(points, near, ["delta"])
    figure.draw_without_rendering()
    (cross,) = [line for line in figure.axes[0].lines if line.get_gid() == "before-beside-delta"]
    assert cross.get_xydata().tolist() == [[0.01, 0.02]]
    (squares,) = [line for line in figure.axes[1].lines if line.get_gid() == "enlarged-groups-of-delta"]
    assert squares.get_xydata().tolist() == [[0.05, 0.0], [0.0, 0.0]]
    assert {text.get_text() for text in figure.axes[1].texts} == {"a", "b"} and figure.axes[1].get_xlim()[1] < 0.11
    legend = figure.legends[0]
    assert BEFORE in [text.get_text() for text in legend.get_texts()]
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= WIDTH * figure.dpi
