"""A shadow as the hot path needs it: what of a route's traffic is mirrored to which version."""

from __future__ import annotations

import random
from dataclasses import dataclass

from adapters.snapshot import Shadow
from gateway.data_plane.routing import Target


@dataclass(slots=True, eq=False)
class Mirror:
    """One route's shadow. `target` is what answers; the bounds are in `shadow`. `rivals`: the other candidates'."""

    rollout: int
    target: Target
    shadow: Shadow
    rivals: tuple[Mirror, ...] = ()

    @property
    def all(self) -> tuple[Mirror, ...]:
        """It and its rivals."""
        return (self, *self.rivals)

    @property
    def sample(self) -> float:
        """The share of stable's requests that any of them gets, 0..1: a prompt goes to one."""
        return sum(mirror.shadow.sample for mirror in self.all)

    def draw(self) -> Mirror:
        """Whose turn it is, as often as its sample says."""
        if not self.rivals:
            return self
        return random.choices(self.all, [mirror.shadow.sample for mirror in self.all])[0]
