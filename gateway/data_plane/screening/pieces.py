"""What a stream that is judged is made of: its choices, and events that wait."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.data_plane.screening.policy import Judged
from gateway.data_plane.screening.said import Heard, Said


@dataclass(slots=True)
class Choice:
    """One choice of the answer. Lengths are of `said`, in characters."""

    next: int  # tokens at which it is judged next
    said: Said = field(default_factory=Said)
    cleared: int = 0
    judged: Judged | None = None
    judged_at: int = -1
    ended: bool = False
    settled: bool = False  # there is a final ruling, or nothing to rule on

    def asked(self, step: int) -> None:
        """It is being judged: the next checkpoint is twice as far, at most `step` tokens (0: any number) further."""
        while self.next <= self.said.tokens:
            self.next += min(self.next, step) if step else self.next


@dataclass(slots=True)
class Entry:
    """One event that waits. It may leave when each of `needs` (choice, length) is cleared and what ends is settled."""

    data: bytes
    heard: Heard
    needs: tuple[tuple[int, int], ...] = ()
    speaks: bool = False
    refuses: bool = False  # ours: the end of a choice that is blocked


@dataclass(frozen=True, slots=True)
class Due:
    """A choice that is judged now, as far as it goes."""

    index: int
    choice: Choice
    final: bool
    length: int
