"""Evaluations, gates, rollouts and their evidence."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns and tables."""
    with op.batch_alter_table("assignments") as batch:
        batch.add_column(sa.Column("rollout", sa.BigInteger(), nullable=False, server_default="0"))
        batch.add_column(sa.Column("step", sa.Integer(), nullable=False, server_default="0"))
    op.create_index(op.f("ix_assignments_rollout"), "assignments", ["rollout"])
    with op.batch_alter_table("responses") as batch:
        batch.add_column(sa.Column("flags", sa.Integer(), nullable=False, server_default="0"))
    _quality()
    _rollouts()
    _evidence()


def _serial() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _id() -> sa.Column[int]:
    return sa.Column("id", _serial(), autoincrement=True, nullable=False)


def _double(name: str, *, nullable: bool = False) -> sa.Column[float]:
    return sa.Column(name, sa.Float(precision=53), nullable=nullable)


def _string(name: str, length: int) -> sa.Column[str]:
    return sa.Column(name, sa.String(length=length), nullable=False)


def _quality() -> None:
    op.create_table(
        "evaluations",
        _id(), _string("version", 200), _string("suite", 200), _string("suite_digest", 64), _string("source", 20),
        _double("at"),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluations")),
    )
    op.create_index(op.f("ix_evaluations_version"), "evaluations", ["version"])
    op.create_table(
        "gates",
        _id(), _string("version", 200), _string("against", 200), _string("verdict", 20), _string("actor", 200),
        sa.Column("reason", sa.Text(), nullable=False),
        _double("at"),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gates")),
    )
    op.create_index(op.f("ix_gates_version"), "gates", ["version"])


def _rollouts() -> None:
    op.create_table(
        "rollouts",
        _id(), _string("route", 180), _string("candidate", 200),
        sa.Column("rivals", sa.JSON(), nullable=True),
        _string("stable", 200),
        sa.Column("plan", sa.JSON(), nullable=False),
        _string("phase", 20),
        sa.Column("step", sa.Integer(), nullable=False),
        _double("weight"),
        sa.Column("generation", sa.Integer(), nullable=False),
        _double("started_at"), _double("phase_since"), _double("ended_at", nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("state", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollouts")),
    )
    op.create_index(op.f("ix_rollouts_route"), "rollouts", ["route"])
    still_open = sa.text("ended_at IS NULL")
    op.create_index(
        "uq_rollouts_open", "rollouts", ["route"], unique=True, sqlite_where=still_open, postgresql_where=still_open
    )
    op.create_table(
        "rollout_events",
        _id(),
        sa.Column("rollout", sa.BigInteger(), nullable=False),
        _double("at"), _string("kind", 30), _string("actor", 200),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("numbers", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.id"], name=op.f("fk_rollout_events_rollout")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollout_events")),
    )
    op.create_index(op.f("ix_rollout_events_rollout"), "rollout_events", ["rollout"])


def _evidence() -> None:
    op.create_table(
        "bad_events",
        _id(),
        sa.Column("rollout", sa.BigInteger(), nullable=False),
        _string("metric", 60),
        sa.Column("unit", sa.LargeBinary(length=8), nullable=False),
        sa.Column("candidate", sa.Integer(), nullable=False),
        _double("share"), _double("at"), _string("response_id", 100),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.id"], name=op.f("fk_bad_events_rollout")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bad_events")),
        sa.UniqueConstraint("rollout", "metric", "unit", name=op.f("uq_bad_events_rollout")),
    )
    op.create_table(
        "scores",
        _id(), _string("response_id", 100), _double("at"),
        sa.Column("assignment", sa.BigInteger(), nullable=False),
        sa.Column("unit", sa.LargeBinary(length=8), nullable=False),
        _string("metric", 60), _double("value"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scores")),
        sa.UniqueConstraint("response_id", "metric", name=op.f("uq_scores_response_id")),
    )
    op.create_index("ix_scores_assignment_at", "scores", ["assignment", "at"])
    op.create_table(
        "shadow_pairs",
        _id(),
        sa.Column("rollout", sa.BigInteger(), nullable=False),
        _string("response_id", 100), _double("at"),
        sa.Column("unit", sa.LargeBinary(length=8), nullable=False),
        _string("metric", 60), _double("stable"), _double("candidate"),
        sa.Column("assignment", sa.BigInteger(), nullable=False, server_default="0"),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.id"], name=op.f("fk_shadow_pairs_rollout")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shadow_pairs")),
    )
    op.create_index("ix_shadow_pairs_rollout_id", "shadow_pairs", ["rollout", "id"])
