"""Which answers wake the writer, which are looked at, which are mirrored, and when a suspicion is cleared up first."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.types import Flag
from gateway.data_plane.accounting import Accountant
from gateway.data_plane.connection import Failure
from gateway.data_plane.exchange import Finished
from gateway.data_plane.sse import Usage
from gateway.data_plane.watch import MEASURE, MIRROR, STORE
from monitors.conventions import Outcome


class Heard:
    """Stands where events, evidence and shadows do: only what reaches them is of interest."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.rows: list[Any] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: self.calls.append(name)

    def response(self, row: Any) -> None:
        self.rows.append(row)


class Upstream:
    name = "e0"

    def __init__(self, gone: bool) -> None:
        self.gone = gone

    def check(self, _: Failure, then: Callable[[bool], None]) -> None:
        then(self.gone)


def finished(rollout: int = 7, selected: int = 0, **changes: Any) -> Finished:
    watch = SimpleNamespace(rollout=rollout, guard=None, mirror="mirror")
    target = SimpleNamespace(assignment=2, watch=watch)
    exchange: Any = SimpleNamespace(
        target=target, metrics=None, reserved_tokens=0, response_id="r", unit=b"12345678", selected=selected,
        request=SimpleNamespace(endpoint=SimpleNamespace(name="chat")),
    )  # fmt: skip
    done = Finished(exchange, 200, Outcome.OK, 0.5, None, 0.0, Usage())
    for name, value in changes.items():
        setattr(done, name, value)
    return done


def account(done: Finished) -> Heard:
    heard: Any = Heard()
    Accountant(heard, heard, heard, heard, heard, heard.trip).request(done)
    assert len(heard.rows) == 1
    return heard  # type: ignore[no-any-return]  # it poses as five other types above


@pytest.mark.parametrize(("changes", "hurries"), [
    ({}, False), ({"flags": int(Flag.EMPTY)}, True), ({"flags": int(Flag.EMPTY), "rollout": 0}, False),
    ({"outcome": Outcome.ERROR, "status": 502}, True), ({"outcome": Outcome.ERROR, "status": 400}, False),
    ({"outcome": Outcome.ERROR, "status": 503, "flags": int(Flag.ENGINE_DOWN)}, False),
    ({"outcome": Outcome.TRUNCATED}, True), ({"outcome": Outcome.CANCELLED}, False),
    ({"outcome": Outcome.TRUNCATED, "suspect": Failure.TRUNCATED, "upstream": Upstream(gone=False)}, True),
    ({"outcome": Outcome.TRUNCATED, "suspect": Failure.TRUNCATED, "upstream": Upstream(gone=True)}, False),
])  # fmt: skip
def test_bad_answers_of_a_rollout_hurry(changes: dict[str, Any], hurries: bool) -> None:
    assert ("hurry" in account(finished(**changes)).calls) is hurries


def test_the_record_says_that_the_engine_was_gone() -> None:
    done = finished(outcome=Outcome.TRUNCATED, suspect=Failure.TRUNCATED, upstream=Upstream(gone=True))
    assert account(done).rows[0][-1] == Flag.ENGINE_DOWN
    assert type(account(finished(flags=Flag.EMPTY)).rows[0][-1]) is int  # drivers would write an enum's name


@pytest.mark.parametrize(("selected", "outcome", "calls"), [
    (0, Outcome.OK, []), (MEASURE, Outcome.OK, ["offer"]), (MEASURE | STORE | MIRROR, Outcome.OK, ["offer", "offer"]),
    (MIRROR, Outcome.OK, ["offer"]), (MEASURE | MIRROR, Outcome.CANCELLED, []), (MEASURE | MIRROR, Outcome.TRUNCATED, []),
])  # fmt: skip
def test_only_complete_answers_are_looked_at_and_mirrored(selected: int, outcome: Outcome, calls: list[str]) -> None:
    heard = account(finished(selected=selected, outcome=outcome))
    assert [call for call in heard.calls if call != "hurry"] == calls
