"""Whole chunks, taken without the parser; tests/fuzz/engine_answers.py holds them against it."""

from __future__ import annotations

import pytest

from gateway.data_plane.framing import size_line, unframed, whole_chunk
from gateway.data_plane.sink import Failure
from tests.fuzz.engine_answers import HEAD, Heard, heard


@pytest.mark.parametrize("size", [1, 9, 10, 15, 16, 255, 256, 4095, 4096, 70_000, 0xFFFFF])
def test_a_whole_chunk_is_known_by_its_size(size: int) -> None:
    body = b"x" * size
    chunk = size_line(size) + body + b"\r\n"
    assert chunk == b"%x\r\n%b\r\n" % (size, body)
    assert whole_chunk(chunk) == chunk.index(b"\n") + 1 and unframed(chunk) == body
    for wrong in (chunk[:-1], chunk + b"0", chunk[1:], chunk[:-2] + b"\n\r", chunk[:-2] + b"xx", chunk * 2):
        assert whole_chunk(wrong) == 0


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\r", b"\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"5", b"5\r", b"5\r\n", b"5\r\r12345\r\n", b"5\n12345\r\n", b"A\r\n0123456789\r\n",
        b"5;a=b\r\n12345\r\n", b"5 \r\n12345\r\n", b"+5\r\n12345\r\n", b"0x5\r\n12345\r\n", b"5_\r\n12345\r\n", b"-5\r\n12345\r\n",
        b"0000005\r\n12345\r\n",
    ],
)  # fmt: skip
def test_whatever_is_not_written_plainly_is_the_parsers(data: bytes) -> None:
    assert whole_chunk(data) == 0


async def short_ways(*pieces: bytes) -> tuple[int, bytes]:
    sink = await heard([HEAD, *pieces])
    assert sink.failure is None
    return sink.short_ways, sink.body


async def test_a_chunk_takes_the_short_way_only_where_one_has_ended() -> None:
    assert await short_ways(b"1\r\na\r\n", b"1\r\nb\r\n", b"1\r\nc\r\n") == (2, b"abc")
    assert await short_ways(b"1\r\na\r\n", b"1\r", b"\nb\r\n", b"1\r\nc\r\n") == (1, b"abc")
    assert await short_ways(b"1\r\na\r\n9\r\n", b"4\r\nevil\r\n\r\n", b"1\r\nc\r\n") == (1, b"a4\r\nevil\r\nc")
    assert await short_ways(b"1\r\na\r\na\r\n4\r\n", b"4\r\nev\r\n", b"\r\n") == (0, b"a4\r\n4\r\nev\r\n")
    assert await short_ways(b"1\r\na\r\n1", b"1\r\n" + b"x" * 17 + b"\r\n") == (0, b"a" + b"x" * 17)


class Buggy(Heard):
    """Takes what it is told to take."""

    def __init__(self, takes: int) -> None:
        super().__init__()
        self.takes = takes

    def on_data(self, data: bytes) -> None:
        if self.takes == 0:
            raise KeyError(data)
        self.takes -= 1
        super().on_data(data)


@pytest.mark.parametrize("takes", [0, 1])
async def test_a_sinks_bug_is_the_end_of_its_answer_and_of_nothing_else(
    takes: int, caplog: pytest.LogCaptureFixture
) -> None:
    sink = await heard([HEAD, b"1\r\na\r\n", b"1\r\nb\r\n"], Buggy(takes))
    assert sink.failure is Failure.PROTOCOL and len(sink.body) == takes == sink.short_ways
    assert "bug while relaying" in caplog.text
