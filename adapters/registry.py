"""Versions: immutable, named by their content, registered only once their files are stored whole."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, RowMapping, select

from adapters import tables
from adapters.artifacts import ArtifactStore
from adapters.base import BaseModelInfo
from adapters.database import Database, bump, lock
from adapters.errors import ArtifactError, Conflict, NotFound
from adapters.manifest import CheckedAdapter, check_adapter
from adapters.promotion import record, transition
from adapters.routes import check_route_name, ensure_route
from adapters.types import AdapterVersion, Kind, Stage, split_version

_SHORT = 12  # hex digits of the digest in a version's name


class Registry:
    """Registers, reads and archives versions. Methods raise NotFound, Conflict, ArtifactError and DatabaseError."""

    def __init__(self, database: Database, artifacts: ArtifactStore) -> None:
        self._database = database
        self._artifacts = artifacts

    def push(
        self,
        directory: Path,
        route: str,
        *,
        base: BaseModelInfo,
        max_rank: int,
        lineage: Mapping[str, Any] | None = None,
        actor: str = "",
        kind: Kind = Kind.ADAPTER,
    ) -> AdapterVersion:
        """Check, store and register the adapter in `directory`; makes the route if it does not exist.

        The same bytes again are the same version. Files first, then the row: killed in between, nothing is
        registered, and the next push goes on from there. Raises AdapterRejected, Conflict, ArtifactError.
        """
        check_route_name(route)
        checked = check_adapter(directory, base, max_rank=max_rank, kind=kind)
        with self._database.read() as connection:
            _check_free(_find(connection, _name(route, checked.digest)), checked.digest)  # before gigabytes are copied
        row = _row(route, checked, base=base, kind=kind, lineage={**(lineage or {}), "pushed_by": actor})
        for _ in range(3):
            self._artifacts.publish(checked.digest, checked.files)
            with self._database.begin() as connection:
                # A deletion holds the same lock: either it sees this row, or this sees that the files are gone.
                lock(connection, f"artifact {checked.digest}")
                if self._artifacts.exists(checked.digest):
                    return _register(connection, row, actor)
        raise ArtifactError(f"artifact {checked.digest[:_SHORT]} is deleted again and again: push it later")

    def get(self, name: str) -> AdapterVersion:
        """One version. Raises ConfigError for a malformed name, NotFound."""
        split_version(name)
        with self._database.read() as connection:
            found = _find(connection, name)
        if found is None:
            raise NotFound(f"version {name} does not exist: see `understudy adapter list`")
        return found

    def events(self, name: str) -> list[dict[str, Any]]:
        """The version's history, oldest first: dicts with at, stage, actor, reason. Raises NotFound."""
        self.get(name)
        rows = tables.version_events
        query = select(rows.c.at, rows.c.stage, rows.c.actor, rows.c.reason).where(rows.c.version == name)
        with self._database.read() as connection:
            return [dict(row) for row in connection.execute(query.order_by(rows.c.id)).mappings()]

    def archive(self, name: str, actor: str = "", reason: str = "") -> AdapterVersion:
        """Never serve it again. Its files stay until `delete_artifact_if_unused` finds that nothing can need them."""
        return self._move(name, Stage.ARCHIVED, actor, reason)

    def quarantine(self, name: str, actor: str = "", reason: str = "") -> AdapterVersion:
        """Do not serve it until somebody releases it."""
        return self._move(name, Stage.QUARANTINED, actor, reason)

    def release(self, name: str, actor: str = "", reason: str = "") -> AdapterVersion:
        """Lift a quarantine; needs a reason."""
        return self._move(name, Stage.CANDIDATE, actor, reason)

    def delete_artifact_if_unused(self, digest: str) -> bool:
        """Delete the files of `digest` unless a version that is not archived, or an engine process, may need them."""
        versions, holdings = tables.versions, tables.holdings
        with self._database.begin() as connection:
            lock(connection, f"artifact {digest}")
            mine = versions.c.digest == digest
            alive = select(versions.c.name).where(mine, versions.c.stage != Stage.ARCHIVED.value)
            held = select(holdings.c.version).join(versions, versions.c.name == holdings.c.version).where(mine)
            if any(connection.execute(query.limit(1)).first() for query in (alive, held)):
                return False
            return self._artifacts.delete(digest)

    def collect(self) -> int:
        """Delete every artifact that nothing can need: archived ones, and those of pushes that were killed."""
        self._artifacts.sweep()
        versions = tables.versions
        with self._database.read() as connection:  # spares a write transaction for each that is in use
            query = select(versions.c.digest).where(versions.c.stage != Stage.ARCHIVED.value)
            used = set(connection.execute(query).scalars())
        return sum(self.delete_artifact_if_unused(digest) for digest in self._artifacts.list() if digest not in used)

    def list(self, route: str | None = None, stage: Stage | None = None) -> list[AdapterVersion]:
        """Versions, oldest first; of one route or stage where given."""
        rows = tables.versions
        query = select(rows).order_by(rows.c.created_at, rows.c.name)
        if route is not None:
            query = query.where(rows.c.route == route)
        if stage is not None:
            query = query.where(rows.c.stage == stage.value)
        with self._database.read() as connection:
            return [_version(row) for row in connection.execute(query).mappings()]

    def _move(self, name: str, to: Stage, actor: str, reason: str) -> AdapterVersion:
        split_version(name)
        with self._database.begin() as connection:
            transition(connection, name, to, actor, reason)
            found = _find(connection, name)
            assert found is not None, "transition has just written it"
            return found


def _name(route: str, digest: str) -> str:
    return f"{route}@{digest[:_SHORT]}"


def _row(
    route: str, checked: CheckedAdapter, *, base: BaseModelInfo, kind: Kind, lineage: dict[str, Any]
) -> dict[str, Any]:
    return {
        "name": _name(route, checked.digest),
        "route": route,
        "digest": checked.digest,
        "kind": kind.value,
        "stage": Stage.CANDIDATE.value,
        "reason": "",
        "created_at": time.time(),
        "rank": checked.rank,
        "size_bytes": checked.size_bytes,
        "base_digest": base.digest,
        "manifest": checked.manifest,
        "lineage": lineage,
    }


def _register(connection: Connection, row: dict[str, Any], actor: str) -> AdapterVersion:
    """Insert the row, unless the same version came first."""
    ensure_route(connection, row["route"])
    lock(connection, f"version {row['name']}")
    existing = _find(connection, row["name"])
    _check_free(existing, row["digest"])
    if existing:
        return existing
    connection.execute(tables.versions.insert().values(row))
    record(connection, row["name"], Stage.CANDIDATE, actor, "registered")
    bump(connection, "registry")
    return _version(row)


def _check_free(existing: AdapterVersion | None, digest: str) -> None:
    if existing is None:
        return
    if existing.digest != digest:
        raise Conflict(f"{existing.name} names other weights (digest {existing.digest}): train with another seed")
    if existing.stage is Stage.ARCHIVED:
        raise Conflict(f"{existing.name} is archived: these very weights cannot be pushed again for this route")


def _find(connection: Connection, name: str) -> AdapterVersion | None:
    row = connection.execute(select(tables.versions).where(tables.versions.c.name == name)).mappings().first()
    return _version(row) if row else None


def _version(row: RowMapping | dict[str, Any]) -> AdapterVersion:
    return AdapterVersion(**{**row, "kind": Kind(row["kind"]), "stage": Stage(row["stage"])})
