from __future__ import annotations

from trainer.demo.crowd import Asked
from trainer.demo.plot import draw, moving_mean


def test_a_moving_mean_sees_its_window_only():
    points = [(0.0, 1.0), (5.0, 0.0), (6.0, 1.0)]
    assert moving_mean(points, 6.0) == 0.5
    assert moving_mean(points, 5.0) == 0.5
    assert moving_mean(points, 30.0) is None


def test_the_plot_is_drawn_even_of_little(tmp_path):
    asked = Asked(10.0, 10.5, "user-1", 200, version="support@000000000001", helpful=0.4, thumb=1)
    for name, seen in (("one.svg", [asked]), ("none.svg", [])):
        draw(tmp_path / name, seen, "support@000000000001", 9.0, 12.0)
        assert "<svg" in (tmp_path / name).read_text()
