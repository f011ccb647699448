"""Thousands of interruptions at random moments: nothing is lost, nothing runs on."""

from __future__ import annotations

import contextlib
import random
import time

import gevent
import psycopg
import pytest
from gevent.event import Event

from geventpg import Pool
from tests.support import wait_until
from tests.support.invariants import check_counts, check_every_slot
from tests.support.pools import backend_pid, counts, sampling

MAX_SIZE = 8


class Interrupted(Exception):
    """An application's own way of ending a greenlet."""


@pytest.fixture
def table(admin):
    """Return the name of a table with one integer column."""
    admin.execute("DROP TABLE IF EXISTS pool_storm")
    admin.execute("CREATE UNLOGGED TABLE pool_storm (n int)")
    yield "pool_storm"
    admin.execute("DROP TABLE pool_storm")


def query(conn, rng):
    conn.execute("SELECT 1")


def slow_query(conn, rng):
    conn.execute("SELECT pg_sleep(%s)", [rng.random() * 0.02])


def several_queries(conn, rng):
    for _ in range(3):
        conn.execute("SELECT generate_series(1, 100)").fetchall()


def transaction(conn, rng):
    with conn.transaction():
        conn.execute("INSERT INTO pool_storm VALUES (1)")
        with conn.transaction():
            conn.execute("SELECT pg_sleep(0.001)")


def copy_out(conn, rng):
    with conn.cursor().copy("COPY (SELECT generate_series(1, 20000)) TO STDOUT") as copy:
        for _ in copy:
            pass


def copy_in(conn, rng):
    with conn.cursor().copy("COPY pool_storm FROM STDIN") as copy:
        for i in range(200):
            copy.write_row([i])
            if i % 50 == 0:
                gevent.sleep(0)


def pipeline(conn, rng):
    with conn.pipeline():
        for _ in range(5):
            conn.execute("SELECT pg_sleep(0.001)")


def server_side_cursor(conn, rng):
    # By hand: psycopg warns of a named cursor whose own close was interrupted.
    conn.execute("DECLARE storm CURSOR FOR SELECT generate_series(1, 100)")
    while conn.execute("FETCH 20 FROM storm").fetchall():
        pass
    conn.execute("CLOSE storm")


def stream(conn, rng):
    for _ in conn.cursor().stream("SELECT generate_series(1, 500)"):
        pass


def failing(conn, rng):
    conn.execute("SELECT 1/0")


def raising(conn, rng):
    conn.execute("SELECT 1")
    raise Interrupted


def closing(conn, rng):
    conn.close()


WORK = [
    query,
    slow_query,
    several_queries,
    transaction,
    copy_out,
    copy_in,
    pipeline,
    server_side_cursor,
    stream,
    failing,
    raising,
    closing,
]


class Storm:
    """Greenlets that use *pool*, and others that interrupt them."""

    def __init__(self, pool, rng, backends, work=WORK):
        self.pool = pool
        self.rng = rng
        self.backends = backends
        self.work = work
        self.endings: dict[str, int] = {}
        self.failures: list[BaseException] = []

    def one_use(self, timeout):
        limit = gevent.Timeout(timeout) if timeout else contextlib.nullcontext()
        with limit:
            if self.rng.random() < 0.3:
                conn = self.pool.getconn(timeout=self.rng.choice([0.005, 0.05, 5]))
                work = self.rng.choice(self.work)
                try:
                    work(conn, self.rng)
                finally:
                    is_back = work is closing and self.pool.close_returns
                    refused = pytest.raises(ValueError, match="twice")
                    with refused if is_back else contextlib.nullcontext():
                        self.pool.putconn(conn)
            else:
                with self.pool.connection(timeout=self.rng.choice([0.005, 0.05, 5])) as conn:
                    self.rng.choice(self.work)(conn, self.rng)

    def use(self):
        timeout = self.rng.choice([0, 0, self.rng.random() * 0.02])
        ending = "killed"
        try:
            self.one_use(timeout)
            ending = "returned"
        except (gevent.Timeout, Interrupted, psycopg.Error) as error:
            ending = type(error).__name__
        except Exception as error:
            self.failures.append(error)
        finally:
            self.endings[ending] = self.endings.get(ending, 0) + 1

    def blow(self, number, at_once=40, meanwhile=lambda: None):
        """Run *number* uses, killing some of their greenlets at random moments."""
        living: list[gevent.Greenlet] = []
        started = 0
        while started < number or living:
            living = [greenlet for greenlet in living if not greenlet.dead]
            while started < number and len(living) < at_once:
                living.append(gevent.spawn(self.use))
                started += 1
            for _ in range(self.rng.randint(0, 4)):
                if living and self.rng.random() < 0.5:
                    self.rng.choice(living).kill(block=False)
            meanwhile()
            gevent.sleep(self.rng.choice([0, 0, 0.001, 0.003]))

    def check_afterwards(self):
        """Check that nothing was lost, that nothing runs on, and that no use failed otherwise."""
        assert self.failures == []
        wait_until(lambda: counts(self.pool).in_use == 0 and not counts(self.pool).waiting)
        assert check_every_slot(self.pool) == []
        assert check_counts(self.pool) == []
        wait_until(lambda: not [b for b in self.backends() if b.state != "idle"])
        assert len(self.backends()) <= self.pool.max_size

    def sampled(self):
        """Return a context in which sizes are looked at all the time."""

        def sample():
            assert check_counts(self.pool) == []

        def sample_server():
            # Closed connections live on for a moment on the server.
            wait_until(lambda: len(self.backends()) <= self.pool.max_size, timeout=1)

        stack = contextlib.ExitStack()
        stack.enter_context(sampling(sample, 0.001))
        stack.enter_context(sampling(sample_server, 0.02))
        return stack


