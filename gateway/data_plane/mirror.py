"""A shadow as the hot path needs it: what of a route's traffic is mirrored to which version."""

from __future__ import annotations

from dataclasses import dataclass

from adapters.snapshot import Shadow
from gateway.data_plane.routing import Target


@dataclass(slots=True, eq=False)
class Mirror:
    """One route's shadow. `target` is what answers; the bounds are in `shadow`."""

    rollout: int
    target: Target
    shadow: Shadow
