"""API keys of clients and operators, and the secrets that all hosts of one installation share."""

from __future__ import annotations

import base64
import hashlib
import secrets as random
import time
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, RowMapping, select, update

from adapters import tables
from adapters.database import Database, bump, insert_new
from adapters.errors import ConfigError, Conflict, NotFound
from adapters.routes import check_route_name
from adapters.types import ApiKey

SCOPES = frozenset({"inference", "operator"})
_MOST = 2**31 - 1  # of an INTEGER column


def create_key(
    database: Database, owner: str, scopes: Iterable[str], routes: Iterable[str] = (), *, rpm: int = 0, tpm: int = 0
) -> tuple[ApiKey, str]:
    """Make a key and return it with its secret, which is shown this once and stored only as SHA-256.

    `routes`: the only ones it may use (none: every route). `rpm`, `tpm`: requests and tokens a minute (0: no limit).
    Raises ConfigError for a wrong scope, route name, owner or limit.
    """
    _check(owner, frozenset(scopes := sorted(set(scopes))), rpm, tpm)
    # 256 random bits need no slow hash: nobody can guess them.
    secret = "us-" + base64.urlsafe_b64encode(random.token_bytes(32)).decode().rstrip("=")
    row = {
        "id": "key-" + random.token_hex(6),
        "owner": owner,
        "secret_hash": hash_secret(secret),
        "scopes": scopes,
        "routes": sorted({check_route_name(route) for route in routes}),
        "requests_per_minute": rpm,
        "tokens_per_minute": tpm,
        "created_at": time.time(),
        "revoked_at": None,
    }
    with database.begin() as connection:
        connection.execute(tables.keys.insert().values(row))
        bump(connection, "keys")
    return _key(row), secret


def hash_secret(secret: str) -> bytes:
    """SHA-256 of a secret as a client sends it: what `load_keys` is keyed by."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def list_keys(database: Database) -> list[ApiKey]:
    """All keys, revoked ones included, oldest first."""
    with database.read() as connection:
        rows = connection.execute(select(tables.keys).order_by(tables.keys.c.created_at, tables.keys.c.id)).mappings()
        return [_key(row) for row in rows]


def revoke_key(database: Database, key_id: str) -> ApiKey:
    """End a key; workers refuse it after their next poll. Raises NotFound, and Conflict when it is revoked already."""
    keys = tables.keys
    with database.begin() as connection:
        row = connection.execute(select(keys).where(keys.c.id == key_id).with_for_update()).mappings().first()
        if row is None:
            raise NotFound(f"key {key_id} does not exist: see `understudy key list`")
        if row["revoked_at"] is not None:
            raise Conflict(f"key {key_id} is revoked already")
        revoked = time.time()
        connection.execute(update(keys).where(keys.c.id == key_id).values(revoked_at=revoked))
        bump(connection, "keys")
        return _key({**row, "revoked_at": revoked})


def load_keys(connection: Connection) -> dict[bytes, ApiKey]:
    """The active keys by `secret_hash`."""
    rows = connection.execute(select(tables.keys).where(tables.keys.c.revoked_at.is_(None))).mappings()
    return {row["secret_hash"]: _key(row) for row in rows}


def server_secret(database: Database, name: str = "response-id") -> bytes:
    """32 random bytes shared by every host, made by whoever asks first."""
    query = select(tables.secrets.c.value).where(tables.secrets.c.name == name)
    with database.read() as connection:
        found: bytes | None = connection.execute(query).scalar()
    if found is None:
        with database.begin() as connection:
            insert_new(connection, tables.secrets, name=name, value=random.token_bytes(32))
            found = connection.execute(query).scalar_one()
    return found


def _check(owner: str, scopes: frozenset[str], rpm: int, tpm: int) -> None:
    if not owner or len(owner) > 200 or not owner.isprintable():
        raise ConfigError("a key needs an owner: up to 200 printable characters, such as a team's name")
    if not scopes or scopes - SCOPES:
        wrong = ", ".join(sorted(scopes - SCOPES)) or "nothing"
        raise ConfigError(f"a key's scopes are {' and '.join(sorted(SCOPES))}, one or both: got {wrong}")
    if not (0 <= rpm <= _MOST and 0 <= tpm <= _MOST):
        raise ConfigError(f"limits per minute are between 0 (no limit) and {_MOST}")


def _key(row: dict[str, Any] | RowMapping) -> ApiKey:
    sets = {"scopes": frozenset(row["scopes"]), "routes": frozenset(row["routes"])}
    return ApiKey(**{**row, **sets, "secret_hash": bytes(row["secret_hash"])})
