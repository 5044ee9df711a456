"""What is kept of an answer: all of one that is passed on whole, the beginning of a stream that will be looked at."""

from __future__ import annotations

from typing import Final

MAX_BUFFERED: Final = 64 * 1024**2  # bytes of an unstreamed answer that are held to restamp it
MAX_KEPT: Final = 1024**2  # bytes of a selected stream that are kept; of a longer one it is the beginning


class Held:
    """Bytes in the order in which they came."""

    __slots__ = ("_pieces", "_size")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def hold(self, data: bytes) -> bool:
        """Keep all of it. False when all together is too much."""
        self._size += len(data)
        if self._size > MAX_BUFFERED:
            return False
        self._pieces.append(data)
        return True

    def keep(self, data: bytes) -> None:
        """Keep the beginning."""
        if self._size < MAX_KEPT:
            self._size += len(data)
            self._pieces.append(data)

    def put(self, data: bytes) -> None:
        """Keep this, and nothing else."""
        self._pieces = [data] if data else []
        self._size = len(data)

    def whole(self) -> bytes:
        """All that is kept."""
        return b"".join(self._pieces)
