"""Evaluations and comparisons as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from adapters.evaluation_store import Evaluation
from trainer.evaluation.comparison import Comparison

CLUSTERS = 5
COLUMNS = ("slice", "prompts", "pass@1 [95 %]", "pass@k", "score", "ECE [95 %]", "refusals", "tokens", "p50/p99 s")


def print_evaluation(evaluation: Evaluation, console: Console | None = None) -> None:
    """One row per slice, the north star, and the largest groups of failures."""
    console = console or Console()
    body = evaluation.body
    title = f"{evaluation.version} · {evaluation.suite} · {evaluation.source}"
    table = Table(title=escape(title), title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "slice" else "right")
    for name, measured in body["slices"].items():
        table.add_row(escape(name), *_cells(measured))
    console.print(table)
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
    console = console or Console()
    table = Table(title=escape(f"{candidate} against {stable}, the same prompts"), title_justify="left")
    for column in ("slice", "candidate", "stable", "difference [95 %]", "better/worse", "p", ""):
        table.add_column(column, justify="left" if column == "slice" else "right")
    for one in comparison.slices:
        found = one.paired
        if found is None:
            table.add_row(escape(one.name), _number(one.candidate), _number(one.stable), "no data", "", "", "")
            continue
        p = "" if found.p is None else f"{found.p:.3g}"
        bounds = f"{found.difference:+.3f} [{found.interval.lower:+.3f}, {found.interval.upper:+.3f}]"
        changed = ("better" if found.difference > 0 else "worse") if one.changed else ""
        counts = f"{found.better}/{found.worse}"
        table.add_row(escape(one.name), _number(one.candidate), _number(one.stable), escape(bounds), counts, p, changed)
    console.print(table)
    star = comparison.north_star
    if star.difference is None or star.interval is None:
        console.print(f"north star {star.name}: no data")
        return
    low, high = star.interval
    console.print(escape(f"north star {star.name}: {star.difference:+.3f} [{low:+.3f}, {high:+.3f}]"))


def _cells(measured: Mapping[str, Any]) -> list[str]:
    tokens, seconds = measured["output_tokens"], measured["seconds"]
    prompts = str(measured["prompts"])
    if measured["missing"] or measured["errors"]:
        prompts += f" ({measured['missing']} missing, {measured['errors']} errors)"
    at_k = _plain(measured["pass_at_k"]) + (f" @{measured['k']}" if measured["k"] > 1 else "")
    refusals = ""
    if "over_refusal" in measured:
        refusals = f"{_plain(measured['over_refusal'])} over, {_plain(measured['under_refusal'])} under"
    return [
        prompts, escape(_with_interval(measured["pass_at_1"])), at_k, _plain(measured["score"]),
        escape(_with_interval(measured["ece"])), refusals,
        f"{tokens['mean']:.1f}" if tokens else "-",
        f"{seconds['p50']:.2f}/{seconds['p99']:.2f}" if seconds else "-",
    ]  # fmt: skip


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
