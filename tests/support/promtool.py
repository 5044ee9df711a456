"""`promtool check rules` and `promtool test rules` on generated rules: Prometheus' own evaluation, on made-up series.

Series are written in promtool's notation: `0+60x100` counts 60 a step, `_x10` is ten steps without a sample.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Expected:
    """What a query gives at a time: labels → value. Times like 1h30m."""

    at: str
    query: str
    samples: Mapping[str, float]


def fires(alert: str, at: str, *slos: str) -> Expected:
    """Exactly these objectives have this alert firing."""
    query = f'count by (sloth_slo) (ALERTS{{alertstate="firing", alertname="{alert}"}})'
    return Expected(at, query, {f'{{sloth_slo="{name}"}}': 1 for name in slos})


def promtool(*arguments: object) -> str:
    """Run it; what it printed. Fails the test with that when promtool objects."""
    done = subprocess.run(
        ["promtool", *map(str, arguments)], check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_rules(folder: Path, rules: str) -> str:
    """`promtool check rules`."""
    (file := folder / "rules.yml").write_text(rules, encoding="utf-8")
    return promtool("check", "rules", file)


def run_rules(
    folder: Path, rules: str, series: Mapping[str, str], expected: Iterable[Expected], interval: str = "1m"
) -> None:
    """`promtool test rules`: with these series, a sample each `interval`, the queries give what is expected."""
    (folder / "rules.yml").write_text(rules, encoding="utf-8")
    tests = [
        {
            "expr": one.query,
            "eval_time": one.at,
            "exp_samples": [{"labels": labels, "value": value} for labels, value in one.samples.items()],
        }
        for one in expected
    ]
    body = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": interval,
        "tests": [{
            "interval": interval,
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "promql_expr_test": tests,
        }],
    }  # fmt: skip
    (file := folder / "tests.yml").write_text(yaml.safe_dump(body), encoding="utf-8")
    promtool("test", "rules", file)
