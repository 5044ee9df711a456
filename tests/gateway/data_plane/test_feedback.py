import asyncio
import json
import math
from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import DatabaseError
from adapters.response_store import COLUMNS
from gateway.data_plane.auth import Principal, owner_tag
from gateway.data_plane.feedback import MAX_BODY, MAX_COMMENT, Assignments, FeedbackRow, Labels, parse
from gateway.data_plane.ids import IdMinter
from gateway.errors import ApiError
from monitors.conventions import FeedbackKind

MINTER = IdMinter(bytes(32))
UNIT = MINTER.unit_hash("team", "user-1")
TEAM = Principal("team", owner_tag("team"), "key-1", frozenset(), frozenset())
OTHER = Principal("other", owner_tag("other"), "key-2", frozenset(), frozenset())
ID = "chatcmpl-" + MINTER.mint(42, TEAM.owner_tag, UNIT, 1e9)


def send(body: object, principal: Principal = TEAM) -> FeedbackRow:
    return parse(body if isinstance(body, bytes) else json.dumps(body).encode(), principal, MINTER, 2e9)


def refusal(body: object, principal: Principal = TEAM) -> ApiError:
    with pytest.raises(ApiError) as caught:
        send(body, principal)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400
    return caught.value


@pytest.mark.parametrize("kind", list(FeedbackKind))
@pytest.mark.parametrize("score", [0, 1, 0.0, 1.0, 0.25, 5e-324])
def test_good_feedback(kind: str, score: float) -> None:
    row = send({"response_id": ID, "score": score, "kind": kind, "comment": "très bien 💯"})
    assert row == FeedbackRow(ID.removeprefix("chatcmpl-"), 2e9, 42, UNIT, score, kind, "très bien 💯")
    assert isinstance(row.score, float)
    assert dict(zip(COLUMNS["feedback"], row.as_row(), strict=True))["comment"] == "très bien 💯"


@pytest.mark.parametrize("comment", [None, ""])
def test_no_comment(comment: str | None) -> None:
    assert send({"response_id": ID, "score": 1, "kind": "thumb", "comment": comment}).comment is None
    assert send({"response_id": ID, "score": 1, "kind": "thumb"}).comment is None


GOOD = {"response_id": ID, "score": 0.5, "kind": "thumb"}


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"response_id": None}, 400, "response_id"),
        ({"response_id": 7}, 400, "response_id"),
        ({"response_id": [ID]}, 400, "response_id"),
        ({"response_id": ""}, 404, "response_id"),
        ({"response_id": "chatcmpl-abc"}, 404, "response_id"),
        ({"response_id": ID[:-1] + ("A" if ID[-1] != "A" else "B")}, 404, "response_id"),
        ({"response_id": "x" * 50_000}, 404, "response_id"),
        ({"score": None}, 400, "score"),
        ({"score": "1"}, 400, "score"),
        ({"score": True}, 400, "score"),
        ({"score": [1]}, 400, "score"),
        ({"score": -0.001}, 422, "score"),
        ({"score": 1.001}, 422, "score"),
        ({"score": 1e308}, 422, "score"),
        ({"score": -(10**300)}, 422, "score"),
        ({"score": 10**18}, 422, "score"),
        ({"kind": None}, 400, "kind"),
        ({"kind": 1}, 400, "kind"),
        ({"kind": ["thumb"]}, 400, "kind"),
        ({"kind": "Thumb"}, 422, "kind"),
        ({"kind": "a" * 10_000}, 422, "kind"),
        ({"comment": 5}, 400, "comment"),
        ({"comment": "a" * (MAX_COMMENT + 1)}, 422, "comment"),
        ({"comment": "é" * (MAX_COMMENT // 2 + 1)}, 422, "comment"),
        ({"user": "me"}, 400, "body"),
    ],
)
def test_wrong_fields(change: dict[str, Any], status: int, param: str) -> None:
    error = refusal({**GOOD, **change})
    assert (error.status, error.param) == (status, param)


@pytest.mark.parametrize("missing", list(GOOD))
def test_missing_fields(missing: str) -> None:
    error = refusal({key: value for key, value in GOOD.items() if key != missing})
    assert (error.status, error.param, error.message) == (400, missing, f"`{missing}` is required")


def text_with(score: str) -> bytes:
    return b'{"response_id": "%s", "kind": "thumb", "score": %s}' % (ID.encode(), score.encode())


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"null", 400),
        (b"[]", 400),
        (b'"x"', 400),
        (b"7", 400),
        (b"{", 400),
        (b"\xff", 400),
        (b"[" * 60_000, 400),
        (b'{"a":' * 10_000, 400),
        (b"\xef\xbb\xbf{}", 400),
        ("{}".encode("utf-16"), 400),
        (text_with("NaN"), 400),
        (text_with("Infinity"), 400),
        (text_with("-Infinity"), 400),
        (text_with("1e999"), 400),
        (text_with("9" * 5000), 400),
        (text_with("0x1"), 400),
        (text_with("01"), 400),
        (text_with("1" + "0" * 30), 422),
        (text_with('1, "score": 0'), 400),
        (text_with('1, "sc\\u006fre": 0'), 400),
        (text_with('1, "comment": "\\ud800"'), 400),
        (b" " * (MAX_BODY + 1), 413),
    ],
    ids=lambda value: str(value)[:40],
)
def test_hostile_bodies(body: bytes, status: int) -> None:
    assert refusal(body).status == status


