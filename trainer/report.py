"""report.html of a run: one file that opens anywhere, with plots, samples, slices, data report, config and digests.

Reads what the run directory holds; whatever is not there yet is left out and said so.
"""

from __future__ import annotations

import json
import os
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from adapters.errors import TrainingError
from trainer.report_sections import (
    Run,
    charts,
    configuration,
    data_section,
    header,
    samples_section,
    slices_section,
)

SAVED = "evaluations"
"""Folder of a run directory: `before.json` and `after.json`, as `understudy eval --run` writes them."""


def write_report(run_dir: Path) -> Path:
    """Write run_dir/report.html, whole or not at all; returns its path. Raises TrainingError when it cannot."""
    run = read_run(run_dir)
    sections = (header, charts, slices_section, samples_section, data_section, configuration)
    body = "\n".join(section(run) for section in sections)
    template = Template((files("trainer") / "report_template.html").read_text(encoding="utf-8"))
    page = template.safe_substitute(title=escape(f"{run.name} · training run"), body=body)
    path = run_dir / "report.html"
    new = path.with_name(f".report.{os.getpid()}.tmp")
    try:
        new.write_text(page, encoding="utf-8")
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise TrainingError(f"{path} cannot be written: {error.strerror}") from None
    return path


def read_run(run_dir: Path) -> Run:
    """What the folder holds; torn and missing files are empty. Raises TrainingError when there is no such folder."""
    if not run_dir.is_dir():
        raise TrainingError(f"{run_dir} is no run directory")
    return Run(
        name=run_dir.resolve().name,
        frozen=_json(run_dir / "run.json"),
        result=_json(run_dir / "result.json"),
        data=_json(run_dir / "data_report.json"),
        metrics=_rows(run_dir / "metrics.jsonl"),
        samples=_rows(run_dir / "samples.jsonl"),
        before=_json(run_dir / SAVED / "before.json"),
        after=_json(run_dir / SAVED / "after.json"),
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _rows(path: Path) -> list[dict[str, Any]]:
    """Whole rows only."""
    found = []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            found.append(row)
    return found
