"""What a controller must not forget about a rollout: `rollouts.state`, as a value. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

MOST_CREDIT = 5.0      # seconds that one look may add: what a clock jumped, or nobody watched, is not time in a step


class HoldKind(StrEnum):
    """Why a rollout stands still."""

    OPERATOR = "operator"              # paused
    APPROVAL = "approval"              # the plan wants a person to let it go on
    INCONCLUSIVE = "inconclusive"      # waiting does not help: time is up, or the split of traffic is wrong
    STABLE_ARM = "stable_arm"          # stable got worse too: the candidate is off until it is known why
    ENGINES = "engines"                # an engine went down again and again: the candidate is off


@dataclass(frozen=True, slots=True)
class Hold:
    """It goes no further until an operator resumes it (or, for the stable arm, until it is known why)."""

    kind: HoldKind
    reason: str
    at: float                          # seconds since the epoch
    weight: float = 0.0                # the candidate's share before it was taken off

    @property
    def off(self) -> bool:
        """True when the candidate answers nobody meanwhile."""
        return self.kind in (HoldKind.STABLE_ARM, HoldKind.ENGINES)


@dataclass(frozen=True, slots=True)
class Memory:
    """All of it. Instants in seconds since the epoch, `credited` in seconds."""

    credited: float = 0.0              # time in this step that somebody watched
    ticked_at: float = 0.0             # the last look
    hold: Hold | None = None
    approved: bool = False             # an operator lets this step go on
    wanted: str = ""                   # "promote", until the controller has done it
    wanted_by: str = ""
    wanted_why: str = ""
    wanted_version: str = ""           # of several candidates
    dropped: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of several candidates: Drop, by version
    exposed_at: float = 0.0            # the candidate's first answers to live prompts
    cursor: tuple[int, int] = (0, 0)   # ids of responses and feedback that are certainly read
    before: Mapping[str, float] = field(default_factory=dict)      # stable's rates before the rollout, by metric
    stable: Mapping[str, Any] = field(default_factory=dict)        # detectors of the stable arm: gateway.rollout.guard
    reference: Mapping[str, float] = field(default_factory=dict)   # stable's means when the candidate was promoted
    after: Mapping[str, Any] = field(default_factory=dict)         # detectors after the promotion
    recycled: bool = False             # replicas were restarted because of the stable arm
    boots: Mapping[str, str] = field(default_factory=dict)         # of the engines, while the candidate answers
    crashes: Mapping[str, int] = field(default_factory=dict)       # restarts of each engine meanwhile
    seen: Mapping[str, Any] = field(default_factory=dict)          # the latest numbers, for listings
    incident: str = ""                 # file name of the report
    cause: str = ""                    # of its end: what took it back, or why it was promoted or aborted

    def to_state(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Memory:
        """Inverse; what another release wrote and this one does not know is left out."""
        known = {f.name for f in fields(cls)} & set(state)
        values = {name: state[name] for name in known}
        if hold := values.get("hold"):
            values["hold"] = Hold(**{**hold, "kind": HoldKind(hold["kind"])})
        if "cursor" in values:
            values["cursor"] = tuple(values["cursor"])
        return cls(**values)


def with_boots(memory: Memory, boots: Mapping[str, str]) -> Memory:
    """Count the engines that are another process than at the last look. `boots`: of those that are up."""
    restarted = [name for name, boot in boots.items() if memory.boots.get(name, boot) != boot]
    crashes = {**memory.crashes, **{name: memory.crashes.get(name, 0) + 1 for name in restarted}}
    return replace(memory, boots={**memory.boots, **boots}, crashes=crashes)


def credit(memory: Memory, now: float) -> float:
    """Seconds to add for the look at `now`: none when the clock went back, at most MOST_CREDIT when it jumped ahead."""
    if not memory.ticked_at:
        return 0.0
    return min(max(now - memory.ticked_at, 0.0), MOST_CREDIT)
