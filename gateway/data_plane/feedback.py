"""POST /v1/feedback: checks the body and the id. Pure, but for the cache of assignments that labels the metrics.

Sending the same feedback again is safe: for estimates the last word per (response, kind) counts, for sequential tests
the unit's first bad one, so a repetition changes neither.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from typing import Any

import orjson

from adapters.errors import DatabaseError
from gateway.data_plane.auth import Principal
from gateway.data_plane.ids import IdMinter
from gateway.errors import bad_request, body_too_large, forbidden, not_found, shorten, unprocessable
from monitors.conventions import FeedbackKind

logger = logging.getLogger(__name__)

MAX_BODY = 64 * 1024  # bytes
MAX_COMMENT = 4096  # bytes of UTF-8
SATISFIED = 0.5  # a lower score is a thumb down
_KEYS = ("response_id", "score", "kind", "comment")
_KINDS = frozenset(kind.value for kind in FeedbackKind)


@dataclass(frozen=True, slots=True)
class FeedbackRow:
    """One row of `feedback`, in the order of adapters.response_store.COLUMNS."""

    response_id: str
    at: float  # seconds since the epoch
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
    cleaned = comment.replace("\0", "") if comment else None  # PostgreSQL has no NUL in texts
    return FeedbackRow(found.text, now, found.assignment, found.unit, float(score), kind, cleaned)


@dataclass(frozen=True, slots=True)
class Labels:
    """What an assignment stands for: the labels of its metrics."""

    route: str
    version: str
    arm: str


class Assignments:
    """Labels by assignment: those of the current routes are put in, older ones are looked up once, off the loop.

    `lookup` is FleetStore.assignments_by_id. Keeps the `capacity` newest.
    """

    def __init__(self, lookup: Callable[[int], Mapping[str, Any] | None], capacity: int = 10_000) -> None:
        self._lookup = lookup
        self._capacity = capacity
        self._known: dict[int, Labels] = {}

    def put(self, assignment: int, labels: Labels) -> None:
        """Remember an assignment of the current routing state."""
        self._known.pop(assignment, None)  # again: to the end, as the newest
        self._known[assignment] = labels
        while len(self._known) > self._capacity:
            del self._known[next(iter(self._known))]

    async def resolve(self, assignment: int) -> Labels | None:
        """Its labels; None while the database is away (the feedback counts all the same, but in no metric).

        Raises ApiError (404) for one that the database does not have: an id from before it was replaced.
        """
        found = self._known.get(assignment)
        if found is not None:
            return found
        try:
            row = await asyncio.to_thread(self._lookup, assignment)
        except DatabaseError as error:
            logger.warning("feedback is accepted without its metric: %s", error)
            return None
        if row is None:
            raise not_found("this answer is no longer on record", "response_id")
        labels = Labels(row["route"], row["version"], row["arm"])
        self.put(assignment, labels)
        return labels


def _object(body: bytes) -> dict[str, Any]:
    """The body as a JSON object with known keys, each once."""
    if len(body) > MAX_BODY:
        raise body_too_large(MAX_BODY)
    try:
        fields = orjson.loads(body)  # strict: no NaN, no lone surrogates, bounded depth
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
