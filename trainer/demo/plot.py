"""The picture of the demo: automated reward against satisfaction while a reward-hacked version meets users."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.demo.crowd import Asked

WINDOW = 6.0             # seconds of a moving mean


def moving_mean(points: Sequence[tuple[float, float]], at: float) -> float | None:
    """Mean of the values of the last WINDOW seconds before `at`; None without any."""
    values = [value for when, value in points if at - WINDOW < when <= at]
    return sum(values) / len(values) if values else None


def draw(path: Path, seen: Sequence[Asked], candidate: str, began: float, ended: float | None) -> None:
    """Writes an SVG: for the candidate and for stable, mean reward and satisfaction over time; the rollback a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.2), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    for axes, column, title in zip(panels, (_reward, _thumb), ("automated reward", "satisfaction"), strict=True):
        for label, mine in (("candidate", True), ("stable", False)):
            points = [
                (asked.ended - began, value)
                for asked in sorted(seen, key=lambda asked: asked.ended)
                if (asked.version == candidate) == mine and (value := column(asked)) is not None
            ]
            if points:
                times = [when for when, _ in points]
                axes.plot(times, [moving_mean(points, when) for when in times], label=label)
        axes.set_ylabel(f"{title}\n(mean of {WINDOW:.0f} s)")
        axes.set_ylim(-0.03, 1.03)
        if ended is not None:
            axes.axvline(ended - began, color="black", linestyle="--", linewidth=1, label="rollback")
        axes.legend(loc="center left", fontsize="small")
    panels[-1].set_xlabel("seconds")
    figure.suptitle("The reward is the best of all while users leave")
    figure.savefig(path)


def _reward(asked: Asked) -> float | None:
    return asked.helpful if asked.status == 200 else None


def _thumb(asked: Asked) -> float | None:
    return None if asked.thumb is None else float(asked.thumb)
