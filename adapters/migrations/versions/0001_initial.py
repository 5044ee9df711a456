"""The schema of adapters.tables at 0.1.0."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create every table."""
    _registry()
    _fleet()
    _records()


def _serial() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _registry() -> None:
    op.create_table(
        "versions",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("route", sa.String(length=180), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("stage", sa.String(length=20), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("base_digest", sa.String(length=64), nullable=False),
        sa.Column("manifest", sa.JSON(), nullable=False),
        sa.Column("lineage", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_versions")),
        sa.UniqueConstraint("route", "digest", name=op.f("uq_versions_route")),
    )
    op.create_index(op.f("ix_versions_route"), "versions", ["route"])
    op.create_table(
        "version_events",
        sa.Column("id", _serial(), autoincrement=True, nullable=False),
        sa.Column("version", sa.String(length=200), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("stage", sa.String(length=20), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["version"], ["versions.name"], name=op.f("fk_version_events_version")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_version_events")),
    )
    op.create_index(op.f("ix_version_events_version"), "version_events", ["version"])
    op.create_table(
        "routes",
        sa.Column("name", sa.String(length=180), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("version", sa.String(length=200), nullable=True),
        sa.Column("target", sa.String(length=200), nullable=True),
        sa.Column("previous", sa.String(length=200), nullable=True),
        sa.Column("bake_until", sa.Float(precision=53), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["previous"], ["versions.name"], name=op.f("fk_routes_previous")),
        sa.ForeignKeyConstraint(["target"], ["versions.name"], name=op.f("fk_routes_target")),
        sa.ForeignKeyConstraint(["version"], ["versions.name"], name=op.f("fk_routes_version")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_routes")),
    )
    op.create_table(
        "keys",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("owner", sa.String(length=200), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("routes", sa.JSON(), nullable=False),
        sa.Column("requests_per_minute", sa.Integer(), nullable=False),
        sa.Column("tokens_per_minute", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.Column("revoked_at", sa.Float(precision=53), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_keys")),
        sa.UniqueConstraint("secret_hash", name=op.f("uq_keys_secret_hash")),
    )
    op.create_table(
        "secrets",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_secrets")),
    )
    op.create_table(
        "revisions",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_revisions")),
    )


def _fleet() -> None:
    op.create_table(
        "assignments",
        sa.Column("id", _serial(), autoincrement=True, nullable=False),
        sa.Column("route", sa.String(length=180), nullable=False),
        sa.Column("version", sa.String(length=200), nullable=False),
        sa.Column("arm", sa.String(length=20), nullable=False),
        sa.Column("share", sa.Float(precision=53), nullable=False),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_assignments")),
    )
    op.create_index(op.f("ix_assignments_route"), "assignments", ["route"])
    op.create_table(
        "snapshots",
        sa.Column("id", _serial(), autoincrement=True, nullable=False),
        sa.Column("effective_at", sa.Float(precision=53), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_snapshots")),
    )
    op.create_table(
        "replicas",
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("up", sa.Integer(), nullable=False),
        sa.Column("boot", sa.String(length=64), nullable=False),
        sa.Column("seen_at", sa.Float(precision=53), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("max_loras", sa.Integer(), nullable=False),
        sa.Column("max_cpu_loras", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_replicas")),
    )
    op.create_table(
        "holdings",
        sa.Column("replica", sa.String(length=100), nullable=False),
        sa.Column("version", sa.String(length=200), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("boot", sa.String(length=64), nullable=False),
        sa.Column("since", sa.Float(precision=53), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("probe", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("replica", "version", name=op.f("pk_holdings")),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("holder", sa.String(length=100), nullable=False),
        sa.Column("expires_at", sa.Float(precision=53), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )


def _records() -> None:
    op.create_table(
        "responses",
        sa.Column("id", _serial(), autoincrement=True, nullable=False),
        sa.Column("response_id", sa.String(length=100), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("assignment", sa.BigInteger(), nullable=False),
        sa.Column("unit", sa.LargeBinary(length=8), nullable=False),
        sa.Column("endpoint", sa.String(length=20), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.String(length=12), nullable=False),
        sa.Column("ttft", sa.Float(precision=53), nullable=True),
        sa.Column("duration", sa.Float(precision=53), nullable=False),
        sa.Column("input_tokens", sa.Integer(), nullable=True),
        sa.Column("output_tokens", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_responses")),
    )
    op.create_index("ix_responses_assignment_at", "responses", ["assignment", "at"])
    op.create_index(op.f("ix_responses_response_id"), "responses", ["response_id"], unique=True)
    op.create_table(
        "feedback",
        sa.Column("id", _serial(), autoincrement=True, nullable=False),
        sa.Column("response_id", sa.String(length=100), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("assignment", sa.BigInteger(), nullable=False),
        sa.Column("unit", sa.LargeBinary(length=8), nullable=False),
        sa.Column("score", sa.Float(precision=53), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_feedback")),
    )
    op.create_index("ix_feedback_assignment_at", "feedback", ["assignment", "at"])
    op.create_index(op.f("ix_feedback_response_id"), "feedback", ["response_id"])
