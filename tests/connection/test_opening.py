"""Attempts to connect compute: they share each turn of the hub with all other greenlets."""

from __future__ import annotations

import socket
import time
from contextlib import contextmanager

import gevent
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

import geventpg
from geventpg import hub
from tests.connection.helpers import Attempt
from tests.support.stalls import HubTicker

READ = 1
LONG = 0.004
STEPS = 4


@pytest.fixture
def turns():
    """Return a function that tells how often the hub has looked at its sockets."""
    count = 0

    def count_one() -> None:
        nonlocal count
        count += 1

    watcher = gevent.get_hub().loop.prepare()
    watcher.start(count_one)
    yield lambda: count
    watcher.close()


@contextmanager
def ready_socket():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"x")
        yield ours.fileno()


def steps(fd, computing, note):
    """A connection that is opened in some steps, each of which computes for a while."""
    for _ in range(STEPS):
        assert (yield fd, READ) == READ
        note()
        until = time.monotonic() + computing
        while time.monotonic() < until:
            pass
    return fd


def open_at_once(number, computing, note):
    """Return the greenlets that open *number* connections, all in the same turn of the hub."""

    def one():
        with ready_socket() as fd:
            gen = steps(fd, computing, note)
            return hub.drive_connecting(gen, time.monotonic() + 20) == fd

    return [Attempt(one) for _ in range(number)]


def test_two_long_computations_are_never_in_one_turn(turns):
    at = []
    opening = open_at_once(10, LONG, lambda: at.append(turns()))
    assert all(one.join().result is True for one in opening)
    assert len(set(at)) == len(at) == 10 * STEPS


def test_short_ones_share_a_turn(turns):
    at = []
    opening = open_at_once(10, 0, lambda: at.append(turns()))
    assert all(one.join().result is True for one in opening)
    assert len(at) == 10 * STEPS
    assert len(set(at)) < 10 * STEPS / 2


@pytest.mark.parametrize("killed", [range(1, 10), range(9), [0, 4, 9]], ids=str)
def test_those_whose_turn_it_is_not_can_be_killed(killed):
    opening = open_at_once(10, LONG, lambda: None)
    gevent.sleep(LONG)
    assert not any(one.over for one in opening)
    for number in killed:
        opening[number].throw(gevent.GreenletExit())
    for number, one in enumerate(opening):
        one.join()
        if number in killed:
            assert isinstance(one.error, gevent.GreenletExit)
        else:
            assert one.result is True


def test_those_whose_turn_it_is_not_end_at_their_deadline():
    opening = open_at_once(10, LONG, lambda: None)
    with ready_socket() as fd:
        gen = steps(fd, 0, lambda: pytest.fail("it was too late"))
        late = Attempt(hub.drive_connecting, gen, time.monotonic() - 1)
        assert isinstance(late.join().error, hub.DeadlineReached)
    assert all(one.join().result is True for one in opening)


def test_the_hub_is_held_for_one_proof_of_a_password_at_a_time(dsn, admin):
    if admin.info.server_version < 160_000:
        pytest.skip("scram_iterations came with PostgreSQL 16")
    # 50,000 rounds instead of 4,096: each proof takes libpq 25 ms and more.
    role = sql.Identifier("laborious")
    admin.execute("set scram_iterations = 50000")
    admin.execute(sql.SQL("create role {} login password 'secret'").format(role))
    laborious = make_conninfo(dsn, user="laborious", password="secret")
    try:
        with HubTicker() as ticker:
            begun = time.thread_time()
            opening = [Attempt(geventpg.Connection.connect, laborious) for _ in range(8)]
            for one in opening:
                one.join().result.close()
            computed = time.thread_time() - begun
    finally:
        admin.execute(sql.SQL("drop role {}").format(role))
    assert ticker.longest < computed / 2
