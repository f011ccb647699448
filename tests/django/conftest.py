"""Django runs in this process, on gevent; each test has its own settings of the database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import django
import pytest
from django.conf import settings
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg.conninfo import conninfo_to_dict

import geventpg
from geventpg.django import pools
from geventpg.registry import pools as registry

# No database of ours while no test asks for one: a default database on the engine is the pool of
# Celery workers, and other tests of this process have workers' settings too.
DATABASES: dict[str, dict[str, Any]] = {
    alias: {"ENGINE": "django.db.backends.dummy"} for alias in ("default", "other")
}

# Not as an app: that connects nothing, but would configure pools for every test of this process.
settings.configure(DATABASES=DATABASES, INSTALLED_APPS=["tests.django.shelf"], USE_TZ=True)
django.setup()
# The models have made a wrapper of the default database. Other tests of this process have a
# default pool that is not Django's.
registry._frameworks.clear()

NAMES = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}


def settings_from(conninfo: str, **options: Any) -> dict[str, Any]:
    """Return what *conninfo* is in Django's terms; *options* are for OPTIONS."""
    parameters = dict(conninfo_to_dict(conninfo))
    found = {name: str(parameters.pop(key, "")) for key, name in NAMES.items()}
    return {"ENGINE": "geventpg.django", **found, "OPTIONS": {**parameters, **options}}


def forget_wrapper(alias: str) -> None:
    """Let the next use of *alias* in this greenlet make a wrapper."""
    for wrapper in connections.all(initialized_only=True):
        if wrapper.alias == alias:
            wrapper.close()
            del connections[alias]


@pytest.fixture
def database(dsn: str) -> Iterator[Callable[..., BaseDatabaseWrapper]]:
    """Return a function that sets a database up and returns this greenlet's wrapper of it."""
    changed = []

    def database(
        alias: str = "default",
        *,
        pool: Any = None,
        conninfo: str = dsn,
        options: dict[str, Any] | None = None,
        **top: Any,
    ) -> BaseDatabaseWrapper:
        forget_wrapper(alias)
        registry.remove(alias)
        here = connections.settings[alias]
        if alias not in [before[0] for before in changed]:
            changed.append((alias, dict(here)))
        pool = {"min_size": 1, "max_size": 3, "timeout": 5} if pool is None else pool
        here.update({**settings_from(conninfo, pool=pool, **(options or {})), **top})
        return connections[alias]

    yield database
    connections.close_all()
    for alias, before in changed:
        forget_wrapper(alias)
        # Left open, so that its invariants are checked.
        registry._configs.pop(alias, None)
        registry._frameworks.pop(alias, None)
        registry._pools.pop(alias, None)
        pools._checked.pop(alias, None)
        connections.settings[alias].clear()
        connections.settings[alias].update(before)


@pytest.fixture(scope="session")
def tables(pg: Any) -> Iterator[None]:
    """Make the tables of the models, in the server's database, for the whole session."""
    from tests.django.shelf.models import Author, Book

    here = connections.settings["default"]
    before = dict(here)
    here.update(settings_from(pg.dsn, pool=False))
    forget_wrapper("default")
    with connections["default"].schema_editor() as editor:
        editor.create_model(Author)
        editor.create_model(Book)
    forget_wrapper("default")
    here.clear()
    here.update(before)
    yield
    with pg.connect() as conn:
        conn.execute("drop table shelf_book, shelf_author")


@pytest.fixture
def orm(tables: None, database: Callable[..., BaseDatabaseWrapper], admin: Any) -> Any:
    """Return this greenlet's wrapper of a pooled default database with empty tables."""
    admin.execute("truncate shelf_book, shelf_author")
    return database()


def pool_of(alias: str = "default") -> Any:
    """Return the pool of *alias*, whatever was asked of it so far."""
    return geventpg.get_pool(alias)