# -- the storms ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("sizes", [(1, 1), (0, 3), (2, MAX_SIZE)])
def test_interruptions_at_random_moments_lose_nothing(
    make_pool, rng, backends, table, *, seed, sizes
):
    rng = random.Random(f"{rng.random()}:{seed}")
    pool = make_pool(min_size=sizes[0], max_size=sizes[1], cancel_timeout=3.0)
    storm = Storm(pool, rng, backends)
    with storm.sampled():
        storm.blow(1000)
    storm.check_afterwards()
    assert storm.endings["killed"] > 20
    assert storm.endings["Timeout"] > 5
    assert storm.endings["returned"] > 20


@pytest.mark.parametrize("ending", ["return", "exception", "kill", "time-out"])
def test_two_thousand_greenlets_of_one_ending_leave_every_connection(
    make_pool, backends, ending, rng
):
    pool = make_pool(min_size=2, max_size=5, cancel_timeout=3.0, timeout=60.0)

    def work():
        with contextlib.suppress(Interrupted, gevent.Timeout):
            limit = gevent.Timeout(rng.random()) if ending == "time-out" else None
            with limit or contextlib.nullcontext(), pool.connection() as conn:
                conn.execute("SELECT 1")
                if ending == "exception":
                    raise Interrupted

    greenlets = [gevent.spawn(work) for _ in range(2000)]
    if ending == "kill":
        rng.shuffle(greenlets)
        for greenlet in greenlets:
            greenlet.kill(block=False)
            if rng.random() < 0.2:
                gevent.sleep(0)
    gevent.joinall(greenlets)
    assert not [g for g in greenlets if g.exception is not None]
    Storm(pool, rng, backends).check_afterwards()
    assert len(backends()) <= 5


def check_round_trip(conn):
    Pool.check_connection(conn)


def check_that_sometimes_refuses(conn):
    conn.execute("SELECT 1")
    conn.rollback()
    # Not in step with the whole seconds that the pool pauses after a refusal.
    if time.monotonic() % 0.7 < 0.035:
        raise Interrupted("not in the mood")


def reset_round_trip(conn):
    conn.execute("RESET ALL")
    conn.commit()


@pytest.mark.parametrize(
    "options",
    [
        {"check": check_round_trip},
        {"check": check_that_sometimes_refuses},
        {"reset": reset_round_trip},
        {"check": check_round_trip, "reset": reset_round_trip, "use_lifo": False},
        {"max_lifetime": 0.03},
        {"max_idle": 0.02, "keepalive_interval": 0.01},
        {"leak_threshold": 0.001},
        {"kwargs": {"autocommit": True}},
        {"kwargs": {"prepare_threshold": 0}},
        {"connection_class": psycopg.Connection, "close_returns": True},
    ],
    ids="+".join,
)
def test_interruptions_lose_nothing_with(make_pool, rng, backends, table, options):
    pool = make_pool(min_size=1, max_size=4, cancel_timeout=3.0, **options)
    storm = Storm(pool, rng, backends)
    with storm.sampled():
        storm.blow(500)
    storm.check_afterwards()


