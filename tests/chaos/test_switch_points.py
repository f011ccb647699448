"""Every switch point of every operation, one after the other, hit by every kind of exception."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gevent
import pytest

from geventpg import Batch, Pool
from tests.chaos.switch_points import (
    EXCEPTIONS,
    MOMENTS,
    ThrowAtSwitch,
    engine_greenlets_running,
)
from tests.connection.helpers import Attempt
from tests.support import wait_until
from tests.support.invariants import check_counts, check_every_slot
from tests.support.pools import counts, give_back, hold_all

MAX_SIZE = 2
CANCEL_TIMEOUT = 2.0
MOST_POINTS = 300
SLOW = 0.8  # s that a statement takes unless it is cancelled
QUIET_WITHIN = 0.5  # s until it has been

CALLER = "the caller"
CONNECTOR = "_run"
CLEANER = "_clean"
PROBE = "_probe"
WATCHDOG = "_watch"


@dataclass
class Operation:
    """What is interrupted: *run*, after *prepare*; the greenlets that are hit, one kind a test."""

    name: str
    run: Callable[[Any], object]
    victims: tuple[str, ...] = (CALLER,)
    options: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[Any], object] = counts
    least_points: int = 1
    keeps: bool = False
    """What was interrupted is cancelled and drained: the connection lives on."""
    closes: bool = False


def use(work: Callable[[Any], object]) -> Callable[[Any], object]:
    def run(pool: Any) -> None:
        with pool.connection(timeout=5) as conn:
            work(conn)

    return run


def statement(conn):
    assert conn.execute("SELECT 1, pg_sleep(0.002)").fetchone()[0] == 1


def slow_statement(conn):
    conn.execute("SELECT pg_sleep(%s)", [SLOW])


def slow_copy_out(conn):
    with conn.cursor().copy(f"COPY (SELECT pg_sleep({SLOW})) TO STDOUT") as copy:
        for _ in copy:
            pass


def statement_in_a_transaction_block(conn):
    with conn.transaction():
        conn.execute("INSERT INTO chaos_points VALUES (1)")
        with conn.transaction():
            conn.execute("SELECT pg_sleep(0.001)")


def prepared_statement(conn):
    conn.execute("SELECT %s::int, pg_sleep(%s)", [1, 0.001], prepare=True)
    conn.execute("SELECT %s::int, pg_sleep(%s)", [1, 0.001])


def pipeline(conn):
    with conn.pipeline():
        conn.execute("SELECT 1")
        conn.execute("SELECT pg_sleep(0.001)").fetchone()


def executemany(conn):
    # Each of them takes the server a moment: answers that are there at once are not waited for.
    rows = [[number] for number in range(5)]
    for _ in range(2):
        conn.cursor().executemany("INSERT INTO chaos_points SELECT %s FROM pg_sleep(0.001)", rows)


def send_a_batch(pool, atomic):
    batch = Batch()
    batch.queue("INSERT INTO chaos_points VALUES (1)")
    batch.queue("SELECT repeat('x', 200000), %s", ["x" * 200_000])
    batch.queue("SELECT pg_sleep(0.001)")
    assert len(pool.send_batch(batch, atomic=atomic)) == 3


def batch_of_all(pool):
    send_a_batch(pool, True)


def batch_of_each(pool):
    send_a_batch(pool, False)


def copy_in(conn):
    with conn.cursor().copy("COPY chaos_points FROM STDIN") as copy:
        for _ in range(3):
            copy.write("1\n" * 50)
            gevent.sleep(0)


def copy_out(conn):
    with conn.cursor().copy("COPY (SELECT generate_series(1, 6000)) TO STDOUT") as copy:
        for _ in copy:
            pass


def stream(conn):
    for _ in conn.cursor().stream("SELECT generate_series(1, 500)"):
        pass


def acquire_from_another(pool):
    # All connections are held; one comes back a moment after we began to wait.
    held = hold_all(pool, MAX_SIZE)
    try:
        gevent.spawn_later(0.001, lambda: pool.putconn(held.pop()))
        pool.putconn(pool.getconn(timeout=5))
    finally:
        wait_until(lambda: len(held) < MAX_SIZE)
        give_back(pool, held)


def acquire(pool):
    pool.putconn(pool.getconn(timeout=5))


def forget_connections(pool):
    pool.drain()


def check_round_trip(conn):
    Pool.check_connection(conn)


def reset_round_trip(conn):
    conn.execute("RESET ALL")
    conn.commit()


def configure_round_trip(conn):
    conn.execute("SET statement_timeout = '30s'")
    conn.commit()


def leave_a_transaction_open(pool):
    conn = pool.getconn(timeout=5)
    try:
        conn.execute("INSERT INTO chaos_points VALUES (1)")
    finally:
        pool.putconn(conn)
    wait_until(lambda: counts(pool).idle == MAX_SIZE)


def return_with_a_reset(pool):
    acquire(pool)
    wait_until(lambda: counts(pool).idle == MAX_SIZE)


def shrink_and_grow(pool):
    pool.resize(0, 1)
    pool.resize(MAX_SIZE, MAX_SIZE)
    wait_until(lambda: counts(pool).idle == MAX_SIZE)


def drain(pool):
    conn = pool.getconn(timeout=5)
    pool.drain()
    pool.putconn(conn)
    pool.wait(timeout=5)


def wait_for_maintenance(pool):
    gevent.sleep(0.03)
    wait_until(lambda: counts(pool).idle == MAX_SIZE)


def close_with_work_under_way(pool):
    pool.putconn(pool.getconn(timeout=5))  # its reset is under way now
    pool.close(timeout=3)


OPERATIONS = [
    Operation("an acquire served by another", acquire_from_another),
    Operation(
        "an acquire that connects",
        acquire,
        victims=(CALLER, CONNECTOR),
        options={"min_size": 0, "configure": configure_round_trip},
        prepare=forget_connections,
    ),
    Operation("a validation", acquire, options={"check": check_round_trip}),
    Operation("a statement", use(statement), least_points=2, keeps=True),
    Operation("a prepared statement", use(prepared_statement), least_points=3, keeps=True),
    Operation("a transaction", use(statement_in_a_transaction_block), least_points=4, keeps=True),
    Operation("a pipeline", use(pipeline), least_points=2, keeps=True),
    Operation("executemany", use(executemany), least_points=2, keeps=True),
    Operation("a batch", batch_of_all, least_points=3, keeps=True),
    Operation("a batch, each for itself", batch_of_each, least_points=2, keeps=True),
    Operation("COPY in", use(copy_in), least_points=5, keeps=True),
    Operation("COPY out", use(copy_out), least_points=2, keeps=True),
    Operation("a stream", use(stream), least_points=2, keeps=True),
    Operation(
        "a return with a reset",
        return_with_a_reset,
        victims=(CLEANER,),
        options={"reset": reset_round_trip},
        least_points=2,
    ),
    Operation("a return that rolls back", leave_a_transaction_open, victims=(CALLER, CLEANER)),
    Operation("a resize", shrink_and_grow, victims=(CONNECTOR,)),
    Operation("a drain", drain, victims=(CALLER, CONNECTOR)),
    Operation("a check of the idle ones", Pool.check, victims=(CALLER, PROBE)),
    Operation(
        "maintenance",
        wait_for_maintenance,
        victims=(WATCHDOG, PROBE),
        options={"keepalive_interval": 0.01},
    ),
    Operation(
        "a close",
        close_with_work_under_way,
        victims=(CALLER, CLEANER),
        options={"reset": reset_round_trip},
        closes=True,
    ),
]


@pytest.fixture(autouse=True)
def table(admin):
    admin.execute("DROP TABLE IF EXISTS chaos_points")
    admin.execute("CREATE UNLOGGED TABLE chaos_points (n int)")
    yield
    admin.execute("DROP TABLE chaos_points")


@pytest.fixture
def open_pool(make_pool):
    """Return a function that makes a pool for an operation, and waits until it is full."""

    def make(operation: Operation) -> Any:
        sizes = {"min_size": MAX_SIZE, "max_size": MAX_SIZE}
        pool = make_pool(
            **{**sizes, "cancel_timeout": CANCEL_TIMEOUT, "probe_timeout": 1.0, **operation.options}
        )
        pool.wait()
        return pool

    return make


def victims_of(kind: str, attempt: Attempt) -> Callable[[Any], bool]:
    if kind == CALLER:
        return lambda thing: thing is attempt._greenlet
    return engine_greenlets_running(kind)


def check_afterwards(pool, backends, operation):
    wait_until(
        lambda: not counts(pool).in_use and not counts(pool).waiting,
        message=f"the pool has no holder and no waiter: {pool!r}",
    )
    assert check_counts(pool) == []
    if operation.closes:
        assert pool.closed
        wait_until(lambda: not backends(), message="a closed pool has no backends")
        return
    # Before anybody else could clean up: nothing runs, and no transaction was left open.
    wait_until(
        lambda: {backend.state for backend in backends()} <= {"idle"},
        timeout=QUIET_WITHIN,
        message="nothing is left behind on the server",
    )
    assert check_every_slot(pool) == []
    wait_until(lambda: len(backends()) <= MAX_SIZE, message="no more backends than max_size")


def cases():
    for operation in OPERATIONS:
        for victim in operation.victims:
            who = "" if victim == CALLER else f" in its {victim.strip('_')} greenlet"
            yield pytest.param(operation, victim, id=f"{operation.name}{who}".replace(" ", "-"))


@pytest.mark.parametrize(("operation", "victim"), list(cases()))
def test_an_exception_at_every_switch_point_loses_nothing(
    open_pool, backends, figures, operation, victim
):
    pool = None
    interrupted, slowest = 0, 0.0
    kinds = dict(EXCEPTIONS)
    if victim != CALLER:
        del kinds["ctrl-c"]  # which is the main greenlet's, and a user's own code's
    for make_error, moment in itertools.product(kinds.values(), MOMENTS):
        for number in range(1, MOST_POINTS):
            if pool is None or pool.closed:
                pool = open_pool(operation)
            operation.prepare(pool)
            before = {backend.pid for backend in backends()} if operation.keeps else set()
            attempt = Attempt(operation.run, pool)
            error = make_error()
            with ThrowAtSwitch(victims_of(victim, attempt), {number: error}, moment) as thrower:
                attempt.join(10)
            if thrower.delivered:
                interrupted += 1
                slowest = max(slowest, attempt.took)
            if victim == CALLER:
                # It comes out as it was thrown in; not thrown, there is nothing to come out.
                assert attempt.error is (error if thrower.delivered else None), (number, moment)
                assert not counts(pool).waiting
            else:
                assert attempt.error is None, (number, moment)
            check_afterwards(pool, backends, operation)
            assert before <= {backend.pid for backend in backends()}, (number, moment)
            if thrower.points < number:
                break
        else:
            raise AssertionError(f"more than {MOST_POINTS} switch points")
    figures.at_least(
        "switch points interrupted", interrupted, operation.least_points * 2 * len(kinds)
    )
    figures.at_most("slowest end of an interrupted one", slowest * 1000, 1000, "ms")


@pytest.mark.parametrize(
    "work",
    [slow_statement, slow_copy_out, statement_in_a_transaction_block, copy_in, copy_out, pipeline],
    ids=lambda work: work.__name__,
)
def test_a_second_exception_at_every_switch_point_of_the_cleaning_up_loses_nothing(
    open_pool, backends, figures, work
):
    autocommit = {"kwargs": {"autocommit": True}} if work in (slow_statement, slow_copy_out) else {}
    operation = Operation(work.__name__, use(work), options=autocommit)
    pool = open_pool(operation)
    twice, slowest = 0, 0.0
    for moment, first in itertools.product(MOMENTS, range(1, MOST_POINTS)):
        thrown_once = False
        for second in range(first + 1, MOST_POINTS):
            attempt = Attempt(operation.run, pool)
            errors = {first: gevent.Timeout(), second: gevent.GreenletExit()}
            with ThrowAtSwitch(victims_of(CALLER, attempt), errors, moment) as thrower:
                attempt.join(10)
            if thrower.delivered:
                slowest = max(slowest, attempt.took)
            # The last one thrown comes out, as from any `finally` block.
            expected = thrower.delivered[-1] if thrower.delivered else None
            assert attempt.error is expected, (first, second, moment)
            check_afterwards(pool, backends, operation)
            thrown_once = bool(thrower.delivered)
            if len(thrower.delivered) < 2:
                break
            twice += 1
        if not thrown_once:
            break
    figures.at_least("interrupted twice", twice, 4)
    figures.at_most("slowest end of an interrupted one", slowest * 1000, 1000, "ms")
