"""The database schema, once. Alembic migrations in adapters/migrations bring a database to it; a test compares them."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.types import JSON

from adapters.collapse_tables import collapse_states
from adapters.evidence_tables import bad_events, evaluations, gates, rollout_events, rollouts, scores, shadow_pairs
from adapters.schema import Serial, metadata

__all__ = [
    "assignments", "bad_events", "collapse_states", "evaluations", "feedback", "gates", "holdings", "keys", "leases",
    "metadata", "replicas", "responses", "revisions", "rollout_events", "rollouts", "routes", "scores", "secrets",
    "shadow_pairs", "snapshots", "version_events", "versions",
]  # fmt: skip

versions = Table(
    "versions",
    metadata,
    Column("name", String(200), primary_key=True),           # route@<12 hex>
    Column("route", String(180), nullable=False, index=True),
    Column("digest", String(64), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("stage", String(20), nullable=False),
    Column("reason", Text, nullable=False, default=""),
    Column("created_at", Float(53), nullable=False),
    Column("rank", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("base_digest", String(64), nullable=False),
    Column("manifest", JSON, nullable=False),
    Column("lineage", JSON, nullable=False),
    UniqueConstraint("route", "digest"),
)

# Every stage change of a version, with who and why: never updated, never deleted.
version_events = Table(
    "version_events",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("version", String(200), ForeignKey("versions.name"), nullable=False, index=True),
    Column("at", Float(53), nullable=False),
    Column("stage", String(20), nullable=False),
    Column("actor", String(200), nullable=False, default=""),
    Column("reason", Text, nullable=False, default=""),
)

routes = Table(
    "routes",
    metadata,
    Column("name", String(180), primary_key=True),
    Column("description", Text, nullable=False, default=""),
    Column("version", String(200), ForeignKey("versions.name")),
    Column("target", String(200), ForeignKey("versions.name")),
    Column("previous", String(200), ForeignKey("versions.name")),
    Column("bake_until", Float(53), nullable=False, default=0.0),
    Column("generation", Integer, nullable=False, default=0),
    Column("error", Text, nullable=False, default=""),
)

# What a response id points at: which version, in which arm, at which share. Immutable rows; an id is minted from one.
assignments = Table(
    "assignments",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("route", String(180), nullable=False, index=True),
    Column("version", String(200), nullable=False),          # base@<digest> where the base answers
    Column("arm", String(20), nullable=False),                # stable, candidate, …
    Column("share", Float(53), nullable=False),               # of the route's traffic, in (0, 1]
    Column("rollout", BigInteger, nullable=False, server_default="0", index=True),  # rollouts.id; 0: outside any
    Column("step", Integer, nullable=False, server_default="0"),  # of the rollout's plan
    Column("created_at", Float(53), nullable=False),
)

# The published routing state; workers poll `id`. One row per publication; old ones are pruned.
snapshots = Table(
    "snapshots",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("effective_at", Float(53), nullable=False),        # all workers switch at this instant
    Column("body", JSON, nullable=False),                     # adapters.snapshot.Snapshot
)

replicas = Table(
    "replicas",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("url", Text, nullable=False),
    Column("up", Integer, nullable=False, default=0),
    Column("boot", String(64), nullable=False, default=""),
    Column("seen_at", Float(53), nullable=False, default=0.0),
    Column("error", Text, nullable=False, default=""),
    Column("max_loras", Integer, nullable=False, default=0),
    Column("max_cpu_loras", Integer, nullable=False, default=0),
)

holdings = Table(
    "holdings",
    metadata,
    Column("replica", String(100), primary_key=True),
    Column("version", String(200), primary_key=True),
    Column("state", String(20), nullable=False),
    Column("boot", String(64), nullable=False),
    Column("since", Float(53), nullable=False),
    Column("error", Text, nullable=False, default=""),
    Column("probe", JSON, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("owner", String(200), nullable=False),
    Column("secret_hash", LargeBinary(32), nullable=False, unique=True),
    Column("scopes", JSON, nullable=False),
    Column("routes", JSON, nullable=False),
    Column("requests_per_minute", Integer, nullable=False, default=0),
    Column("tokens_per_minute", Integer, nullable=False, default=0),
    Column("created_at", Float(53), nullable=False),
    Column("revoked_at", Float(53)),
)

# Server secrets that every host must share, such as the key that signs response ids.
secrets = Table(
    "secrets",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

# Counters that say "look again": `keys` and `registry` go up with every change, in the same transaction.
revisions = Table(
    "revisions",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("holder", String(100), nullable=False),
    Column("expires_at", Float(53), nullable=False),
    Column("epoch", Integer, nullable=False),
)

# One row per answered request, written in batches by the workers: unique, so that a write may be repeated. No texts.
responses = Table(
    "responses",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("response_id", String(100), nullable=False, index=True, unique=True),
    Column("at", Float(53), nullable=False),
    Column("assignment", BigInteger, nullable=False),
    Column("unit", LargeBinary(8), nullable=False),           # HMAC(owner ‖ unit)
    Column("endpoint", String(20), nullable=False),
    Column("status", Integer, nullable=False),
    Column("outcome", String(12), nullable=False),
    Column("ttft", Float(53)),                                # seconds
    Column("duration", Float(53), nullable=False),            # seconds
    Column("input_tokens", Integer),
    Column("output_tokens", Integer),
    Column("flags", Integer, nullable=False, server_default="0"),  # bits: adapters.types.Flag
    Index("ix_responses_assignment_at", "assignment", "at"),
)

feedback = Table(
    "feedback",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("response_id", String(100), nullable=False, index=True),
    Column("at", Float(53), nullable=False),
    Column("assignment", BigInteger, nullable=False),
    Column("unit", LargeBinary(8), nullable=False),
    Column("score", Float(53), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("comment", Text),
    Index("ix_feedback_assignment_at", "assignment", "at"),
    Index("ix_feedback_unit_at", "unit", "at"),             # one word a user and day: adapters.collapse_store
)
