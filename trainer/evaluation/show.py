"""Evaluations and comparisons as tables for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from adapters.evaluation_store import Evaluation
from trainer.evaluation.comparison import Comparison, SliceComparison

CLUSTERS = 5
COMPARED = ("slice", "candidate", "stable", "difference [95 %]", "better/worse", "p", "")
Measured = Mapping[str, Any]


def terminal() -> Console:
    """Standard output; where that is no terminal, wide enough that nothing is cut."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


def plain_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Aligned columns without lines, the first to the left; cells are rich markup."""
    table = Table(title=escape(title), title_justify="left", title_style="bold", box=None, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(escape(column), justify="right" if place else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def print_evaluation(evaluation: Evaluation, console: Console | None = None) -> None:
    """One row per slice, the north star, and the largest groups of failures."""
    console = console or terminal()
    body = evaluation.body
    slices = body["slices"]
    columns = [name for name, (shown, _) in COLUMNS.items() if shown(slices.values())]
    rows = [[escape(name), *(escape(COLUMNS[column][1](one)) for column in columns)] for name, one in slices.items()]
    title = f"{evaluation.version} · {evaluation.suite} · {evaluation.source}"
    console.print(plain_table(title, ["slice", *columns], rows))
    console.print(f"north star {_star(body['north_star'])}")
    if body["cost"] is not None:
        console.print(f"a thousand answers cost {body['cost']:.4g}")
    for group in body["failures"][:CLUSTERS]:
        first = group["examples"][0]
        by = f" by {group['grader']}" if group["grader"] else ""
        line = f"{group['slice']}: {group['prompts']} prompts {group['kind']}{by}, such as {first['where']}: "
        console.print(escape(f"{line}{first['question']!r} → {first['answer']!r}"), soft_wrap=True)


def print_comparison(comparison: Comparison, candidate: str, stable: str, console: Console | None = None) -> None:
    """Paired differences by slice."""
    console = console or terminal()
    rows = [_compared(one) for one in comparison.slices]
    console.print(plain_table(f"{candidate} against {stable}, the same prompts", COMPARED, rows))
    star = comparison.north_star
    if star.difference is None or star.interval is None:
        console.print(f"north star {star.name}: no data")
        return
    low, high = star.interval
    console.print(escape(f"north star {star.name}: {star.difference:+.3f} [{low:+.3f}, {high:+.3f}]"))


def _compared(one: SliceComparison) -> list[str]:
    found = one.paired
    sides = [escape(one.name), _number(one.candidate), _number(one.stable)]
    if found is None:
        return [*sides, "no data", "", "", ""]
    bounds = f"{found.difference:+.3f} [{found.interval.lower:+.3f}, {found.interval.upper:+.3f}]"
    p = "" if found.p is None else f"{found.p:.2g}"
    changed = ("better" if found.difference > 0 else "worse") if one.changed else ""
    return [*sides, escape(bounds), f"{found.better}/{found.worse}", p, changed]


def _prompts(measured: Measured) -> str:
    lost = [f"{measured[name]} {name}" for name in ("missing", "errors") if measured[name]]
    return str(measured["prompts"]) + (f" ({', '.join(lost)})" if lost else "")


def _refusals(measured: Measured) -> str:
    if "over_refusal" not in measured:
        return ""
    return f"{_plain(measured['over_refusal'])} / {_plain(measured['under_refusal'])}"


def _seconds(measured: Measured) -> str:
    found = measured["seconds"]
    return f"{found['p50']:.2f} / {found['p99']:.2f}" if found else "-"


def _tokens(measured: Measured) -> str:
    found = measured["output_tokens"]
    return f"{found['mean']:.1f}" if found else "-"


def _at_k(measured: Measured) -> str:
    return f"{_plain(measured['pass_at_k'])} @{measured['k']}" if measured["k"] > 1 else ""


def _always(_: Iterable[Measured]) -> bool:
    return True


def _scores_differ(slices: Iterable[Measured]) -> bool:
    return any(_plain(one["score"]) != _plain(one["pass_at_1"]) for one in slices)


# column → (is it shown for these slices, its cell)
COLUMNS: Mapping[str, tuple[Callable[[Iterable[Measured]], bool], Callable[[Measured], str]]] = {
    "prompts": (_always, _prompts),
    "pass@1 [95 %]": (_always, lambda one: _with_interval(one["pass_at_1"])),
    "pass@k": (lambda slices: any(one["k"] > 1 for one in slices), _at_k),
    "score [95 %]": (_scores_differ, lambda one: _with_interval(one["score"])),
    "ECE [95 %]": (lambda slices: any(one["ece"] for one in slices), lambda one: _with_interval(one["ece"])),
    "over/under-refusal": (lambda slices: any("over_refusal" in one for one in slices), _refusals),
    "tokens": (_always, _tokens),
    "p50/p99 s": (_always, _seconds),
}


def _with_interval(estimate: Mapping[str, float] | None) -> str:
    if not estimate:
        return "-"
    return f"{estimate['value']:.3f} [{estimate['lower']:.3f}, {estimate['upper']:.3f}]"


def _plain(estimate: Mapping[str, float] | None) -> str:
    return f"{estimate['value']:.3f}" if estimate else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _star(found: Mapping[str, Any] | None) -> str:
    return escape(f"{found['name']}: {_with_interval(found)}") if found else "no data"
