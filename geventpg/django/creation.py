"""Test databases, made and dropped while pools are open."""

from __future__ import annotations

from typing import Any

from django.db.backends.postgresql.creation import DatabaseCreation as PostgreSQLCreation

from geventpg.registry import pools as registry


class DatabaseCreation(PostgreSQLCreation):  # type: ignore[misc]  # ships no types
    """Django's class; it closes every connection of this process to the database first."""

    def _clone_test_db(self, suffix: str, verbosity: int, keepdb: bool = False) -> None:
        self.connection.close()
        registry.abort(self.connection.alias)
        super()._clone_test_db(suffix, verbosity, keepdb)

    def _destroy_test_db(self, test_database_name: str, verbosity: int) -> Any:
        # Also the connections that greenlets still hold: the server refuses to drop a database
        # with clients.
        registry.abort(self.connection.alias)
        return super()._destroy_test_db(test_database_name, verbosity)
