"""A pool of the test's own by name, and a table that shows what was committed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

import geventpg

_numbers = itertools.count(1)


@pytest.fixture
def configure(dsn: str) -> Iterator[Callable[..., str]]:
    """Return a function that configures a pool of the test's own and returns its name."""
    name = f"transactions-{next(_numbers)}"

    def configure(conninfo: str = dsn, **options: Any) -> str:
        geventpg.configure(conninfo, name=name, **{"min_size": 1, "max_size": 4, **options})
        return name

    yield configure
    geventpg.release_conn(name)
    geventpg.close_all()


@pytest.fixture
def name(configure: Callable[..., str]) -> str:
    """Return the name of a configured pool of at most 4 connections."""
    return configure()


@pytest.fixture
def notes(admin: psycopg.Connection[Any]) -> Iterator[Callable[[], list[str]]]:
    """Make a table `notes (note text)`; return a function that returns what is in it."""
    admin.execute("drop table if exists notes")
    admin.execute("create table notes (note text)")
    yield lambda: sorted(note for (note,) in admin.execute("select note from notes"))
    admin.execute("drop table notes")
