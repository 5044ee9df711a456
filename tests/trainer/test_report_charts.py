"""Charts: ticks, lines that break where nothing was measured, and nothing from nothing."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pytest

from trainer.report_charts import Estimate, Marker, Series, interval_chart, line_chart, number, smoothed, ticks


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (0.1, 0.9, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (5, 5, [4, 4.5, 5, 5.5, 6]), (0, 0, None), (-3e-5, 1e-5, None)],
)  # fmt: skip
def test_ticks_enclose_and_are_round(low, high, found):
    made = ticks(low, high, 5 if found and low == 5 else 6)
    assert made[0] <= low + 1e-12 and made[-1] >= high - 1e-12 and 2 <= len(made) <= 9
    if low != 5 and found:
        assert made == pytest.approx(found)


def test_nothing_is_no_chart():
    assert line_chart([]) == "" and line_chart([Series("a", [(1, None), (2, math.nan)])]) == ""
    assert interval_chart([]) == ""


def test_lines_break_where_nothing_was_measured():
    svg = line_chart([Series("a", [(0, 1), (1, 2), (2, None), (3, 3), (4, 4)]), Series("b", [(0, 0)])], [Marker(2, "here")])
    root = ET.fromstring(svg)
    lines = [one.get("points") for one in root.iter("{http://www.w3.org/2000/svg}polyline")]
    assert len(lines) == 2 and all(len(points.split()) == 2 for points in lines)
    assert "here" in svg and svg.count("<circle") == 5


def test_points_lie_inside_the_picture():
    svg = line_chart([Series("a", [(x, math.sin(x) * 1e5) for x in range(60)])])
    assert "faint" in svg
    assert "faint" not in line_chart([Series("a", [(x, x / 7) for x in range(60)], noisy=False)])
    for points in re.findall(r'points="([^"]+)"', svg):
        for pair in points.split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= 460 and 0 <= y <= 230
    ET.fromstring(svg)


def test_a_marker_outside_is_left_out():
    assert "late" not in line_chart([Series("a", [(0, 1), (5, 2)])], [Marker(50, "late")])


def test_smoothing_starts_at_the_first_value():
    assert [y for _, y in smoothed([(0, 3.0), (1, 3.0), (2, 3.0)])] == pytest.approx([3.0] * 3)


def test_intervals():
    svg = interval_chart([Estimate("a<b", 0, 0.5, 0.4, 0.6), Estimate("a<b", 1, 0.3, -0.1, 0.5)])
    root = ET.fromstring(svg)
    assert len(list(root.iter("{http://www.w3.org/2000/svg}circle"))) == 2 and "a&lt;b" in svg


def test_numbers():
    assert [number(v) for v in (0, 1234.5, 0.05, 1.2e-5)] == ["0", "1,234", "0.05", "1.2e-05"]
