"""What one engine can do, between the points that were measured."""

from __future__ import annotations

import pytest

from adapters.errors import ConfigError
from gateway.capacity.speed import Point, parse_point, speed_of

SPEED = speed_of([Point(64, 1600, 0.4), Point(1, 50, 0.05), Point(32, 1280, 0.2)])


def test_a_point_by_little_s_law():
    point = Point(32, 1280, 0.2)
    assert point.per_token == 0.025
    assert point.service(200) == 5.0  # 32 places, 6.4 answers a second


def test_between_points_straight_and_below_the_first_as_there():
    assert SPEED.most == 64
    assert SPEED.at(64) == Point(64, 1600, 0.4)
    middle = SPEED.at(48)
    assert (middle.per_token, middle.first_token) == (pytest.approx(0.0325), pytest.approx(0.3))
    assert speed_of([Point(8, 400)]).at(2) == Point(2, 100)
    with pytest.raises(ValueError, match="64 at most"):
        SPEED.at(65)


@pytest.mark.parametrize(("text", "point"), [("32:1800", Point(32, 1800)), ("1:60.5:0.2", Point(1, 60.5, 0.2))])
def test_points_are_read(text, point):
    assert parse_point(text) == point


@pytest.mark.parametrize("text", ["", "32", "a:b", "1:2:3:4", "1:"])
def test_what_is_no_point_is_refused(text):
    with pytest.raises(ConfigError, match="CONCURRENCY:TOKENS_PER_SECOND"):
        parse_point(text)


@pytest.mark.parametrize(
    "points",
    [
        [], [Point(0, 10)], [Point(1, 0)], [Point(1, 10, -1)], [Point(1, 10), Point(1, 20)], [Point(float("nan"), 1)],
        [Point(1, float("inf"))], [Point(1e9, 1e9)],
    ],
    ids=["none", "zero", "still", "before", "twice", "nan", "endless", "crowd"],
)  # fmt: skip
def test_what_is_no_measurement_is_refused(points):
    with pytest.raises(ConfigError):
        speed_of(points)
