from __future__ import annotations

from monitors.collapse_simulation.plots import draw
from monitors.collapse_simulation.runs import Outcome


def test_both_pictures_are_drawn_the_same_every_time(tmp_path):
    outcomes = {"flat": [Outcome({"collapse": 2000 + 10 * n, "quality_regression": None, "freeze": None}, "collapse", 2000, 0) for n in range(9)]}
    first, again = (list(draw(tmp_path / name, outcomes, 1)) for name in ("a", "b"))
    assert [path.name for path in first] == ["collapse-trace.svg", "collapse-delays.svg"]
    for one, other in zip(first, again, strict=True):
        assert one.read_text().count("<path") > 10 and one.stat().st_size < 150_000
        assert [line for line in one.read_text().splitlines() if "<path" in line] == [
            line for line in other.read_text().splitlines() if "<path" in line
        ]
