"""What is kept of an answer."""

from __future__ import annotations

from gateway.data_plane.held import MAX_BUFFERED, MAX_KEPT, Held


def test_all_of_an_answer_or_none() -> None:
    held, quarter = Held(), bytes(MAX_BUFFERED // 4)
    assert held.whole() == b""
    assert all(held.hold(quarter) for _ in range(4))
    assert not held.hold(b"x")
    assert held.whole() == quarter * 4


def test_the_beginning_of_a_stream() -> None:
    held = Held()
    held.keep(bytes(MAX_KEPT - 1))
    held.keep(b"ab")
    held.keep(b"c")
    assert held.whole() == bytes(MAX_KEPT - 1) + b"ab"


def test_what_is_put_takes_the_place_of_everything() -> None:
    held = Held()
    held.hold(b"of one replica")
    held.put(b"")
    assert held.whole() == b"" and held.hold(bytes(MAX_BUFFERED))
    held.put(b"restamped")
    held.keep(b", and more")
    assert held.whole() == b"restamped, and more"