def test_nul_is_left_out_of_comments() -> None:
    """PostgreSQL's texts cannot hold it."""
    assert send({**GOOD, "comment": "a\0b"}).comment == "ab"


def test_another_owners_answer() -> None:
    error = refusal(GOOD, OTHER)
    assert (error.status, error.param) == (403, "response_id")
    anonymous = Principal("", owner_tag(""), "", frozenset(), frozenset())
    assert refusal(GOOD, anonymous).status == 403


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


FIELDS = {"response_id": JSON | st.just(ID), "score": JSON, "kind": JSON | st.just("thumb"), "comment": JSON}


@given(st.fixed_dictionaries({}, optional=FIELDS))
def test_whatever_is_sent_is_accepted_right_or_refused_clearly(fields: dict[str, Any]) -> None:
    body = json.dumps(fields).encode()
    try:
        row = parse(body, TEAM, MINTER, 2e9)
    except ApiError as error:
        assert error.status in {400, 403, 404, 422}
        return
    assert 0 <= row.score <= 1
    assert math.isfinite(row.score)
    assert row.kind in list(FeedbackKind)
    assert orjson.dumps(row.comment)


@given(st.binary())
def test_any_bytes(body: bytes) -> None:
    assert refusal(body).status == 400


class Lookup:
    def __init__(self, rows: Mapping[int, dict[str, Any]]) -> None:
        self.rows, self.asked, self.away = rows, 0, False

    def __call__(self, assignment: int) -> dict[str, Any] | None:
        self.asked += 1
        if self.away:
            raise DatabaseError("away")
        return self.rows.get(assignment)


async def test_assignments_are_looked_up_once_and_the_newest_kept() -> None:
    lookup = Lookup({n: {"id": n, "route": "r", "version": f"v{n}", "arm": "stable", "share": 1.0} for n in range(20)})
    assignments = Assignments(lookup, capacity=5)
    assignments.put(100, Labels("r", "v100", "candidate"))
    assert await assignments.resolve(100) == Labels("r", "v100", "candidate")
    assert lookup.asked == 0
    for number in (1, 2, 1, 2):
        assert await assignments.resolve(number) == Labels("r", f"v{number}", "stable")
    assert lookup.asked == 2
    for number in range(3, 20):
        await assignments.resolve(number)
    assert await assignments.resolve(19) is not None
    assert lookup.asked == 19
    await assignments.resolve(1)
    assert lookup.asked == 20


async def test_unknown_assignments_and_a_database_that_is_away() -> None:
    lookup = Lookup({1: {"route": "r", "version": "v", "arm": "stable"}})
    assignments = Assignments(lookup)
    with pytest.raises(ApiError, match="no longer on record") as caught:
        await assignments.resolve(2)
    assert caught.value.status == 404
    lookup.away = True
    assert await assignments.resolve(1) is None
    lookup.away = False
    assert await asyncio.gather(*(assignments.resolve(1) for _ in range(10))) == [Labels("r", "v", "stable")] * 10
