"""Chunked transfer coding (RFC 9112, section 7.1) where it is simplest: a read that is exactly one whole chunk.

That is what most reads from an engine are while it streams: one event, one chunk, one packet. Everything else, and
whatever is not written the plainest way, is left to the parser, which never learns of a chunk that was taken here: it
only may be taken where one chunk has ended and the next has not begun (gateway.data_plane.connection).
"""

from __future__ import annotations

from typing import Final

_LONGEST: Final = 7  # bytes of a size and the CR behind it: below 16 MiB
_CR: Final = 13
_LF: Final = 10
_SIZES: Final = [b"%x\r\n" % size for size in range(2048)]  # what an event seldom exceeds


def whole_chunk(data: bytes) -> int:
    """Where the body begins in `data` that is one chunk and nothing else (it ends 2 bytes before the end), or 0."""
    size = at = 0
    end = len(data)
    while at < end and at < _LONGEST:
        byte = data[at]
        at += 1
        if 48 <= byte <= 57:  # 0-9
            size = size * 16 + byte - 48
        elif 97 <= byte <= 102:  # a-f
            size = size * 16 + byte - 87
        elif byte == _CR:
            whole = size > 0 and end == at + 1 + size + 2 and data[at] == _LF and data.endswith(b"\r\n")
            return at + 1 if whole else 0
        else:
            return 0
    return 0


def size_line(size: int) -> bytes:
    """What stands in front of a chunk's body."""
    return _SIZES[size] if size < len(_SIZES) else b"%x\r\n" % size


def unframed(chunk: bytes) -> bytes:
    """The body of one whole chunk."""
    return chunk[chunk.index(b"\n") + 1 : -2]
