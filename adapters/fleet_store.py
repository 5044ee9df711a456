"""What the controller knows of the engines, and what it publishes to the workers. One writer: the lease's holder."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, CursorResult, delete, desc, select, update

from adapters import tables
from adapters.database import Database, insert_new, lock, upsert
from adapters.errors import Conflict
from adapters.pulse import Pulse
from adapters.snapshot import Snapshot, from_json
from adapters.types import Holding, HoldingState, Replica

CONTROLLER_LEASE = "controller"  # who holds it writes replicas, holdings and snapshots


class FleetStore:
    """Replicas, holdings, assignments, snapshots and leases. Every method is one transaction; raises DatabaseError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pulse = Pulse(database)

    # Replicas and holdings: rewritten at every look at the engines.

    def upsert_replica(self, replica: Replica) -> None:
        """Write what was last seen of an engine process."""
        values = {**asdict(replica), "up": int(replica.up)}
        self._upsert(tables.replicas, values, ["name"])

    def replicas(self) -> list[Replica]:
        """All replicas by name."""
        with self._database.read() as connection:
            rows = connection.execute(select(tables.replicas).order_by(tables.replicas.c.name)).mappings()
            return [Replica(**{**row, "up": bool(row["up"])}) for row in rows]

    def forget_replica(self, name: str) -> None:
        """The replica has left for good: remove it and what it held."""
        with self._database.begin() as connection:
            connection.execute(delete(tables.holdings).where(tables.holdings.c.replica == name))
            connection.execute(delete(tables.replicas).where(tables.replicas.c.name == name))

    def upsert_holding(self, holding: Holding) -> None:
        """Write what one replica does with one version."""
        self._upsert(tables.holdings, {**asdict(holding), "state": holding.state.value}, ["replica", "version"])

    def holdings(self, replica: str | None = None, version: str | None = None) -> list[Holding]:
        """Holdings, of one replica or version where given."""
        held = tables.holdings
        query = select(held).order_by(held.c.replica, held.c.version)
        if replica is not None:
            query = query.where(held.c.replica == replica)
        if version is not None:
            query = query.where(held.c.version == version)
        with self._database.read() as connection:
            rows = connection.execute(query).mappings()
            return [Holding(**{**row, "state": HoldingState(row["state"])}) for row in rows]

    def delete_holding(self, replica: str, version: str) -> None:
        """The replica cannot need the version's files any more."""
        held = tables.holdings
        with self._database.begin() as connection:
            connection.execute(delete(held).where(held.c.replica == replica, held.c.version == version))

    def _upsert(self, table: Any, values: dict[str, Any], key: list[str]) -> None:
        with self._database.begin() as connection:
            changed = {name: value for name, value in values.items() if name not in key}
            row = upsert(connection, table).values(values)
            connection.execute(row.on_conflict_do_update(index_elements=key, set_=changed))

    # Assignments: immutable rows that response ids point at.

    def assignment(
        self, route: str, version: str, arm: str, share: float, *, rollout: int = 0, step: int = 0
    ) -> int:
        """The id of the row with exactly these values, which is made if it does not exist."""
        rows = tables.assignments
        values = {
            "route": route, "version": version, "arm": arm, "share": share, "rollout": rollout, "step": step
        }  # fmt: skip
        same = [rows.c[name] == value for name, value in values.items()]
        query = select(rows.c.id).where(*same).order_by(rows.c.id).limit(1)
        with self._database.read() as connection:
            found = connection.execute(query).scalar()
        if found is None:
            with self._database.begin() as connection:
                lock(connection, "assignments")  # of two controllers during a change of leader, one makes the row
                found = connection.execute(query).scalar()
                if found is None:
                    found = _new_id(connection.execute(rows.insert().values(**values, created_at=time.time())))
        return int(found)

    def assignments_by_id(self, assignment: int) -> dict[str, Any] | None:
        """The row (id, route, version, arm, share, created_at), or None for an id that was never minted."""
        with self._database.read() as connection:
            query = select(tables.assignments).where(tables.assignments.c.id == assignment)
            row = connection.execute(query).mappings().first()
            return dict(row) if row else None

    # Snapshots: what the workers route from.

    def publish(
        self,
        snapshot_body: dict[str, Any],
        effective_at: float,
        fence: tuple[str, int] | None = None,
        within: Callable[[Connection], None] | None = None,
    ) -> int:
        """Store a snapshot (adapters.snapshot.to_json) that all workers switch to at `effective_at`; returns its id.

        `fence`: the name and epoch of the lease that allows this. Raises Conflict when somebody else leads by now.
        `within`: what else has to be written, in the same transaction.
        """
        with self._database.begin() as connection:
            if fence:
                check_fence(connection, *fence)
            if within:
                within(connection)
            row = {"effective_at": effective_at, "body": snapshot_body}
            return _new_id(connection.execute(tables.snapshots.insert().values(row)))

    def latest(self) -> Snapshot | None:
        """The newest snapshot, even where it is not effective yet. Raises ValueError when its arms do not add up."""
        with self._database.read() as connection:
            query = select(tables.snapshots).order_by(desc(tables.snapshots.c.id)).limit(1)
            row = connection.execute(query).first()
        return from_json(row.id, row.effective_at, row.body) if row else None

    def poll(self) -> tuple[int, int]:
        """(id of the newest snapshot, revision of the keys), 0 where there is none yet. Cheap: ask all the time."""
        beat = self._pulse.look()
        return beat.snapshot, beat.keys

    def registry_revision(self) -> int:
        """How often routes or versions changed: a controller that sees the same number need not read them again."""
        return self._pulse.look().registry

    def prune_snapshots(self, keep: int) -> None:
        """Delete all but the newest `keep` (at least 1) snapshots."""
        ids = tables.snapshots.c.id
        with self._database.begin() as connection:
            oldest_kept = connection.execute(select(ids).order_by(desc(ids)).offset(max(keep, 1) - 1).limit(1)).scalar()
            if oldest_kept is not None:
                connection.execute(delete(tables.snapshots).where(ids < oldest_kept))

    # Leases: one leader at a time. `epoch` goes up with every change of holder, and fences off the one before.

    def acquire_lease(self, name: str, holder: str, ttl: float, now: float) -> int | None:
        """Take the lease if it is free, expired or our own. The epoch, or None while somebody else holds it.

        `ttl` in seconds, `now` in seconds since the epoch: clocks of hosts must agree to well under `ttl`.
        """
        leases = tables.leases
        mine = {"holder": holder, "expires_at": now + ttl}
        with self._database.begin() as connection:
            if insert_new(connection, leases, name=name, epoch=1, **mine):
                return 1
            row = connection.execute(select(leases).where(leases.c.name == name).with_for_update()).one()
            if row.holder != holder and row.expires_at > now:
                return None
            # Our own lease that ran out gets a new epoch too: somebody may have led in between.
            epoch = row.epoch if row.holder == holder and row.expires_at > now else row.epoch + 1
            connection.execute(update(leases).where(leases.c.name == name).values(epoch=epoch, **mine))
            return int(epoch)

    def renew_lease(self, name: str, holder: str, epoch: int, ttl: float, now: float) -> bool:
        """Extend our lease. False when it was lost: stop leading at once."""
        leases = tables.leases
        ours = (leases.c.name == name, leases.c.holder == holder, leases.c.epoch == epoch, leases.c.expires_at > now)
        with self._database.begin() as connection:
            done = connection.execute(update(leases).where(*ours).values(expires_at=now + ttl))
            return done.rowcount == 1

    def release_lease(self, name: str, holder: str, epoch: int) -> None:
        """Let the next one lead at once; nothing happens when the lease was lost already."""
        leases = tables.leases
        ours = (leases.c.name == name, leases.c.holder == holder, leases.c.epoch == epoch)
        with self._database.begin() as connection:
            connection.execute(update(leases).where(*ours).values(expires_at=0.0))

    def lease_holder(self, name: str, now: float) -> str | None:
        """Who holds the lease now; None: nobody does."""
        leases = tables.leases
        query = select(leases.c.holder).where(leases.c.name == name, leases.c.expires_at > now)
        with self._database.read() as connection:
            holder: str | None = connection.execute(query).scalar()
            return holder


def _new_id(result: CursorResult[Any]) -> int:
    key = result.inserted_primary_key
    assert key is not None, "the table has an autoincrement key"
    return int(key[0])


def check_fence(connection: Connection, name: str, epoch: int) -> None:
    """Raise Conflict unless the lease `name` still has this epoch; holds it until the transaction ends."""
    query = select(tables.leases.c.epoch).where(tables.leases.c.name == name).with_for_update()
    if (found := connection.execute(query).scalar()) != epoch:
        raise Conflict(f"lease {name} has epoch {found}, not {epoch}: another process leads now")
