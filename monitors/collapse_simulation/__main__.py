"""Run the scenarios: `python -m monitors.collapse_simulation [--runs 400] [--json] [--plot FOLDER]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from monitors.collapse_simulation.runs import Outcome, Summary, as_row, simulate, summarise
from monitors.collapse_simulation.scenarios import scenarios

RUNS = 400
_TEXTS = ("longer", "padded")
_TEXT_SHARE = 10       # runs with texts take as many times longer, so there are fewer of them


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table (or JSON) on standard output, progress on standard error; returns the exit status."""
    options = _options(arguments)
    names = options.scenario or list(scenarios())
    outcomes: dict[str, list[Outcome]] = {name: [] for name in names}
    tasks = [(name, options.seed + number) for name in names for number in range(_runs(name, options))]
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("simulating", total=len(tasks))
        for (name, _), outcome in zip(tasks, _simulated(tasks, options.processes), strict=True):
            outcomes[name].append(outcome)
            progress.advance(bar)
    found = [summarise(name, outcomes[name]) for name in names]
    if options.plot:
        from monitors.collapse_simulation.plots import draw

        for path in draw(options.plot, outcomes, options.seed):
            sys.stderr.write(f"{path}\n")
    sys.stdout.write(json.dumps([as_row(one) for one in found], indent=2) if options.json else table(found))
    sys.stdout.write("\n")
    return 0


def table(found: Sequence[Summary]) -> str:
    """Markdown, as in docs/collapse.md."""
    head = (
        "what happens", "runs", "false alarms (of collapse)", "collapse: found", "median / p95",
        "labelled collapse / regression", "first verdict", "corroborators", "efficiency",
    )  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for one in found:
        what = one.what + (f" (found when {100 * one.lost:.1f} points were lost)" if one.lost is not None else "")
        corroborators = f"{one.freeze:.1%}" + (f"; inconclusive {one.inconclusive:.0%}" if one.inconclusive else "")
        cells = (
            what, str(one.runs), f"{one.early:.2%} ({one.early_collapse:.2%})",
            f"{one.collapse_alarm:.2%}", _delay(one.collapse_delay),
            f"{one.collapse:.2%} / {one.regression:.2%}", _delay(one.verdict_delay), corroborators,
            "-" if one.efficiency is None else f"{one.efficiency:.2f}",
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _delay(value: tuple[float, float] | None) -> str:
    return "-" if value is None else f"{value[0]:.0f} / {value[1]:.0f}"


def _simulated(tasks: list[tuple[str, int]], processes: int) -> Iterator[Outcome]:
    """In the order of `tasks`, whatever the number of processes."""
    if processes == 1:
        yield from (simulate(*task) for task in tasks)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(simulate, *zip(*tasks, strict=True), chunksize=4)


def _runs(name: str, options: argparse.Namespace) -> int:
    return max(1, options.runs // _TEXT_SHARE) if name in _TEXTS else int(options.runs)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m monitors.collapse_simulation", description="Delays and false alarms of the collapse detector."
    )
    parser.add_argument("--runs", type=_positive, default=RUNS, help="of each scenario (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same table")
    parser.add_argument("--scenario", action="append", choices=list(scenarios()), help="only this one; may be repeated")
    parser.add_argument("--processes", type=_positive, default=1, help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="write the plots there (needs matplotlib)")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError(text)
    return value


if __name__ == "__main__":
    sys.exit(main())
