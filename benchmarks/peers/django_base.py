"""Pools behind Django's ORM: each query loads one object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import django
from django.conf import settings
from django.db import close_old_connections, connection, models, transaction
from psycopg.conninfo import conninfo_to_dict

from benchmarks.peers.base import GeventDriver, Row
from benchmarks.workload import TABLE

DJANGO_NAMES = {
    "dbname": "NAME",
    "user": "USER",
    "password": "PASSWORD",
    "host": "HOST",
    "port": "PORT",
}


def common_settings(conninfo: str) -> dict[str, Any]:
    """What *conninfo* is in Django's terms."""
    options: dict[str, Any] = dict(conninfo_to_dict(conninfo))
    database = {name: str(options.pop(key, "")) for key, name in DJANGO_NAMES.items()}
    return {**database, "ATOMIC_REQUESTS": False, "CONN_MAX_AGE": 0, "OPTIONS": options}


class DjangoDriver(GeventDriver):
    def database_settings(self, conninfo: str, connections: int) -> dict[str, Any]:
        raise NotImplementedError

    def open(self, conninfo: str, connections: int, autocommit: bool) -> None:
        database = self.database_settings(conninfo, connections)
        settings.configure(DATABASES={"default": database})
        django.setup()
        self._objects = _items()
        self.query = self._query if autocommit else self._query_atomic
        # django-db-geventpool counts a connection only when it is open, so greenlets that start
        # together open more than MAX_CONNS: open them one after the other, which keeps the limit.
        wrappers = [connection.copy() for _ in range(connections)]
        for wrapper in wrappers:
            wrapper.ensure_connection()
        for wrapper in wrappers:
            wrapper.close()

    def _query(self, key: int) -> Row:
        # close_old_connections() at the end of each piece of work gives the connection back,
        # as that project's page asks of code that runs outside a request.
        try:
            item = self._objects.get(pk=key)
            return item.id, item.payload
        finally:
            close_old_connections()

    def _query_atomic(self, key: int) -> Row:
        try:
            with transaction.atomic():
                item = self._objects.get(pk=key)
            return item.id, item.payload
        finally:
            close_old_connections()

    @contextmanager
    def connection(self) -> Iterator[Any]:
        connection.ensure_connection()
        try:
            yield connection
        finally:
            close_old_connections()

    def execute(self, conn: Any, sql: str, params: Sequence[Any] = ()) -> Row:
        with conn.cursor() as cursor:
            cursor.execute(sql, params)
            return cursor.fetchone()

    def close(self) -> None:
        if settings.configured:
            connection.close()
        close_pool = getattr(connection, "closeall", None) or connection.close_pool
        close_pool()


def _items() -> Any:
    """Return the manager of the table's model, which can be made after ``django.setup()``."""

    class Item(models.Model):
        id = models.IntegerField(primary_key=True)
        payload = models.TextField()

        class Meta:
            app_label = "benchmarks"
            db_table = TABLE
            managed = False

    return Item.objects
