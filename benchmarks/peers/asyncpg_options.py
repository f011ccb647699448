"""libpq's connection string in asyncpg's words."""

from __future__ import annotations

from typing import Any

from psycopg.conninfo import conninfo_to_dict

ASYNCPG_NAMES = {
    "dbname": "database",
    "user": "user",
    "password": "password",
    "host": "host",
    "port": "port",
    "sslmode": "ssl",
}


def connect_options(conninfo: str) -> dict[str, Any]:
    given = conninfo_to_dict(conninfo)
    return {name: given[key] for key, name in ASYNCPG_NAMES.items() if key in given}
