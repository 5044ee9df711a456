"""POST /v1/feedback: checks the body and the id. Pure, but for the cache of assignments that labels the metrics.

Sending the same feedback again is safe: for estimates the last word per (response, kind) counts, for sequential tests
the unit's first bad one, so a repetition changes neither.
"""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass
from typing import Any

import orjson

from gateway.data_plane.auth import Principal
from gateway.data_plane.ids import IdMinter
from gateway.errors import bad_request, body_too_large, forbidden, not_found, shorten, unprocessable
from monitors.conventions import FeedbackKind

MAX_BODY = 64 * 1024               # bytes
MAX_COMMENT = 4096                 # bytes of UTF-8
_KEYS = ("response_id", "score", "kind", "comment")
_KINDS = frozenset(kind.value for kind in FeedbackKind)


@dataclass(frozen=True, slots=True)
class FeedbackRow:
    """One row of `feedback`, in the order of events.FEEDBACK_COLUMNS."""

    response_id: str
    at: float                      # seconds since the epoch
    assignment: int
    unit: bytes
    score: float
    kind: str
    comment: str | None

    def as_row(self) -> tuple[Any, ...]:
        """For EventWriter.feedback()."""
        return astuple(self)


def parse(body: bytes, principal: Principal, minter: IdMinter, now: float) -> FeedbackRow:
    """A checked feedback. Raises ApiError: 400 malformed, 403 another owner's, 404 not our id, 413, 422 range."""
    fields = _object(body)
    text, score, kind = (_required(fields, key) for key in _KEYS[:3])
    comment = fields.get("comment")
    if type(text) is not str:
        raise bad_request("`response_id` must be a string: the `id` of an answer", "response_id")
    if type(score) not in (int, float):
        raise bad_request("`score` must be a number from 0 to 1", "score")
    if type(kind) is not str:
        raise bad_request(f"`kind` must be one of {', '.join(FeedbackKind)}", "kind")
    if comment is not None and type(comment) is not str:
        raise bad_request("`comment` must be a string, or left out", "comment")
    if not 0 <= score <= 1:
        raise unprocessable("`score` must be from 0 (bad) to 1 (good)", "score")
    if kind not in _KINDS:
        raise unprocessable(f"{shorten(kind)} is not a kind of feedback: use one of {', '.join(FeedbackKind)}", "kind")
    if comment is not None and len(comment.encode()) > MAX_COMMENT:
        raise unprocessable(f"`comment` is longer than {MAX_COMMENT} bytes: shorten it", "comment")
    found = minter.verify(text)
    if found is None:
        raise not_found(f"{shorten(text)} is not the id of an answer of this gateway", "response_id")
    if found.owner_tag != principal.owner_tag:
        raise forbidden("this answer was given to another owner's key", "response_id")
    cleaned = comment.replace("\0", "") if comment else None     # PostgreSQL has no NUL in texts
    return FeedbackRow(found.text, now, found.assignment, found.unit, float(score), kind, cleaned)


def _object(body: bytes) -> dict[str, Any]:
    """The body as a JSON object with known keys, each once."""
    if len(body) > MAX_BODY:
        raise body_too_large(MAX_BODY)
    try:
        fields = orjson.loads(body)          # strict: no NaN, no lone surrogates, bounded depth
        names = [name for name, _ in json.loads(body.decode(), object_pairs_hook=list)] if type(fields) is dict else []
    except (ValueError, RecursionError) as error:
        raise bad_request(f"the body is not valid JSON: {error}") from None
    if type(fields) is not dict:
        raise bad_request("the body must be a JSON object with response_id, score and kind")
    for name in names:
        if name not in _KEYS:
            raise bad_request(f"{shorten(name)} is not a field of feedback: use {', '.join(_KEYS)}", "body")
        if names.count(name) > 1:
            raise bad_request(f"`{name}` is given twice", name)
    return fields


def _required(fields: dict[str, Any], key: str) -> Any:
    if fields.get(key) is None:
        raise bad_request(f"`{key}` is required", key)
    return fields[key]
