"""What has to happen on one replica so that it holds what it should: the difference, as steps. Pure.

Level-triggered: computed anew from what the engine says at each look, never from what was done before. An engine that
restarted, an adapter evicted or unloaded behind our back, and a controller that died half-way all look the same here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from adapters.probes import Probes, Verdict
from adapters.types import VERSION_PATTERN, Holding, HoldingState


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at an engine.

    `adapters`: name → path of every adapter it lists; `in_use`: those with requests in flight; `running`: how many.
    """

    up: bool
    boot: str = ""
    adapters: Mapping[str, str] = field(default_factory=dict)
    in_use: frozenset[str] = frozenset()
    running: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Assigned:
    """A version that the replica should hold. `changes_nothing`: its B matrices are all zero, so it equals the base."""

    version: str
    path: str
    probes: Probes | None = None
    changes_nothing: bool = False


@dataclass(frozen=True, slots=True)
class Desired:
    """What one replica should hold, most important first. `hold`: leave everything as it is, nothing is decided yet."""

    assigned: tuple[Assigned, ...] = ()
    routed: frozenset[str] = frozenset()                          # may still be asked for: not to be unloaded
    refused: Mapping[str, str] = field(default_factory=dict)      # version → why it has no slot
    recheck: frozenset[str] = frozenset()                         # probe these again, although they are ready
    max_cpu_loras: int = 8
    hold: bool = False


@dataclass(frozen=True, slots=True)
class Forget:
    """The holding means nothing any more."""

    version: str


@dataclass(frozen=True, slots=True)
class Note:
    """The holding changed without anything having to be done."""

    version: str
    state: HoldingState
    error: str = ""


@dataclass(frozen=True, slots=True)
class Unload:
    """Take it off the engine's list. `error` where that is not retirement but repair."""

    version: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class BringUp:
    """Load it unless it is listed, confirm, probe."""

    assigned: Assigned


Step = Forget | Note | Unload | BringUp


def plan(
    seen: Observation, holdings: Mapping[str, Holding], desired: Desired, waiting: frozenset[str] = frozenset()
) -> list[Step]:
    """The next steps, in order. At most one of them is a BringUp: loads are serial, and everything is looked at again.

    `waiting`: versions that failed and are not to be tried again yet. A replica that is down, or whose memory may hold
    NaN, gets no steps but the forgetting of earlier boots.
    """
    if not seen.up:
        return []
    steps: list[Step] = [Forget(version) for version, held in sorted(holdings.items()) if held.boot != seen.boot]
    current = {version: held for version, held in holdings.items() if held.boot == seen.boot}
    if desired.hold or poisoned_by(current, seen.boot):
        return steps
    assigned = {item.version: item for item in desired.assigned}
    steps += _retire(seen, current, desired, assigned)
    steps += _correct(seen, current, desired, assigned)
    leaving = sum(isinstance(step, Unload) for step in steps)
    free = desired.max_cpu_loras - len(seen.adapters) + leaving
    steps += _bring_up(seen, current, desired, waiting, free)
    return steps


def poisoned_by(holdings: Mapping[str, Holding], boot: str) -> Holding | None:
    """The holding that showed that this boot's memory holds NaN; None when there is none."""
    for held in holdings.values():
        if held.boot == boot and held.probe.get("verdict") == Verdict.NON_FINITE:
            return held
    return None


def _retire(
    seen: Observation, current: Mapping[str, Holding], desired: Desired, assigned: Mapping[str, Assigned]
) -> Iterator[Step]:
    """Versions that are listed but not wanted leave once nobody can be using them; other people's adapters stay."""
    for name, root in sorted(seen.adapters.items()):
        wanted = assigned.get(name)
        if wanted is not None and root != wanted.path:
            yield Unload(name, f"it was loaded from {root}, not from {wanted.path}")
        elif wanted is None and VERSION_PATTERN.fullmatch(name):
            recorded = name in current and current[name].state is not HoldingState.REFUSED
            if name not in desired.routed | seen.in_use:
                yield Unload(name)
            elif not recorded:  # somebody else loaded it: its files are in use all the same
                yield Note(name, HoldingState.UNLOADED, "it was loaded by somebody else, and leaves when it is idle")


def _correct(
    seen: Observation, current: Mapping[str, Holding], desired: Desired, assigned: Mapping[str, Assigned]
) -> Iterator[Step]:
    """Rows that no longer say what is."""
    for version, held in sorted(current.items()):
        listed = version in seen.adapters
        if held.state is HoldingState.REFUSED:
            if version not in desired.refused and not listed:
                yield Forget(version)
        elif held.state is HoldingState.READY and not listed and version in assigned:
            yield Note(version, HoldingState.FAILED, "the engine no longer lists it: it was unloaded or evicted")
        elif not listed and version not in assigned and held.state is not HoldingState.UNLOADED:
            yield Note(version, HoldingState.UNLOADED)
    for version, reason in sorted(desired.refused.items()):
        earlier = current.get(version)
        stale = earlier is None or (earlier.state is HoldingState.REFUSED and earlier.error != reason)
        if version not in seen.adapters and stale:
            yield Note(version, HoldingState.REFUSED, reason)


def _bring_up(
    seen: Observation,
    current: Mapping[str, Holding],
    desired: Desired,
    waiting: frozenset[str],
    free: int,
) -> Iterator[Step]:
    for item in desired.assigned:
        held = current.get(item.version)
        listed = seen.adapters.get(item.version) == item.path
        ready = held is not None and held.state is HoldingState.READY and listed
        if ready and item.version not in desired.recheck:
            continue
        if item.version in waiting or not (listed or free > 0):
            continue
        yield BringUp(item)
        return


def started(assigned: Assigned, replica: str, boot: str, now: float) -> Holding:
    """The row to write before the engine is asked: from then on its process may read the files."""
    return Holding(replica, assigned.version, HoldingState.LOADING, boot, now)


def noted(step: Note, replica: str, boot: str, now: float, earlier: Holding | None) -> Holding:
    """The row for a Note; the last probe's numbers stay visible."""
    if earlier is None or earlier.boot != boot:
        return Holding(replica, step.version, step.state, boot, now, step.error)
    return replace(earlier, state=step.state, since=now, error=step.error)
