"""Makes wrong inputs of right ones: the same seed, the same inputs."""

from __future__ import annotations

import random
from collections.abc import Sequence

_BYTES = (b"\0", b"\n", b"\r\n", b"\n\n", b" ", b"\t", b'"', b"\\", b"{", b"}", b"[", b"]", b":", b",", b"\xff", b"\xc3", b"-",
          b"0", b"9" * 30, b"1e999", b"NaN", b"null", b"true", b"\\u0000", b"\\ud800", b"\\u0022", b"\xf0\x9f\x98\x80")  # fmt: skip


class Mutator:
    """`corpus`: right inputs; `words`: what means something to the parser."""

    def __init__(self, seed: int, corpus: Sequence[bytes], words: Sequence[bytes] = ()) -> None:
        self.random = random.Random(seed)
        self._corpus = list(corpus)
        self._words = [*words, *_BYTES]

    def make(self, most: int = 6) -> bytes:
        """The next input; one in ten is right."""
        data = self.random.choice(self._corpus)
        if self.random.random() < 0.1:
            return data
        for _ in range(self.random.randint(1, most)):
            data = self.change(data)
        return data

    def cut(self, data: bytes, most: int = 6) -> list[bytes]:
        """The same bytes in pieces."""
        edges = sorted(self.random.randint(0, len(data)) for _ in range(self.random.randint(0, most)))
        return [data[a:b] for a, b in zip([0, *edges], [*edges, len(data)], strict=True)]

    def change(self, data: bytes) -> bytes:
        """One step away."""
        draw = self.random
        at = draw.randint(0, len(data))
        to = min(len(data), at + draw.choice((1, 1, 2, 4, 8, 32, 200)))
        other = draw.choice(self._corpus)
        match draw.randrange(7):
            case 0:
                return data[:at] + draw.choice(self._words) + data[at:]
            case 1:
                return data[:at] + draw.choice(self._words) + data[to:]
            case 2:
                return data[:at] + data[to:]
            case 3:
                return data[:to] + data[at:to] * draw.choice((1, 2, 20)) + data[to:]
            case 4:
                return data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :]
            case 5:
                begin = draw.randint(0, len(other))
                return data[:at] + other[begin : begin + 60] + data[to:]
            case _:
                return data[:at]
