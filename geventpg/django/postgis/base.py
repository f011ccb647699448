"""The database backend ``geventpg.django.postgis``, where Django looks for it."""

from __future__ import annotations

from typing import Any

from django.contrib.gis.db.backends.postgis.base import DatabaseWrapper as PostGISWrapper

from geventpg.django.wrapper import PooledWrapper


class DatabaseWrapper(PooledWrapper, PostGISWrapper):  # type: ignore[misc]  # ships no types
    """GeoDjango's PostGIS wrapper, whose connections come from a geventpg pool."""

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Check out or open a connection; make it know the types of PostGIS."""
        connection = super().get_new_connection(conn_params)
        # Every time, as Django does: the extension may have been made since the last one.
        self.register_geometry_adapters(connection)
        return connection
