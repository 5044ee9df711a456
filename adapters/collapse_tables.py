"""The table of reward-collapse detectors; part of adapters.tables, which is what to import."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Integer, String, Table
from sqlalchemy.types import JSON

from adapters.schema import metadata

# One detector per version and occasion: what it has read, its frozen calibration, its state, its latest verdict.
collapse_states = Table(
    "collapse_states",
    metadata,
    Column("route", String(180), primary_key=True),
    Column("version", String(200), primary_key=True),
    Column("scope", String(40), primary_key=True),            # rollout:<id>, after:<id>, alone
    Column("revision", Integer, nullable=False),              # changed by compare-and-swap
    Column("answers", BigInteger, nullable=False),            # responses.id up to which answers are counted
    Column("words", BigInteger, nullable=False),              # feedback.id up to which feedback is read
    Column("calibration", JSON, nullable=False),              # monitors.collapse.Calibration; {} until it is fitted
    Column("state", JSON, nullable=False),                    # of the detector; {} until there is one
    Column("verdict", JSON, nullable=False),                  # monitors.collapse.Verdict; {} before the first
    Column("updated_at", Float(53), nullable=False),
)
