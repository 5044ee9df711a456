"""The frozen environment of an evaluation: all that a score depends on besides the version. Only equal ones compare.

Per slice: prompts with their columns, graders by fingerprint, sampling settings. Margins and the north star are rules,
not environment: changing them needs no new evaluation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from monitors.rewards.types import Grader
from trainer.suite import Slice, Suite

FORMAT = 1
"""Raised whenever a change of this code may change a score."""


def environment(suite: Suite, graders: Mapping[str, Sequence[Grader]], source: str) -> dict[str, Any]:
    """What is pinned, part by part, so that a refusal can say what changed. `graders`: by slice. Plain JSON."""
    shared = suite.settings.model_dump(mode="json", include={"top_p", "confidence", "refusals"})
    return {
        "format": FORMAT,
        "source": source,
        "settings": shared,
        "slices": {part.name: _slice(suite, part, graders.get(part.name, ())) for part in suite},
    }


def _slice(suite: Suite, part: Slice, graders: Sequence[Grader]) -> dict[str, Any]:
    settings = part.settings
    return {
        "prompts": _sha([row.id for row in part.rows]),
        "graders": {grader.name: grader.fingerprint for grader in graders},
        "sampling": {
            "seed": suite.settings.seed, "samples": settings.n, "k": settings.k, "max_tokens": part.max_tokens,
            "temperature": part.temperature, "threshold": settings.threshold,
            "weights": {spec.shown: [spec.weight, spec.required] for spec in settings.graders},
        },
    }  # fmt: skip


def digest(pinned: Mapping[str, Any]) -> str:
    """sha256 of an environment, 64 hex digits."""
    return _sha(pinned)


def difference(now: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    """What changed from `before` to `now`, in one line; empty when they are equal."""
    if now == before:
        return ""
    for key, what in (("format", "the program's way of evaluating"), ("source", "how it was run")):
        if now.get(key) != before.get(key):
            return f"{what} changed ({before.get(key)} → {now.get(key)})"
    if now["settings"] != before.get("settings"):
        return f"the suite's {_changed_keys(now['settings'], before.get('settings', {}))} changed"
    mine, theirs = now["slices"], before.get("slices", {})
    if mine.keys() != theirs.keys():
        return f"slices were {', '.join(sorted(theirs))} and are {', '.join(sorted(mine))}"
    name = next(name for name in mine if mine[name] != theirs[name])
    return f"slice {name}: {_slice_difference(mine[name], theirs[name])}"


def _slice_difference(now: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    if now["graders"] != before["graders"]:
        names = _changed_keys(now["graders"], before["graders"])
        return f"grader {names} changed: scores of two graders cannot be compared"
    if now["prompts"] != before["prompts"]:
        return "its prompts changed"
    return f"its {_changed_keys(now['sampling'], before['sampling'])} changed"


def _changed_keys(now: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    return ", ".join(sorted(key for key in now.keys() | before.keys() if now.get(key) != before.get(key)))


def _sha(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
