"""Groups as points: on a line or not, the same way or not, and by chance."""

import numpy as np
import pytest

from opinion_sae.score.geometry import (
    cosine,
    geometry_table,
    likeness_table,
    moved,
    people_points,
    poles,
    relabelled,
    straightness,
)


def test_a_line_a_corner_and_there_and_back():
    """A right angle with legs 3 and 4: 5 over 7."""
    line, corner, back = [[0, 0], [1, 1], [4, 4]], [[0, 0], [3, 0], [3, 4]], [[0, 0], [3, 4], [0, 0]]
    found = straightness(np.array([line, corner, back, [[1, 1]] * 3], float))
    np.testing.assert_allclose(found, [1, 5 / 7, 0, 0])


def test_ways_between_the_ends():
    one, other = poles(np.array([[0.0, 0], [9, 9], [1, 0]])), poles(np.array([[0.0, 0], [1, 1]]))
    assert one.tolist() == [1, 0] and cosine(one, other) == pytest.approx(0.5**0.5)
    assert cosine(one, np.zeros(2)) == 0


def test_draws_are_of_different_groups():
    drawn = relabelled(6, np.array([4, 1, 2]), 200, 0)
    assert drawn[0].tolist() == [4, 1, 2] and all(len(set(row)) == 3 for row in drawn.tolist())
    assert set(drawn[1:].flatten().tolist()) == set(range(6))


@pytest.fixture
def survey(made):
    """Three ordered attributes of four, three and three groups, and ten of an attribute without order."""
    names = ["age"] * 4 + ["party"] * 3 + ["ideology"] * 3 + ["race"] * 10
    return made.binary(np.full((20, 2), 0.5), groups=[f"g{i}" for i in range(20)], attributes=names)


def test_the_table_finds_a_line_and_two_that_agree(survey):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(20, 3))
    points[:4] = np.arange(4)[:, None] * [1.0, 2, 3]  # age lies on a line
    points[4:7], points[7:10] = [[-5, 0, 0], [0, 9, 0], [5, 0, 0]], [[-5, 0, 1], [0, 0, 9], [5, 0, 1]]
    table = geometry_table(survey, {"codes": [points, 2 * points]}, 500).set_index(["statistic", "attributes"])
    age = table.loc[("straightness", "age")]
    assert age["value"] == pytest.approx(1) and age["low"] == age["high"] and age["p"] < 0.02 and age["chance"] < 0.8
    assert table.loc[("straightness", "party"), "value"] == pytest.approx(10 / (2 * 106**0.5))
    together = table.loc[("cosine", "party and ideology")]
    assert together["value"] == pytest.approx(1) and together["p"] < 0.05 and abs(together["chance"]) < 0.15
    assert set(table.index.get_level_values(1)) == {
        *("age", "party", "ideology", "age and party", "age and ideology", "party and ideology")
    }


def test_axes_may_be_turned_from_fold_to_fold(survey):
    points = np.random.default_rng(1).normal(size=(20, 2))
    turned = points @ np.array([[0.0, 1], [-1, 0]])
    table = geometry_table(survey, {"codes": [points, turned]}, 20)
    np.testing.assert_allclose(table["low"], table["high"])


def test_p_is_corrected_over_the_points_own_rows(survey):
    points = [np.random.default_rng(2).normal(size=(20, 2))]
    table = geometry_table(survey, {"codes": points, "people": points}, 50)
    assert len(table) == 12 and (table["p_holm"] >= table["p"]).all() and table["p_holm"].max() <= 1
    assert table["p_holm"].tolist()[:6] == table["p_holm"].tolist()[6:]


def test_people_are_points_where_all_groups_answered(made):
    survey = made.binary([[0.7, 0.5, np.nan, 0.5], [0.3, 0.5, 0.5, 0.9]])
    first, second = people_points(survey, np.array([0, 0, 0, 1]))
    np.testing.assert_allclose(first, [[0.2, 0], [-0.2, 0]], atol=1e-12)
    np.testing.assert_allclose(second, [[-0.2], [0.2]], atol=1e-12)


def test_what_is_done_to_answers(two_groups):
    """ln 4 up for the first of two options and down for the other: 0.5 ln 4 either way; options that are not there
    stay out."""
    before = np.log(np.array([[[0.5, 0.5, 0, 0], [0.25] * 4, [0.2, 0.4, 0.4, 0]]]) + 1e-300)
    after = np.repeat(before, 2, 0)
    after[0, 0, 0], after[0, 0, 1] = np.log([0.8, 0.2])
    done = moved(two_groups, after, before)
    np.testing.assert_allclose(done[0, 0], [np.log(4) / 2, -np.log(4) / 2, 0, 0])
    assert not done[1].any() and not done[:, 1:].any()


def test_two_methods_alike_in_all_but_what_is_the_groups_own(two_groups):
    """Both move everybody alike, and the groups apart in opposite ways: whole near 1, own -1."""
    all_alike, apart = np.array([3.0, -3, 0, 0]), np.array([0.1, -0.1, 0, 0])
    one = np.stack([np.tile(all_alike + sign * apart, (3, 1)) for sign in (1, -1)])
    other = np.stack([np.tile(all_alike - sign * apart, (3, 1)) for sign in (1, -1)])
    table = likeness_table(two_groups, one, other, np.arange(3), 50).set_index("group")
    assert list(table.index) == ["all", "Female", "Male"]
    np.testing.assert_allclose(table["whole"], 1)
    np.testing.assert_allclose(table["own"], -1)
    assert table.loc["Female", "size_one"] == pytest.approx(3.1 * 2**0.5) and (table["own_high"] < 0).all()
