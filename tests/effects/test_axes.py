"""Axes of several folds in one order, and how much of a group's part is constant, worked by hand."""

import numpy as np
import pytest
import torch

from opinion_sae.delta.held_out import Split
from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.delta.reading import ReadingDelta
from opinion_sae.effects.axes import axes_table, code_points, codes_table, constant_share, in_one_order
from opinion_sae.model.answers import AnswerPath


def offset(tiny, c, a=None):
    """Codes given as rows of groups; axis k reads latent k (direction 1) unless said otherwise, and writes latent 5."""
    made = ReadingDelta(("Up", "Down", "Even"), tiny.sae(), axes=len(c[0]), directions=2)
    made.c.data.copy_(torch.tensor(c))
    for axis in range(len(c[0])):
        made.a.data[axis, 0, axis] = 1.0
        made.b.data[axis, 0, 5] = 2.0
    if a is not None:
        made.a.data.copy_(a)
    return made


@pytest.fixture
def folds(tiny):
    """The second fold has the first's axes the other way round, one of them with another sign; the third has one."""
    first = offset(tiny, [[-0.8, 0.0], [0.6, 0.0], [0.0, 1.0]])
    second = offset(tiny, [[0.0, 0.6], [0.0, -0.8], [1.0, 0.0]])
    third = offset(tiny, [[0.0], [0.0], [-1.0]])
    return [first, second, third]


def test_axes_are_matched_by_their_codes_and_point_the_same_way(folds):
    assert in_one_order(folds) == [[(0, -1.0), (1, 1.0)], [(1, 1.0), (0, 1.0)], [(-1, 0.0), (0, -1.0)]]


def test_codes_are_means_with_the_range_over_folds(folds):
    table = codes_table(folds).set_index(["axis", "group"])
    assert table.loc[(1, "Up")].tolist() == pytest.approx([0.7, 0.6, 0.8])
    assert table.loc[(1, "Down")].tolist() == pytest.approx([-0.7, -0.8, -0.6])
    assert table.loc[(2, "Even")].tolist() == pytest.approx([1, 1, 1]) and len(table) == 6


def test_what_is_read_turns_with_the_codes_and_what_is_written_does_not(folds):
    table = axes_table(folds)
    assert list(table) == ["axis", "side", "latent", "weight", "folds", "direction"]
    rows = {row[:3]: row[3:] for row in table.itertuples(index=False, name=None)}
    # axis 1: latent 0 in the first fold, against its sign, latent 1 in the second
    assert rows[1, "read", 0] == (-0.5, 1, 1) and rows[1, "read", 1] == (0.5, 1, 1)
    # axis 2: latent 1 in the first, 0 in the second and, against its sign, in the third
    assert rows[2, "read", 1] == (pytest.approx(1 / 3), 1, 1) and rows[2, "read", 0] == (0, 2, 1)
    assert rows[1, "write", 5] == (2, 2, 1) and rows[2, "write", 5] == (2, 3, 1)
    assert len(rows) == len(table) == 6


def test_a_constant_offset_is_all_constant_and_a_reading_one_is_not(tiny):
    questions = [tiny.question(f"q{i}", text=text) for i, text in enumerate(("Cold?", "Roads?", "Tax it!", "Guns"))]
    answers, sae = AnswerPath(tiny.lm("llama"), questions, 1, orders=2), tiny.sae()
    split = Split("all", np.arange(0), np.arange(0), np.arange(4))
    dense = torch.randn(3, 24, generator=torch.Generator().manual_seed(0))
    same = GroupDelta(("Up", "Down", "Even"), sae).with_parts(deviation=dense.abs() * 0 + 1)  # no latent is shut
    nothing = GroupDelta(("Up", "Down", "Even"), sae)
    reads = ReadingDelta(("Up", "Down", "Even"), sae, axes=1)
    generator = torch.Generator().manual_seed(1)
    reads.a.data.copy_(torch.randn(1, 1, 24, generator=generator))
    reads.b.data.copy_(torch.rand(1, 1, 24, generator=generator))
    reads.c.data.copy_(torch.tensor([[1.0], [-1.0], [0.0]]))
    table = constant_share(answers, [split], {"same": [same], "nothing": [nothing], "reads": [reads]})
    table = table.set_index("method")
    assert table.loc["same", "constant_share"] == pytest.approx(1, abs=1e-5) and table.loc["same", "size"] > 0
    assert np.isnan(table.loc["nothing", "constant_share"]) and table.loc["nothing", "size"] == 0
    own = torch.cat([answers.steered(torch.arange(0, 8, 2), reads) - answers.residual[::2, None]]).double()
    share = own.mean(0).square().sum(-1) / own.square().sum(-1).mean(0).clamp_min(1e-30)
    assert table.loc["reads", "constant_share"] == pytest.approx(share[:2].mean().item(), abs=1e-5)
    assert share[:2].mean() < 0.9


def test_codes_are_points_in_the_length_of_what_their_axis_reads(tiny):
    made = ReadingDelta(("Female", "Male"), tiny.sae(), axes=2)
    made.a.data[0, 0, :2], made.a.data[1, 0, 0] = torch.tensor([3.0, -4.0]), 0.5
    made.c.data.copy_(torch.tensor([[1.0, 2.0], [-1.0, 0.0]]))
    assert code_points(made).tolist() == [[5.0, 1.0], [-5.0, 0.0]]
