"""Which replica should hold which version. Pure, deterministic, and moves as little as it can.

Two limits per replica come from vLLM: at most `max_cpu_loras` adapters loaded, and at most `max_loras` of them in use
at the same time, because requests for one more would wait without bound. What does not fit is refused with the
reason, the least important first; it is never queued.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum


class Priority(IntEnum):
    """Who goes first when there is not room for all."""

    STABLE = 0     # serves a route now
    TARGET = 1     # is about to
    PREVIOUS = 2   # served before: the way back
    WANTED = 3     # asked for by name: verification, evaluation


@dataclass(frozen=True, slots=True)
class Want:
    """A version that should be loaded. `serves`: requests may come for it, so it takes one of max_loras."""

    version: str
    priority: Priority
    serves: bool = True


@dataclass(frozen=True, slots=True)
class Slots:
    """One replica: its limits, and what it holds already (whether or not that is still wanted)."""

    name: str
    max_loras: int
    max_cpu_loras: int
    holds: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Placement:
    """Versions per replica, in order of priority; and why the others have no place."""

    replicas: Mapping[str, tuple[str, ...]]
    refused: Mapping[str, str] = field(default_factory=dict)

    def of(self, version: str) -> tuple[str, ...]:
        """Names of the replicas that should hold `version`."""
        return tuple(name for name, versions in self.replicas.items() if version in versions)


class _Room:
    """What is left on one replica while versions are handed out."""

    def __init__(self, slots: Slots, wanted: frozenset[str]) -> None:
        self.slots = slots
        self.versions: list[str] = []
        self.serving = 0
        # Held and still wanted, but not handed out yet: better not displaced while there is room elsewhere.
        self.reserved = set(slots.holds & wanted)

    def fits(self, want: Want) -> bool:
        if want.version in self.versions or len(self.versions) >= self.slots.max_cpu_loras:
            return False
        return not want.serves or self.serving < self.slots.max_loras

    def add(self, want: Want) -> None:
        self.versions.append(want.version)
        self.serving += want.serves
        self.reserved.discard(want.version)

    def preference(self, want: Want) -> tuple[bool, bool, int, str]:
        """Smallest first: holders, then rooms that displace nobody, then the emptiest, then a fixed shuffle."""
        held = want.version in self.slots.holds
        taken = len(self.versions) + len(self.reserved - {want.version})
        shuffle = hashlib.sha256(f"{self.slots.name}\n{want.version}".encode()).hexdigest()
        return not held, taken >= self.slots.max_cpu_loras, taken, shuffle


def place(wants: Sequence[Want], replicas: Sequence[Slots]) -> Placement:
    """Hand out versions: everything everywhere if it fits; else one copy of each, then more copies while room lasts.

    `wants` names each version once. With no replica at all nothing is placed and nothing refused: there is no room to
    judge by.
    """
    ordered = sorted(wants, key=lambda want: (want.priority, want.version))
    wanted = frozenset(want.version for want in ordered)
    rooms = [_Room(slots, wanted) for slots in sorted(replicas, key=lambda slots: slots.name)]
    refused = {want.version: _reason(want, rooms) for want in ordered if not _add_copy(want, rooms) and rooms}
    placed = [want for want in ordered if want.version not in refused]
    for want in placed:  # further copies that exist stay before new ones are made
        for room in rooms:
            if want.version in room.slots.holds and room.fits(want):
                room.add(want)
    for _ in rooms:
        for want in placed:
            _add_copy(want, rooms)
    return Placement({room.slots.name: _by_priority(room, ordered) for room in rooms}, refused)


def _add_copy(want: Want, rooms: Sequence[_Room]) -> bool:
    """One more copy in the best room that has place for it. False when none has."""
    fitting = [room for room in rooms if room.fits(want)]
    if fitting:
        min(fitting, key=lambda room: room.preference(want)).add(want)
    return bool(fitting)


def _by_priority(room: _Room, ordered: Sequence[Want]) -> tuple[str, ...]:
    return tuple(want.version for want in ordered if want.version in room.versions)


def _reason(want: Want, rooms: Sequence[_Room]) -> str:
    """What to change, seen from the replica that came closest."""
    room = max(rooms, key=lambda room: (room.slots.max_cpu_loras - len(room.versions), room.slots.name))
    held = ", ".join(room.versions) or "nothing"
    if len(room.versions) >= room.slots.max_cpu_loras:
        limit, taken = f"max_cpu_loras = {room.slots.max_cpu_loras}", "loaded"
    else:
        limit, taken = f"max_loras = {room.slots.max_loras}", "in use at once"
    count = f"all {len(rooms)} engines are" if len(rooms) > 1 else f"{room.slots.name} is"
    return (
        f"no free slot: {count} full (engine.{limit} adapters {taken}; {room.slots.name} has {held}): "
        f"raise it, archive what is not needed, or add an engine"
    )
