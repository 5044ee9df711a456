"""Which answers wake the writer, which are looked at, which are mirrored, and when a suspicion is cleared up first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from adapters.types import Flag
from gateway.data_plane.accounting import Accountant
from gateway.data_plane.call import Timeouts
from gateway.data_plane.exchange import Finished
from gateway.data_plane.limits import Limiter
from gateway.data_plane.mirror import Mirror
from gateway.data_plane.routing import Target
from gateway.data_plane.sampling import Allowance
from gateway.data_plane.sink import Failure
from gateway.data_plane.upstreams import LOOK, Upstream
from gateway.data_plane.watch import MEASURE, MIRROR, STORE, Watch
from monitors.conventions import Outcome
from monitors.metrics import Recorder
from monitors.shared_values import SharedValues
from tests.support.exchanges import finished
from tests.support.waiting import eventually


class Heard:
    """Stands where events, evidence and shadows do: only what reaches them is of interest."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.rows: list[Any] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: self.calls.append(name)

    def response(self, row: Any) -> None:
        self.rows.append(row)


Accounts = Callable[[Finished], Heard]


@pytest.fixture
def accounts(tmp_path: Path) -> Iterator[Accounts]:
    """Gives an account of an answer; returns what was heard of it."""
    values, limiter = SharedValues(tmp_path / "metrics"), Limiter(tmp_path / "limits")

    def account(done: Finished) -> Heard:
        heard: Any = Heard()
        Accountant(limiter, Recorder(values), heard, heard, heard, heard.trip).request(done)
        return heard  # type: ignore[no-any-return]  # it poses as three other types above

    yield account
    limiter.close()
    values.close()


def answer(rollout: int = 7, **changes: Any) -> Finished:
    watch = Watch(0.0, Allowance(1.0), rollout, None, cast(Mirror, "mirror"))
    target = Target("support", "v", "candidate", 2, b'"m"', (b"", b""), (), (), watch)
    return finished(target, **changes)


@asynccontextmanager
async def engine(listens: bool) -> AsyncIterator[Upstream]:
    """One that broke a connection off: alive, or gone."""
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    if not listens:
        server.close()
        await server.wait_closed()
    yield Upstream("e0", f"http://127.0.0.1:{port}", "", Timeouts())
    server.close()


@pytest.mark.parametrize(("changes", "hurries"), [
    ({}, False), ({"flags": int(Flag.EMPTY)}, True), ({"flags": int(Flag.EMPTY), "rollout": 0}, False),
    ({"outcome": Outcome.ERROR, "status": 502}, True), ({"outcome": Outcome.ERROR, "status": 400}, False),
    ({"outcome": Outcome.ERROR, "status": 503, "flags": int(Flag.ENGINE_DOWN)}, False),
    ({"outcome": Outcome.TRUNCATED}, True), ({"outcome": Outcome.CANCELLED}, False),
])  # fmt: skip
def test_bad_answers_of_a_rollout_hurry(accounts: Accounts, changes: dict[str, Any], hurries: bool) -> None:
    heard = accounts(answer(**changes))
    assert ("hurry" in heard.calls) is hurries and len(heard.rows) == 1


@pytest.mark.parametrize("listens", [True, False])
async def test_a_broken_answer_speaks_against_the_version_unless_the_engine_is_gone(
    accounts: Accounts, listens: bool
) -> None:
    async with engine(listens) as upstream:
        took = float("inf")
        while took > LOOK:  # a process that stood still for so long takes any engine for gone: once more
            begun = time.monotonic()
            heard = accounts(answer(outcome=Outcome.TRUNCATED, suspect=Failure.TRUNCATED, upstream=upstream))
            assert not heard.rows, "first it must be found out"
            await eventually(lambda: heard.rows)  # noqa: B023 (called in this turn of the loop only)
            took = time.monotonic() - begun
    assert ("hurry" in heard.calls) is listens
    assert [row[-1] for row in heard.rows] == [0 if listens else Flag.ENGINE_DOWN]


def test_drivers_get_numbers_for_flags(accounts: Accounts) -> None:
    assert type(accounts(answer(flags=Flag.EMPTY)).rows[0][-1]) is int  # an enum's name would be written


@pytest.mark.parametrize(("selected", "outcome", "calls"), [
    (0, Outcome.OK, []), (MEASURE, Outcome.OK, ["offer"]), (MEASURE | STORE | MIRROR, Outcome.OK, ["offer", "offer"]),
    (MIRROR, Outcome.OK, ["offer"]), (MEASURE | MIRROR, Outcome.CANCELLED, []), (MEASURE | MIRROR, Outcome.TRUNCATED, []),
])  # fmt: skip
def test_only_complete_answers_are_looked_at_and_mirrored(
    accounts: Accounts, selected: int, outcome: Outcome, calls: list[str]
) -> None:
    heard = accounts(answer(selected=selected, outcome=outcome))
    assert [call for call in heard.calls if call != "hurry"] == calls
