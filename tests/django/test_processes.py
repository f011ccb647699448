"""Processes of their own: without gevent, forked, patched too late or not at all."""

from __future__ import annotations

import json

import pytest

from tests.django.conftest import settings_from
from tests.support.script import output_of

START = """
import json, os, sys
import django
from django.conf import settings

settings.configure(
    DATABASES={"default": {"ENGINE": "geventpg.django", **json.loads(sys.argv[1])}},
    INSTALLED_APPS=["tests.django.shelf"],
    USE_TZ=True,
)
django.setup()

from django.db import connection, connections, transaction
import geventpg
from tests.django.shelf.models import Author

def pid():
    with connection.cursor() as cursor:
        cursor.execute("select pg_backend_pid()")
        return cursor.fetchone()[0]
"""

PATCH = (
    "from gevent import monkey; monkey.patch_all()\n"
    "from tests.support.children import watch_children; watch_children()\n"
)


@pytest.fixture
def run(tables, dsn, admin):
    """Return a function that runs a script with Django set up, and returns what it printed."""
    admin.execute("truncate shelf_book, shelf_author")

    def run(source, *, before="", **pool):
        options = {"min_size": 1, "max_size": 2, "timeout": 5, **pool}
        settings = json.dumps(settings_from(dsn, pool=options))
        return output_of(before + START + source, settings, dsn)

    return run


def test_without_gevent_threads_share_a_pool_and_give_back_when_they_end(run):
    printed = run("""
import threading
import psycopg_pool

def work(number):
    with transaction.atomic():
        Author.objects.create(name=str(number))
    geventpg.get_conn("default").execute("select 1")

pool = connection.pool
assert type(pool) is psycopg_pool.ConnectionPool, pool
for number in range(10):
    thread = threading.Thread(target=work, args=[number])
    thread.start()
    thread.join()
print(Author.objects.count(), pool.get_stats()["pool_size"] <= 2)

# Django runs these in a thread.
import asyncio

async def main():
    await Author.objects.acreate(name="async")
    return await Author.objects.acount()

print(asyncio.run(main()))
geventpg.close_all()
""")
    assert printed.split() == ["10", "True", "11"]


def test_without_gevent_a_session_that_the_server_ended_is_not_met(run):
    printed = run("""
import logging, psycopg
logging.getLogger("psycopg.pool").setLevel("ERROR")  # it warns of what it discards
before = pid()
connection.close()
with psycopg.connect(sys.argv[2]) as admin:
    admin.execute("select pg_terminate_backend(%s, 5000)", [before])
print(pid() != before)
geventpg.close_all()
""")
    assert printed.strip() == "True"


@pytest.mark.parametrize(
    ("state", "patch"),
    [("idle", PATCH), ("in a transaction", PATCH), ("held", "")],
    ids=["idle", "in a transaction", "without gevent"],
)
def test_a_forked_child_has_a_pool_of_its_own_and_leaves_the_parents_alone(run, patch, state):
    printed = run(
        f"state = {state!r}"
        """
mine = pid()
if state == "idle":
    connection.close()
import warnings
from django.db import ProgrammingError
warnings.simplefilter("ignore", DeprecationWarning)  # a fork with threads: that is the point
block = transaction.atomic()
if state == "in a transaction":
    block.__enter__()
    Author.objects.create(name="parent's")
child = os.fork()
if not child:
    status = 1
    try:
        if state == "in a transaction":  # it is the parent's, and Django knows
            try:
                pid()
            except ProgrammingError:
                status = 0
        else:
            assert pid() != mine
            status = 0
    finally:
        connections.close_all()
        geventpg.close_all()
        os._exit(status)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
if state == "in a transaction":
    block.__exit__(None, None, None)
    assert Author.objects.count() == 1
print(pid() == mine)
geventpg.close_all()
""",
        before=patch,
    )
    assert printed.split() == ["0", "True"]


def test_greenlets_do_not_share_a_transaction_where_gevent_patched_nothing_or_too_late(run):
    printed = run("""
import gevent, warnings
from django.db import DatabaseError
from gevent import monkey

def work():
    try:
        Author.objects.count()
    except DatabaseError as error:
        print(error)
    else:
        print("served")

gevent.sleep(0)  # gevent runs from here on: a pool with threads could not be patched later
work()
gevent.spawn(work).get()
warnings.simplefilter("ignore")
monkey.patch_all()
work()
gevent.spawn(work).get()
geventpg.close_all()
""")
    lines = printed.splitlines()
    assert lines[0] == "served"
    assert len(lines) == 4
    assert all("patch_all() was called too late" in line for line in lines[1:])
