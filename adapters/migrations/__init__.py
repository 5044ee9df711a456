"""Alembic migrations: each brings the schema from the revision before to its own."""
