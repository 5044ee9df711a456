"""The screening of one route, as the handler sees it: a gate for each request, and a look at shadow answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from gateway.data_plane.push import Downstream

if TYPE_CHECKING:
    from gateway.data_plane.exchange import Exchange, Finished


class Gate(Downstream, Protocol):
    """Stands between the relay and the client: a Downstream for the one, the Producer of the other."""

    def begin(self) -> None:
        """The engine has been asked: now have the prompt judged."""

    def finished(self, done: Finished) -> None:
        """The relay's account; passed on once the verdicts are known."""


class Screen(Protocol):
    """What a Target has where its route is screened."""

    def gate(self, exchange: Exchange, down: Downstream, account: Callable[[Finished], None]) -> Gate | None:
        """The gate of one request; None where there is nothing to judge."""

    def shadow(self, done: Finished, then: Callable[[], None]) -> None:
        """Have an answer that nobody sees judged, flag `done` accordingly, then go on."""
