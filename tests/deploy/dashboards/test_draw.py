"""Pictures of panels; tests/deploy/dashboards/test_queries.py draws whole dashboards from a real Prometheus."""

from __future__ import annotations

import pytest

from deploy.dashboards.draw import Line, _colour, _places, _stretches
from deploy.dashboards.rollout import board


def test_states_are_stretches_of_the_same_value():
    assert _stretches([]) == []
    assert _stretches([(0, 1), (1, 1), (2, 0), (3, 0), (4, 1)]) == [(0, 2, 1), (2, 4, 0), (4, 4, 1)]


def test_every_panel_has_its_place_and_none_is_drawn_over():
    places, height = _places(board())
    taken: set[tuple[int, int]] = set()
    for panel, left, top in next(value for key, value in places.items() if key is not None):
        cells = {(x, y) for x in range(left, left + panel.width) for y in range(top, top + panel.height)}
        assert not cells & taken and left + panel.width <= 24 and top + panel.height <= height
        taken |= cells


@pytest.mark.parametrize(("values", "colour"), [([], "green"), ([0.1], "green"), ([5.0], "orange"), ([9.0, 7.0], "red")])
def test_thresholds_colour_the_last_value(values, colour):
    from deploy.dashboards.draw import COLOURS

    (panel,) = [p for row in board().rows for p in row.panels if p.title == "Evidence of harm"]
    assert _colour(panel, values) == COLOURS[colour]
    assert Line("x", {}, []).points == []
