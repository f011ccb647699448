"""Everything at once, at random: every answer is the one that psycopg gives, or a true error."""

from __future__ import annotations

import itertools
import os

import gevent
import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

import geventpg
from tests.chaos.form import pick
from tests.conftest import SEED
from tests.statements.helpers import at_rest, echo, stats
from tests.support import wait_until

pytestmark = pytest.mark.hang_limit(1200)

GREENLETS = 40
ACCEPTED = (geventpg.CommitUnknown, geventpg.PoolTimeout)
"""What may come in place of an answer where connections are cut and time is short."""

_marks = itertools.count()


def statement(rng):
    """Return a statement, its parameters, and options; no two statements have the same answer."""
    mark = f"{os.getpid()}.{next(_marks)}"
    kind = rng.random()
    options = {
        "binary": rng.random() < 0.2,
        "prepare": rng.choice([None, None, True, False]),
        "row_factory": rng.choice([None, None, dict_row]),
    }
    if kind < 0.35:
        return "select %s::text as mark, %s::int8 as n", (mark, rng.randrange(2**40)), options
    if kind < 0.5:
        value = rng.choice(
            [None, "", "a", True, 2**62, 1.5, b"\0\1", [1, None], [["x"]], Jsonb({})]
        )
        return "select %(mark)s::text as mark, %(v)s as v", {"mark": mark, "v": value}, options
    if kind < 0.6:
        # The same text with other types is another statement for the server.
        value = rng.choice([1, 40_000, 2**40, "7", 1.0])
        return "select %s::text as mark, %s + 1 as v", (mark, value), options
    if kind < 0.7:
        count = rng.choice([0, 1, 5, 2000])
        return "select %s::text as mark, generate_series(1, %s::int) as g", (mark, count), options
    if kind < 0.75:
        size = rng.choice([70_000, 300_000])
        return "select %s::text as mark, %s::text as v", (mark, mark * (size // len(mark))), options
    if kind < 0.8:
        return "select %s::text as mark, repeat('x', %s::int) as v", (mark, 200_000), options
    if kind < 0.85:
        return "select %s::text as mark, pg_sleep(%s) is null", (mark, 0.03), options
    if kind < 0.9:
        return "select %s::text as mark, 1 / %s::int", (mark, rng.choice([0, 0, 1])), options
    wrong = rng.choice(["select %s::int", "selec %s", "select nothing, %s", "select %s, %s"])
    return wrong, (mark,), options


def outcome(function):
    """Return what *function* returns, or its error in a form that can be compared."""
    try:
        return function()
    except (psycopg.Error, TypeError) as error:
        if isinstance(error, (*ACCEPTED, psycopg.InterfaceError)):
            raise
        text = error.diag.message_primary if isinstance(error, psycopg.Error) else str(error)
        return type(error), getattr(error, "sqlstate", None), text


class Comparison:
    """The same statement through a pool and through a plain connection."""

    def __init__(self, pool, plain, rng):
        self.pool = pool
        self.plain = plain
        self.rng = rng
        self.same = self.unanswered = self.killed = 0
        self.trouble: list[str] = []

    def one(self, rng, *, harmed):
        """Compare one; *harmed*: errors of lost connections, kills and time-outs may come."""
        query, params, options = statement(rng)
        method = rng.choice(["fetch_all", "fetch_one", "fetch_val", "execute"])
        limits = {"idempotent": rng.random() < 0.5}
        if harmed and rng.random() < 0.1:
            limits["timeout"] = rng.choice([0.001, 0.005, 0.02])
        if method == "fetch_val":
            del options["row_factory"]
        ask = getattr(self.pool, method)
        try:
            got = outcome(lambda: ask(query, params, **options, **limits))
        except ACCEPTED:
            if not harmed:
                raise
            self.unanswered += 1
            return
        if isinstance(got, geventpg.Result):
            got = got.rows
        expected = outcome(lambda: self._plainly(method, query, params, options))
        if repr(got) != repr(expected):
            self.trouble.append(f"{method} {query} {params!r:.80}: {got!r:.200} {expected!r:.200}")
        self.same += 1

    def _plainly(self, method, query, params, options):
        options = dict(options)
        factory = options.pop("row_factory", None) or psycopg.rows.tuple_row
        with self.plain.connection() as conn, conn.cursor(row_factory=factory) as cur:
            cur.execute(query, params, **options)
            if method == "fetch_one":
                return cur.fetchone()
            if method == "fetch_val":
                row = cur.fetchone()
                return row[0] if row else None
            return cur.fetchall()

    def run(self, *, rounds, harmed):
        """Have many greenlets compare, and let some of them be killed, if *harmed*."""

        def work(number):
            rng = type(self.rng)(f"{SEED}:{number}:{harmed}")
            for _ in range(rounds):
                try:
                    self.one(rng, harmed=harmed)
                except gevent.GreenletExit:
                    self.killed += 1

        greenlets = [gevent.spawn(work, number) for number in range(GREENLETS)]
        while harmed and not all(greenlet.dead for greenlet in greenlets):
            gevent.sleep(self.rng.random() * 0.03)
            victim = self.rng.choice(greenlets)
            victim.kill(block=False)
        gevent.joinall(greenlets, raise_error=True)
        assert not self.trouble, "\n".join(self.trouble[:20])


@pytest.fixture
def plain(make_pool):
    """Return a pool for the comparison: nothing happens to its connections."""
    return make_pool(max_size=8, timeout=60, kwargs={"autocommit": True})


@pytest.mark.parametrize("connections", [1, 2])
def test_many_greenlets_with_all_kinds_of_statements(make_pool, plain, rng, connections):
    pool = make_pool(max_size=4, timeout=60, statement_connections=connections)
    comparison = Comparison(pool, plain, rng)
    comparison.run(rounds=pick(short=8, long=400), harmed=False)
    assert comparison.same == GREENLETS * pick(short=8, long=400)
    assert stats(pool).sent > stats(pool).spilled
    wait_until(lambda: at_rest(pool))


def test_the_same_with_kills_time_outs_and_connections_that_are_cut(
    make_pool, plain, rng, proxy, dsn
):
    pool = make_pool(proxy.dsn(dsn), max_size=4, timeout=60)
    comparison = Comparison(pool, plain, rng)
    stop = False

    def harm():
        while not stop:
            gevent.sleep(rng.random() * 0.3)
            proxy.drop_connections(reset=rng.random() < 0.5)

    harmer = gevent.spawn(harm)
    try:
        comparison.run(rounds=pick(short=8, long=400), harmed=True)
    finally:
        stop = True
        harmer.join()
    assert min(comparison.same, comparison.unanswered, comparison.killed) > 0
    wait_until(lambda: at_rest(pool), timeout=20)
    assert echo(pool, idempotent=True)