def test_interruptions_lose_nothing_while_the_server_ends_random_backends(
    make_pool, rng, backends, table, admin
):
    pool = make_pool(min_size=2, max_size=5, cancel_timeout=3.0)
    storm = Storm(pool, rng, backends)
    done = Event()

    def executioner():
        while not done.is_set():
            alive = backends()
            if alive:
                admin.execute("SELECT pg_terminate_backend(%s)", [rng.choice(alive).pid])
            gevent.sleep(0.01)

    killer = gevent.spawn(executioner)
    with storm.sampled():
        storm.blow(800)
    done.set()
    killer.join()
    storm.check_afterwards()


def test_interruptions_lose_nothing_while_the_pool_is_resized_drained_and_checked(
    make_pool, rng, backends, table
):
    pool = make_pool(min_size=2, max_size=5, cancel_timeout=3.0)
    storm = Storm(pool, rng, backends)
    helpers = []

    def meddle():
        dice = rng.random()
        if dice < 0.05:
            pool.resize(rng.randint(0, 2), rng.randint(2, 6))
        elif dice < 0.08:
            pool.drain()
        elif dice < 0.11:
            helpers.append(gevent.spawn(pool.check))
        elif dice < 0.15 and helpers:
            helpers.pop().kill(block=False)

    storm.blow(800, meanwhile=meddle)
    gevent.joinall(helpers)
    pool.resize(1, 4)
    wait_until(lambda: counts(pool).size <= 4)
    storm.check_afterwards()


def test_interruptions_over_a_bad_network_lose_nothing(
    make_pool, rng, backends, table, *, proxy, dsn
):
    pool = make_pool(
        proxy.dsn(dsn), min_size=1, max_size=4, cancel_timeout=1.0, keepalive_interval=0.05,
        probe_timeout=0.2,
    )  # fmt: skip
    storm = Storm(pool, rng, backends, work=[w for w in WORK if w is not copy_out])

    def meddle():
        dice = rng.random()
        if dice < 0.02:
            proxy.drop_connections(reset=dice < 0.01)
        elif dice < 0.04:
            proxy.stop()
            gevent.sleep(0.01)
            proxy.start()
        elif dice < 0.06:
            proxy.stall()
            gevent.sleep(0.03)
            proxy.resume()
        elif dice < 0.08:
            proxy.delay(rng.choice([0, 0.002]))

    storm.blow(500, meanwhile=meddle)
    proxy.delay(0)
    storm.check_afterwards()


def test_interruptions_while_connecting_lose_nothing(make_pool, rng, backends, proxy, dsn):
    proxy.delay(0.005)
    pool = make_pool(proxy.dsn(dsn), min_size=0, max_size=3, max_idle=0.02, max_lifetime=0.05)
    storm = Storm(pool, rng, backends, work=[query, raising])
    with storm.sampled():
        storm.blow(250, at_once=5)
    proxy.delay(0)
    storm.check_afterwards()


def test_no_result_reaches_the_wrong_user(make_pool, rng, backends):
    pool = make_pool(min_size=2, max_size=4, cancel_timeout=3.0)
    wrong = []

    def work(i):
        with contextlib.suppress(gevent.Timeout), gevent.Timeout(rng.random() * 0.03):
            for n in range(5):
                with pool.connection() as conn:
                    marker = i * 10 + n
                    cursor = conn.execute(
                        "SELECT %s::int, pg_sleep(%s)", [marker, rng.random() * 0.003]
                    )
                    found = cursor.fetchone()[0]
                    if found != marker:
                        wrong.append((marker, found))

    for _ in range(10):
        greenlets = [gevent.spawn(work, i) for i in range(60)]
        gevent.joinall(greenlets)
        errors = [g.exception for g in greenlets if g.exception is not None]
        assert errors == []  # a late cancel would show as QueryCanceled of an innocent
    assert wrong == []
    Storm(pool, rng, backends).check_afterwards()


def test_a_late_cancel_never_hits_the_next_user(make_pool, rng):
    pool = make_pool(min_size=1, max_size=1, cancel_timeout=3.0)
    pid = None
    for _ in range(100):
        with (
            contextlib.suppress(gevent.Timeout),
            gevent.Timeout(rng.random() * 0.004),
            pool.connection() as conn,
        ):
            conn.execute("SELECT pg_sleep(0.002)")
        with pool.connection() as conn:
            assert conn.execute("SELECT 42").fetchone() == (42,)
            conn.execute("SELECT pg_sleep(0.001)")
            pid = pid or backend_pid(conn)
