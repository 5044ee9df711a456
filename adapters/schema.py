"""What all tables share: the metadata, and the type of serial keys."""

from __future__ import annotations

from sqlalchemy import BigInteger, Integer, MetaData

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)

# Big on PostgreSQL, and still an alias of rowid on SQLite.
Serial = BigInteger().with_variant(Integer(), "sqlite")
