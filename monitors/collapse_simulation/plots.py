"""Two pictures: one collapse as it happens, and how long the detector takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monitors.collapse import CollapseDetector, fit
from monitors.collapse_simulation.runs import Outcome
from monitors.collapse_simulation.scenarios import CHANGE, scenarios

_SHOWN = ("flat", "rising", "slight", "gao", "control")
_STEP = 25             # feedbacks between two points of a curve
_UNTIL = 4000          # feedbacks of the run that is shown


def draw(folder: Path, outcomes: Mapping[str, Sequence[Outcome]], seed: int) -> Iterator[Path]:
    """Writes SVG files; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    yield _trace(folder / "collapse-trace.svg", seed)
    yield _delays(folder / "collapse-delays.svg", outcomes)


def _trace(path: Path, seed: int) -> Path:
    """Reward +.3 SD and satisfaction −10 points after CHANGE: what dashboards see, and what the detector does."""
    scenario = scenarios()["rising"]
    rng = np.random.default_rng([seed, *scenario.name.encode()])
    calm, stream = scenario.make(rng, True), scenario.make(rng, False)
    detector = CollapseDetector(fit(calm.rewards, calm.satisfactions))
    points: list[tuple[float, ...]] = []
    for place in range(_UNTIL):
        detector.observe(float(stream.rewards[place]), float(stream.satisfactions[place]))
        if place % _STEP == 0 and place >= 300:
            mine = detector.mine
            evidence = max(detector.log_e, -2.0)
            points.append((place, mine.rewards.mean, mine.satisfactions.mean, 100 * detector.alignment_tax, evidence))
    titles = ("reward, SD", "satisfaction", "alignment tax, points", "ln e of collapse")
    figure, panels = _figure(4, (8, 7))
    columns = list(zip(*points, strict=True))
    for axes, values, title in zip(panels, columns[1:], titles, strict=True):
        axes.plot(columns[0], values, linewidth=1.2)
        axes.axvline(CHANGE, color="grey", linestyle=":", linewidth=1)
        axes.set_ylabel(title, fontsize="small")
    panels[3].axhline(math.log(detector.threshold), color="black", linestyle="--", linewidth=1)
    panels[3].set_ylim(-3, 40)
    panels[3].set_xlabel("feedback")
    figure.suptitle("The reward rises while satisfaction falls (means of 300; dotted: the change)")
    figure.savefig(path)
    return path


def _delays(path: Path, outcomes: Mapping[str, Sequence[Outcome]]) -> Path:
    """Share of the runs in which the alarm of collapse has been raised, by feedbacks since the change."""
    figure, (axes,) = _figure(1, (8, 4.2))
    for name in _SHOWN:
        scenario, runs = scenarios()[name], outcomes.get(name, ())
        alarms = (one.first["collapse"] for one in runs)
        delays = sorted(at - scenario.change for at in alarms if at is not None and at >= scenario.change)
        if delays:
            kept = sorted({round(k * (len(delays) - 1) / 80) for k in range(81)})
            axes.step([delays[k] for k in kept], [(k + 1) / len(runs) for k in kept], where="post", label=scenario.what)
    axes.set_xscale("log")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("feedbacks since the change")
    axes.set_ylabel("share of runs found")
    axes.legend(fontsize="small")
    figure.savefig(path)
    return path


def _figure(count: int, size: tuple[float, float]) -> tuple[Any, Sequence[Any]]:
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "understudy"  # the same picture is the same file
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(count, 1, sharex=True, squeeze=False)
    return figure, [row[0] for row in panels]
