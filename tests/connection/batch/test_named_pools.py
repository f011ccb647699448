"""`geventpg.send_batch`: on the greenlet's connection, and in processes without gevent."""

from __future__ import annotations

import psycopg
import pytest

import geventpg
from geventpg.registry.scope import Scope
from tests.connection.batch.helpers import INSERT, batch_of, inserts, numbers, rows
from tests.support.script import output_of

NAME = "batches"


@pytest.fixture(autouse=True)
def configured(dsn, done):
    geventpg.configure(dsn, name=NAME, min_size=1, max_size=1, timeout=2)
    yield
    geventpg.release_conn(NAME)
    geventpg.close_all()


def test_alone_it_is_a_transaction_of_its_own_and_keeps_no_connection(done):
    assert rows(geventpg.send_batch(numbers(3), NAME)) == [[(0,)], [(1,)], [(2,)]]
    geventpg.send_batch(inserts("a", 2), NAME)
    assert done("a") == [0, 1]
    results = geventpg.send_batch(batch_of("select 1", "select 1/0"), NAME, atomic=False)
    assert [result.error is None for result in results] == [True, False]
    assert geventpg.get_pool(NAME).get_stats()["pool_available"] == 1


def test_inside_a_transaction_it_is_a_savepoint(done):
    with geventpg.transaction(NAME) as conn:
        conn.execute(INSERT, (1, "outer"))
        with pytest.raises(psycopg.errors.DivisionByZero) as caught:
            geventpg.send_batch(batch_of((INSERT, (1, "lost")), "select 1/0"), NAME)
        assert caught.value.index == 1
        geventpg.send_batch(inserts("inner", 2), NAME)
        assert done("inner") == []
        with pytest.raises(psycopg.ProgrammingError, match="atomic=False"):
            geventpg.send_batch(numbers(2), NAME, atomic=False)
    assert (done("outer"), done("lost"), done("inner")) == ([1], [], [0, 1])


def test_a_connection_that_the_greenlet_had_before_stays_its_own(done):
    with Scope():
        conn = geventpg.get_conn(NAME)
        conn.execute(INSERT, (1, "task"))
        geventpg.send_batch(inserts("batch", 1), NAME)
        assert geventpg.get_conn(NAME) is conn
        assert done("batch") == []  # committed with the task
    assert (done("task"), done("batch")) == ([1], [0])


SCRIPT = """
import sys, signal
import psycopg_pool
import geventpg
geventpg.configure(sys.argv[1], min_size=1, max_size=1, timeout=5)
assert type(geventpg.get_pool()) is psycopg_pool.ConnectionPool
assert not hasattr(geventpg.get_pool(), "send_batch")
batch = geventpg.Batch()
for number in range(1000):
    batch.queue("select %s::int", [number])
for atomic in (True, False):
    results = geventpg.send_batch(batch, atomic=atomic)
    assert [result.rows for result in results] == [[(number,)] for number in range(1000)]
batch.queue("select 1/0")
try:
    geventpg.send_batch(batch)
except Exception as error:
    print(type(error).__name__, error.index)

class SoftTimeLimit(Exception):
    pass

def limit(*args):
    raise SoftTimeLimit

signal.signal(signal.SIGALRM, limit)
batch = geventpg.Batch()
batch.queue("insert into things values (1, 'interrupted')")
batch.queue("select pg_sleep(30)")
for atomic in (True, False):
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        geventpg.send_batch(batch, atomic=atomic)
    except SoftTimeLimit:
        print("interrupted")
    with geventpg.get_conn() as conn:
        print(conn.pgconn.pipeline_status, conn.execute("select count(*) from things").fetchone())
"""


def test_without_gevent_it_works_on_psycopgs_pool(dsn):
    assert output_of(SCRIPT, dsn).splitlines() == [
        "DivisionByZero 1000",
        "interrupted",
        "0 (0,)",
        "interrupted",
        "0 (1,)",
    ]
