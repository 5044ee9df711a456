"""What the gateway has signed into a response's id: the row of `assignments` that served it.

Read here by other code than the gateway's, from the layout that gateway/data_plane/ids.py states, so that the version
in a header is held against something its writer could not have got wrong in the same way.
"""

from __future__ import annotations

import base64
import functools
import hmac
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adapters.fleet_store import FleetStore
from adapters.keys import server_secret
from trainer.installation import load_installation, open_database_of

FORMAT = 2
_TEXT = 48               # characters of an id without its prefix
_BODY, _MAC = 28, 8      # bytes that are signed, and of the signature
_ASSIGNMENT = slice(7, 12)


class Signatures:
    """Verifies ids. `secret`: the installation's; `lookup`: the row of `assignments` with a number."""

    def __init__(self, secret: bytes, lookup: Callable[[int], Mapping[str, Any] | None]) -> None:
        self._key = hmac.digest(secret, b"understudy response id", "sha256")
        self._lookup = functools.cache(lookup)  # rows never change

    def version(self, response_id: str, route: str) -> str:
        """The version that the id was signed for; "" where it is not genuine, or of another route."""
        row = self.row(response_id)
        return str(row["version"]) if row is not None and row["route"] == route else ""

    def row(self, response_id: str) -> Mapping[str, Any] | None:
        """The assignment that the id was signed for; None where it is not genuine."""
        number = self._assignment(response_id)
        return None if number is None else self._lookup(number)

    def _assignment(self, response_id: str) -> int | None:
        try:
            raw = base64.urlsafe_b64decode(response_id[-_TEXT:])
        except ValueError:
            return None
        if len(raw) != _BODY + _MAC or raw[0] != FORMAT:
            return None
        body, signature = raw[:_BODY], raw[_BODY:]
        genuine = hmac.compare_digest(hmac.digest(self._key, body, "sha256")[:_MAC], signature)
        return int.from_bytes(body[_ASSIGNMENT], "big") if genuine else None


@contextmanager
def signatures(config: Path) -> Iterator[Signatures]:
    """Of an installation, by its understudy.toml. Raises ConfigError, DatabaseError."""
    with open_database_of(load_installation(config)) as database:
        yield Signatures(server_secret(database), FleetStore(database).assignments_by_id)
