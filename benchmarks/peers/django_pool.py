"""django-db-geventpool with psycopg 3."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.django_base import DjangoDriver, common_settings


class Driver(DjangoDriver):
    def database_settings(self, conninfo: str, connections: int) -> dict[str, Any]:
        """https://pypi.org/project/django-db-geventpool/: "For Django >= 5.1"."""
        database = common_settings(conninfo)
        database["ENGINE"] = "django_db_geventpool.backends.postgresql_psycopg3"
        database["OPTIONS"] |= {"MAX_CONNS": connections, "REUSE_CONNS": connections, "pool": False}
        return database
