"""What a version, a route and a holding are: frozen values, passed everywhere, owned by the registry."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import IntFlag, StrEnum
from typing import Any

from adapters.errors import ConfigError

VERSION_PATTERN = re.compile(r"(?P<route>[a-z0-9](?:-?[a-z0-9])*)@(?P<short>[0-9a-f]{12})")


class Stage(StrEnum):
    """How far a version has come. Only adapters.promotion writes it."""

    CANDIDATE = "candidate"        # registered; may be loaded and probed
    RELEASED = "released"          # has served, or may serve, a route
    QUARANTINED = "quarantined"    # must not serve until an operator releases it, with a reason
    ARCHIVED = "archived"          # never again; its files go when no engine can need them


class Kind(StrEnum):
    """What the weights are for."""

    ADAPTER = "adapter"
    REWARD_MODEL = "reward_model"  # never routable


class Flag(IntFlag):
    """What `responses.flags` says about an answer besides its outcome."""

    EMPTY = 1            # no text and no tool call came
    NON_FINITE = 2       # the engine computed NaN or infinity ("Out of range float")
    GUARD = 4            # the screening called the answer unsafe
    NO_UNIT = 8          # the request named no unit: `unit` is random
    ENGINE_DOWN = 16     # the engine could not be reached or went away: says nothing about the version
    SHADOW = 32          # the answer was for evidence only; nobody saw it
    UNSCREENED = 64      # the answer was to be screened, and no verdict could be had
    UNSAFE_PROMPT = 128  # the screening called the prompt unsafe: says nothing about the version


class HoldingState(StrEnum):
    """What one engine process does with one version."""

    LOADING = "loading"
    READY = "ready"                # loaded, confirmed and probed: may get traffic
    FAILED = "failed"              # `error` says why; retried with backoff
    REFUSED = "refused"            # no free slot on this engine
    UNLOADED = "unloaded"          # off the list, but the process may still read its files: kept until it restarts


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """One immutable version. `name` is `route@<12 hex digits of digest>`, also the engine's LoRA name."""

    name: str
    route: str
    digest: str                    # sha256 over tensors and canonical config, 64 hex digits
    kind: Kind
    stage: Stage
    created_at: float              # seconds since the epoch
    rank: int
    size_bytes: int
    base_digest: str
    manifest: dict[str, Any]       # probes, base name, trainer's own facts
    lineage: dict[str, Any]        # parent, run, data digests, who pushed it
    reason: str = ""               # of the last stage change


@dataclass(frozen=True, slots=True)
class Route:
    """One public model name and what it should serve."""

    name: str
    description: str = ""
    version: str | None = None     # serves now (None: the base)
    target: str | None = None      # wanted instead; becomes `version` once every placed replica holds it
    previous: str | None = None    # served before; kept loaded until `bake_until`
    bake_until: float = 0.0
    generation: int = 0            # compare-and-swap token
    error: str = ""                # why the target could not be reached


@dataclass(frozen=True, slots=True)
class Replica:
    """One engine process as the controller last saw it."""

    name: str
    url: str                       # http://host:port or unix:/path
    up: bool
    boot: str                      # changes with every restart of the process
    seen_at: float
    error: str = ""
    max_loras: int = 0
    max_cpu_loras: int = 0


@dataclass(frozen=True, slots=True)
class Holding:
    """One version on one replica."""

    replica: str
    version: str
    state: HoldingState
    boot: str
    since: float
    error: str = ""
    probe: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A client's or operator's key. The secret itself is never stored."""

    id: str
    owner: str
    secret_hash: bytes             # sha256 of the secret
    scopes: frozenset[str]         # inference, operator
    routes: frozenset[str]         # empty: every route
    requests_per_minute: int = 0   # 0: no limit
    tokens_per_minute: int = 0
    created_at: float = 0.0
    revoked_at: float | None = None


def split_version(name: str) -> tuple[str, str]:
    """'support@3f2a9c1b7d20' → ('support', '3f2a9c1b7d20'). Raises ConfigError for anything else."""
    match = VERSION_PATTERN.fullmatch(name)
    if not match:
        raise ConfigError(f"{name!r} is not a version: write route@digest, such as support@3f2a9c1b7d20")
    return match["route"], match["short"]
