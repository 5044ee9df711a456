"""The account of a screened request: given once, with the client's times where it waited."""

from __future__ import annotations

import time

import pytest

from gateway.data_plane.exchange import Finished
from gateway.data_plane.screening.questions import Questions
from gateway.data_plane.screening.reckoning import Reckoning
from gateway.data_plane.screening.refusals import choices
from gateway.data_plane.sse import Usage
from monitors.conventions import Outcome
from tests.support.screening import ASK, Screened


def reckoning(held: bool) -> tuple[Reckoning, Finished, list[Finished], Questions]:
    gate = Screened(body=ASK).gate
    accounts: list[Finished] = []
    done = Finished(gate.exchange, 200, Outcome.OK, 0.5, 0.1, 0.0, Usage())
    return Reckoning(gate.exchange, accounts.append, held), done, accounts, gate.questions


def test_once_and_only_when_the_relay_has_spoken() -> None:
    one, done, accounts, known = reckoning(held=True)
    one.settle(known)
    assert accounts == [] and not one.known
    assert one.given(done) and not one.given(done) and one.known
    one.settle(known)
    one.settle(known)
    assert accounts == [done]


@pytest.mark.parametrize("held", [True, False], ids=["held", "not held"])
def test_whose_times(held: bool) -> None:
    one, done, _, known = reckoning(held)
    one.given(done)
    one.spoke()
    one.closed()
    one.settle(known)
    since = time.monotonic() - done.exchange.received
    assert (done.duration <= since and done.ttft is not None and done.ttft <= done.duration) if held else (
        (done.duration, done.ttft) == (0.5, 0.1))  # fmt: skip


def test_what_was_cut_is_estimated_and_what_never_began_is_not() -> None:
    one, done, _, known = reckoning(held=True)
    one.given(done)
    assert one.usage(0) == Usage()
    assert one.usage(7) == Usage(len(done.exchange.request.body) // 4, 7)
    one.instead(Outcome.BLOCKED, 400)
    one.settle(known)
    assert (done.outcome, done.status, done.usage.output_tokens, done.answer) == (Outcome.BLOCKED, 400, 7, b"")


def test_who_leaves_has_cancelled() -> None:
    one, done, _, known = reckoning(held=True)
    one.given(done)
    one.left()
    one.settle(known)
    assert (done.outcome, done.duration) == (Outcome.CANCELLED, 0.5)


def test_how_many_choices_are_asked_for() -> None:
    def count(name: str, **body: object) -> int:
        return choices(Screened(name, body=dict(body)).gate.exchange)

    assert (count("chat", **ASK), count("chat", n=3, **ASK)) == (1, 3)
    assert (count("completions", prompt="a"), count("completions", prompt=["a", "b"], n=2)) == (1, 4)
    assert count("completions", prompt=[1, 2, 3]) == 1
