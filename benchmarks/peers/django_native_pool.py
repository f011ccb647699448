"""Django's own pool."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.django_base import DjangoDriver, common_settings


class Driver(DjangoDriver):
    def database_settings(self, conninfo: str, connections: int) -> dict[str, Any]:
        database = common_settings(conninfo)
        database["ENGINE"] = "django.db.backends.postgresql"
        database["OPTIONS"]["pool"] = {"min_size": connections, "max_size": connections}
        return database
