"""What the figures of differences show: one row each, in the table's order, marked by verdict."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from opinion_sae.book.figures.controls import against, claims


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def labels(axes):
    return [label.get_text() for label in axes.texts]


def test_a_row_for_each_reference_with_its_label():
    rows = [("delta", "uniform", "all", -0.1, -0.2, 0.0, 9), ("shared-delta", "new-one", "all", 0.1, 0.0, 0.2, 9)]
    columns = ["method", "reference", "group", "kl_difference", "low", "high", "n_questions"]
    axes = against(pd.DataFrame(rows, columns=columns)).axes[0]
    assert labels(axes) == ["Δ minus equal shares", "Δ_shared minus new-one"]
    assert "9 held-out questions" in axes.get_xlabel()
    points = [container.lines[0].get_xdata()[0] for container in axes.containers]
    assert points == [-0.1, 0.1] and axes.yaxis_inverted()


def test_claims_are_drawn_in_order_and_by_verdict_with_their_margins():
    table = pd.DataFrame(
        {
            "claim": ["One.", "One.", "Two."],
            "group": ["all", "x", "all"],
            "method": "delta",
            "reference": ["unsteered", "unsteered", "dense"],
            "effect": [-0.1, -0.2, np.nan],
            "low": [-0.2, -0.3, np.nan],
            "high": [0.0, -0.1, np.nan],
            "margin": [0.0, 0.0, 0.005],
            "verdict": ["supported", "supported", "not supported"],
        }
    )
    axes = claims(table).axes[0]
    assert labels(axes) == ["Δ minus unsteered model", "Δ minus dense vector"]
    by_verdict = {container.get_label(): container.lines[0].get_ydata().tolist() for container in axes.containers}
    assert by_verdict == {"supported": [0], "mixed": [], "not supported": [1], "contradicted": []}
    looks = [(line.get_marker(), line.get_fillstyle()) for line in (c.lines[0] for c in axes.containers)]
    assert len(set(looks)) == len(looks) == 4  # told apart without colour
    margin = next(line for line in axes.lines if line.get_label() == "margin")
    assert margin.get_xdata().tolist() == [0.005] and margin.get_ydata().tolist() == [1]
