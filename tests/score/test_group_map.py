"""Groups on a map: distances, scaling and laying over, by hand."""

import numpy as np
import pytest

from opinion_sae.score.group_map import group_map, laid_over, map_tables, squared_distances


def test_distances_are_over_the_questions_that_both_answered():
    gaps = np.array([[0.1, np.nan, 0.3], [0.3, 0.5, 0.3]])
    squares = squared_distances(gaps, gaps)
    np.testing.assert_allclose(squares, [[0, 0.04 / 2], [0.04 / 2, 0]], atol=1e-15)
    assert np.isnan(squared_distances(np.array([[np.nan, 0.1]]), np.array([[0.2, np.nan]]))).all()


def test_three_four_five():
    """Corners of a right triangle with legs 3 and 4: distances 3, 4, 5 come back, and nothing is left unexplained."""
    made = group_map(np.array([[0, 9, 16], [9, 0, 25], [16, 25, 0]], float))
    apart = np.linalg.norm(made.points[:, None] - made.points, axis=-1)
    np.testing.assert_allclose(apart, [[0, 3, 4], [3, 0, 5], [4, 5, 0]], atol=1e-12)
    assert made.explained == pytest.approx(1) and np.abs(made.points.sum(0)).max() < 1e-12
    assert (made.points[np.abs(made.points).argmax(0), [0, 1]] > 0).all()


def test_points_on_a_line_have_one_dimension():
    made = group_map(np.square(np.subtract.outer([0.0, 1, 3], [0.0, 1, 3])))
    np.testing.assert_allclose(np.abs(made.points[:, 0]), np.abs(np.array([0, 1, 3]) - 4 / 3), atol=1e-12)
    assert not made.points[:, 1].any()
    np.testing.assert_allclose(laid_over(made, np.array([[4.0, 1.0, 1.0]]))[:, 1], 0)


def test_a_point_laid_over_is_projected_and_not_turned():
    """People in the plane, a method's point above it: its shadow; people's own points land on themselves."""
    people = np.array([[0.0, 0, 0], [3, 0, 0], [0, 4, 0], [1, 1, 0]])
    made = group_map(((people[:, None] - people) ** 2).sum(-1))
    np.testing.assert_allclose(laid_over(made, ((people[:, None] - people) ** 2).sum(-1)), made.points, atol=1e-12)
    above = np.array([[1.0, 1, 7]])
    np.testing.assert_allclose(laid_over(made, ((above - people) ** 2).sum(-1)[None]), made.points[3:], atol=1e-12)


def test_a_method_that_knows_people_is_on_the_spot_and_one_that_knows_nothing_on_one(made):
    rng = np.random.default_rng(0)
    survey = made.binary(rng.uniform(0.2, 0.8, (2, 30)))
    nothing = made.logs(np.full((2, 30), 0.5))
    points, near = map_tables(survey, {"toplines": nothing, "delta": np.log(survey.shares)}, np.arange(30) % 3)
    assert list(points["method"].unique()) == ["people", "toplines", "delta"] and len(near) == 2 * 4
    distance = near.set_index(["method", "fold"])["distance"]
    # half a respondent is added to everybody's answers, so not quite nothing
    assert distance["delta", "all"] < 0.1 * distance["toplines", "all"]
    spot = points[points["method"] == "toplines"][["x", "y"]].to_numpy()
    np.testing.assert_allclose(spot[0], spot[1], atol=1e-12)
    people = points[points["method"] == "people"][["x", "y"]].to_numpy()
    halfway = np.linalg.norm(people[0] - people[1]) / 2
    assert distance["toplines", "all"] == pytest.approx(halfway, rel=0.05)


def test_groups_without_a_question_in_common_are_refused():
    with pytest.raises(ValueError, match="no ordinal question in common"):
        group_map(np.array([[0, np.nan], [np.nan, 0]]))
