"""The tables of evaluations, gates, rollouts and their evidence; part of adapters.tables, which is what to import."""

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
    text,
)
from sqlalchemy.types import JSON

from adapters.schema import Serial, metadata

# What offline evaluation found: one row per run of a suite against a version. Never updated.
evaluations = Table(
    "evaluations",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("version", String(200), nullable=False, index=True),
    Column("suite", String(200), nullable=False),
    Column("suite_digest", String(64), nullable=False),       # prompts, graders, settings: the frozen environment
    Column("source", String(20), nullable=False),             # gateway, local
    Column("at", Float(53), nullable=False),
    Column("body", JSON, nullable=False),                     # slices, scores, intervals
)

# Verdicts of the promotion rules, and overrides with their reasons. Never updated; the newest counts.
gates = Table(
    "gates",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("version", String(200), nullable=False, index=True),
    Column("against", String(200), nullable=False, default=""),
    Column("verdict", String(20), nullable=False),            # passed, failed, overridden
    Column("actor", String(200), nullable=False, default=""),
    Column("reason", Text, nullable=False, default=""),
    Column("at", Float(53), nullable=False),
    Column("body", JSON, nullable=False),                     # rule by rule, with numbers
)

# Progressive deliveries. At most one that is not ended per route. Changed by compare-and-swap of `generation`.
rollouts = Table(
    "rollouts",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("route", String(180), nullable=False, index=True),
    Column("candidate", String(200), nullable=False),         # of several: the first, and once promoted the best
    Column("rivals", JSON),                                   # the other candidates (A/B/n); null for none
    Column("stable", String(200), nullable=False),            # base@<digest> where the base serves
    Column("plan", JSON, nullable=False),                     # gateway.rollout.plan.Plan
    Column("phase", String(20), nullable=False),
    Column("step", Integer, nullable=False, default=0),
    Column("weight", Float(53), nullable=False, default=0.0), # the share now, of all candidates together
    Column("generation", Integer, nullable=False, default=0),
    Column("started_at", Float(53), nullable=False),
    Column("phase_since", Float(53), nullable=False),
    Column("ended_at", Float(53)),
    Column("reason", Text, nullable=False, default=""),
    Column("state", JSON, nullable=False),                    # what the controller must not forget
    Index(
        "uq_rollouts_open", "route", unique=True,
        sqlite_where=text("ended_at IS NULL"), postgresql_where=text("ended_at IS NULL"),
    ),
)

# Every transition of a rollout, with the numbers that caused it. Never updated.
rollout_events = Table(
    "rollout_events",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("rollout", BigInteger, ForeignKey("rollouts.id"), nullable=False, index=True),
    Column("at", Float(53), nullable=False),
    Column("kind", String(30), nullable=False),
    Column("actor", String(200), nullable=False, default=""),
    Column("reason", Text, nullable=False, default=""),
    Column("numbers", JSON, nullable=False),
)

# A unit's first bad event for a metric, with the candidates' share in the snapshot that served it.
bad_events = Table(
    "bad_events",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("rollout", BigInteger, ForeignKey("rollouts.id"), nullable=False),
    Column("metric", String(60), nullable=False),
    Column("unit", LargeBinary(8), nullable=False),
    Column("candidate", Integer, nullable=False),             # 0: stable's, else Rollout.number_of its candidate
    Column("share", Float(53), nullable=False),
    Column("at", Float(53), nullable=False),
    Column("response_id", String(100), nullable=False),
    UniqueConstraint("rollout", "metric", "unit"),
)

# Scores of sampled answers: graders, and text statistics as `text.<name>`. No texts.
scores = Table(
    "scores",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("response_id", String(100), nullable=False),
    Column("at", Float(53), nullable=False),
    Column("assignment", BigInteger, nullable=False),
    Column("unit", LargeBinary(8), nullable=False),
    Column("metric", String(60), nullable=False),
    Column("value", Float(53), nullable=False),
    UniqueConstraint("response_id", "metric"),                # a write may be repeated
    Index("ix_scores_assignment_at", "assignment", "at"),
)

# The same prompt answered by both versions and scored by the same grader.
shadow_pairs = Table(
    "shadow_pairs",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("rollout", BigInteger, ForeignKey("rollouts.id"), nullable=False),
    Column("response_id", String(100), nullable=False),       # of the stable answer
    Column("at", Float(53), nullable=False),
    Column("unit", LargeBinary(8), nullable=False),
    Column("metric", String(60), nullable=False),
    Column("stable", Float(53), nullable=False),
    Column("candidate", Float(53), nullable=False),
    Column("assignment", BigInteger, nullable=False, server_default="0"),  # the mirrored arm: which candidate's
    Index("ix_shadow_pairs_rollout_id", "rollout", "id"),
)
