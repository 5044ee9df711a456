"""The guard's answer as verdicts. Strict: what is not exactly a result is none, and none is never safe."""

from __future__ import annotations

import math
from typing import Any

import orjson

from gateway.data_plane.screening.policy import Judged, label_of

_LONGEST = 300  # characters of a reason


def read_results(body: bytes, count: int) -> list[Judged] | None:
    """One result for each of the ids 0, 1, …, `count` − 1. None when the answer is anything else."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    rows = answer.get("results") if isinstance(answer, dict) else None
    if not isinstance(rows, list) or len(rows) != count:
        return None
    found = [_result(row, str(place)) for place, row in enumerate(rows)]
    return None if None in found else [one for one in found if one is not None]


def _result(row: Any, wanted: str) -> Judged | None:
    if not isinstance(row, dict) or row.get("id") != wanted:
        return None
    unavailable, unsafe, score, scores = (row.get(key) for key in ("unavailable", "unsafe", "score", "scores"))
    if type(unavailable) is not bool or type(unsafe) is not bool or not isinstance(scores, dict):
        return None
    if not all(_is_share(value) for value in scores.values()) or not (score is None or _is_share(score)):
        return None
    reason = row.get("reason")
    text = reason[:_LONGEST] if isinstance(reason, str) else ""
    if score is None and not unavailable:
        return None  # a verdict without a score is none
    named: dict[str, float] = {}
    for code, value in scores.items():
        label = label_of(code)
        named[label] = max(float(value), named.get(label, 0.0))
    return Judged(None if score is None else float(score), named, unavailable, text)


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value <= 1
