"""Other ways to run: without gevent, without monkey-patching, across forks, beside asyncio."""

from __future__ import annotations

import pytest

from tests.support.script import output_of

START = """
import os, sys, threading, warnings
import psycopg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import create_engine, event, text
from sqlalchemy.pool import QueuePool

def make_engine(**options):
    options = {"pool_size": 2, "max_overflow": 0, "pool_timeout": 10, **options}
    parameters = dict(conninfo_to_dict(sys.argv[1]))
    return create_engine("postgresql+geventpg://", connect_args=parameters, **options)

def pid_of(conn):
    return conn.scalar(text("SELECT pg_backend_pid()"))

def fill(engine):
    conns = [engine.connect(), engine.connect()]
    pids = {pid_of(conn) for conn in conns}
    for conn in conns:
        conn.close()
    return pids

def terminate(pids):
    with psycopg.connect(sys.argv[1], autocommit=True) as admin:
        ended = "SELECT pg_terminate_backend(pid, 5000) FROM unnest(%s::int[]) pid"
        admin.execute(ended, [list(pids)])

def in_threads(function, number):
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(function())) for _ in range(number)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert len(answers) == number
    return answers

def use():
    with engine.connect() as conn:
        return pid_of(conn)

engine = make_engine()
"""

CASES = {
    "without gevent it is a queue pool, made safe against idle ends, kills and forks": """
# -- without gevent threads share a queue pool
assert len(set(in_threads(use, 20))) <= 2
from gevent._hub_local import get_hub_if_exists
assert get_hub_if_exists() is None
assert engine.pool.connection_pool is None
assert engine.pool.checkedin() <= 2 and engine.pool.checkedout() == 0
# -- without gevent no caller meets a backend that was ended while it was idle
terminate(fill(engine))
assert len(fill(engine)) == 2
# -- without gevent a refused connection is told of at once
import sqlalchemy.exc
bad = create_engine("postgresql+geventpg://127.0.0.1:1/db", pool_timeout=60)
try:
    bad.connect()
except sqlalchemy.exc.OperationalError as error:
    assert "refused" in str(error)
else:
    raise AssertionError
# -- without gevent a forked child leaves the connections of its parent alone
before = fill(engine)
with engine.connect() as conn:
    inherited = conn.connection.driver_connection
child = os.fork()
if not child:
    assert inherited.closed
    with engine.connect() as conn:
        mine = pid_of(conn)
    engine.dispose()
    os._exit(0 if mine not in before else 1)
assert os.waitpid(child, 0)[1] == 0
assert fill(engine) == before
# -- without gevent an exception from a signal handler leaves no statement running
import signal
class Interrupted(BaseException): pass
def handle(*_): raise Interrupted
signal.signal(signal.SIGALRM, handle)
try:
    with engine.connect() as conn:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        conn.execute(text("SELECT pg_sleep(60)"))
except Interrupted:
    pass
assert use()
# -- then gevent is started
before = fill(engine)
import gevent, geventpg
gevent.get_hub()
with engine.connect() as conn:
    assert isinstance(conn.connection.driver_connection, geventpg.Connection)
    assert engine.pool.connection_pool is not None
    assert pid_of(conn) not in before
""",
    "without monkey-patching greenlets connect at the same time, and may fork meanwhile": """
import gevent
gevent.get_hub()
started = []
@event.listens_for(engine, "connect")
def connected(dbapi_connection, record):
    started.append(True)
    dbapi_connection.execute("SELECT pg_sleep(0.05)")
    dbapi_connection.rollback()
jobs = [gevent.spawn(use) for _ in range(10)]
gevent.joinall(jobs, timeout=20, raise_error=True)
assert all(job.successful() for job in jobs) and len(started) == 2
# -- a child of a greenlet that initializes the dialect is not stuck
engine = make_engine()
children = []
@event.listens_for(engine, "connect")
def connected(dbapi_connection, record):
    if not children:
        children.append(os.fork())
        if not children[0]:
            engine.dispose()
            job = gevent.spawn(use)
            os._exit(0 if job.get(timeout=10) else 1)
use()
assert os.waitpid(children[0], 0)[1] == 0
""",
    "an engine made before monkey-patching works after it, and in a forked child": """
from gevent import monkey
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    monkey.patch_all()
import gevent
jobs = [gevent.spawn(use) for _ in range(10)]
gevent.joinall(jobs, timeout=20, raise_error=True)
assert len({job.value for job in jobs}) <= 2
# -- a forked child has a pool of its own
before = fill(engine)
from tests.support.children import watch_children; watch_children()
child = os.fork()
if not child:
    try:
        assert not fill(engine) & before
    except BaseException:
        os._exit(1)
    os._exit(0)
assert gevent.os.waitpid(child, 0)[1] == 0
assert fill(engine) == before
# -- an open engine ends with the process without a word
conn = engine.connect()
conn.execute(text("SELECT 1"))
""",
    "SQLAlchemy's asyncio greenlets may use the engine": """
import asyncio
from sqlalchemy.ext.asyncio import create_async_engine
import gevent
gevent.get_hub()
parameters = dict(conninfo_to_dict(sys.argv[1]))
other = create_async_engine("postgresql+psycopg_async://", connect_args=parameters)
async def main():
    async with other.connect() as conn:
        # In one of SQLAlchemy's greenlets, with its own asyncio connection beside ours.
        def both(sync_conn):
            return use(), pid_of(sync_conn)
        mine, its = await conn.run_sync(both)
        assert mine != its
        assert (await conn.execute(text("SELECT 1"))).scalar() == 1
    await other.dispose()
asyncio.run(main())
assert use()
""",
}


@pytest.mark.parametrize("case", CASES)
def test_a_process(case, dsn):
    assert output_of(START + CASES[case], dsn) == ""
