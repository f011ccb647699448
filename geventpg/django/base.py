"""The database backend ``geventpg.django``, where Django looks for it."""

from __future__ import annotations

from django.db.backends.postgresql.base import DatabaseWrapper as PostgreSQLWrapper

from .wrapper import PooledWrapper


class DatabaseWrapper(PooledWrapper, PostgreSQLWrapper):  # type: ignore[misc]  # ships no types
    """Django's PostgreSQL wrapper, whose connections come from a geventpg pool."""
