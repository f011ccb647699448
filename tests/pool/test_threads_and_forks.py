"""A pool belongs to one thread and survives a fork."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import gevent
import pytest
from gevent import monkey

from geventpg import Pool, WrongHub
from tests.support import wait_until
from tests.support.pools import counts, settled

ROOT = Path(__file__).parents[2]


def in_thread(function):
    """Run *function* in a real thread; return its result or the exception that it raised."""

    def call():
        try:
            return function()
        except BaseException as error:
            return error

    return gevent.get_hub().threadpool.apply(call)


# -- threads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["idle connections", "no idle connection"])
def test_a_checkout_in_another_thread_is_a_clear_error_and_never_hangs(make_pool, state):
    pool = make_pool(min_size=1, max_size=1, name="orders")
    pool.wait()
    conn = pool.getconn() if state == "no idle connection" else None
    outcome = in_thread(lambda: pool.getconn(timeout=5))
    assert isinstance(outcome, WrongHub)
    assert "'orders'" in str(outcome)
    assert "another thread" in str(outcome)
    if conn is not None:
        pool.putconn(conn)
    assert counts(pool)[:4] == (1, 1, 0, 0)


@pytest.mark.parametrize("method", ["wait", "check"])
def test_waiting_in_another_thread_is_a_clear_error(make_pool, method):
    pool = make_pool(min_size=1)
    outcome = in_thread(getattr(pool, method))
    assert isinstance(outcome, WrongHub)


def test_a_block_in_another_thread_is_a_clear_error(make_pool):
    pool = make_pool(min_size=1)
    pool.wait()

    def use():
        with pool.connection() as conn:
            return conn

    assert isinstance(in_thread(use), WrongHub)
    assert settled(pool, 1)


def test_statistics_can_be_read_from_another_thread(make_pool):
    pool = make_pool(min_size=1)
    pool.wait()
    assert in_thread(pool.get_stats)["pool_size"] == 1
    assert "size=1" in in_thread(lambda: repr(pool))


def test_a_thread_can_have_a_pool_of_its_own(dsn, backends):
    def use():
        with Pool(dsn, min_size=1, max_size=2) as pool:
            workers = [gevent.spawn(_select, pool) for _ in range(5)]
            gevent.joinall(workers, raise_error=True)
            return [worker.value for worker in workers]

    assert in_thread(use) == [(1,)] * 5
    wait_until(lambda: not backends())


def _select(pool):
    with pool.connection() as conn:
        return conn.execute("SELECT 1").fetchone()


def test_the_tests_run_patched():
    assert monkey.is_module_patched("socket")


# -- forks ---------------------------------------------------------------------------------------


def run_script(body, dsn):
    script = "import sys, os, gevent\nfrom gevent import monkey\nmonkey.patch_all()\n"
    script += "from tests.support.children import watch_children; watch_children()\n"
    script += "from geventpg import Pool\ndsn = sys.argv[1]\n" + textwrap.dedent(body)
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", script, dsn],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("in_use", [False, True])
@pytest.mark.parametrize("ending", ["os._exit(0)", "sys.exit(0)"])
def test_after_a_fork_parent_and_child_both_work_on_connections_of_their_own(
    dsn, backends, in_use, ending
):
    body = f"""
        pool = Pool(dsn, min_size=2, max_size=3, open=True)
        pool.wait()
        held = pool.getconn() if {in_use} else None
        if held: held.execute("SELECT 1")
        def pid():
            with pool.connection(timeout=5) as conn:
                conn.execute("SELECT pg_sleep(0.01)")
                return conn.info.backend_pid
        before = pid()
        child = os.fork()
        if child == 0:
            assert "size=0" in repr(pool), pool
            pids = {{pid() for _ in range(3)}}
            assert before not in pids
            del held
            print("child works", flush=True)
            {ending}
        _, status = os.waitpid(child, 0)
        assert status == 0, status
        for _ in range(3):
            assert pid() == before
        if held:
            held.execute("SELECT 1")
            held.rollback()
            pool.putconn(held)
        assert pool.get_stats()["connections_lost"] == 0
        print("parent works")
        pool.close()
    """
    result = run_script(body, dsn)
    assert (result.stdout, result.stderr) == ("child works\nparent works\n", "")
    assert result.returncode == 0
    wait_until(lambda: not backends())


def test_a_fork_while_others_wait_and_connect_leaves_both_processes_working(dsn, backends):
    body = """
        pool = Pool(dsn, min_size=1, max_size=1, open=True)
        conn = pool.getconn()
        waiters = [gevent.spawn(pool.getconn) for _ in range(3)]
        connecting = Pool(dsn, min_size=2, max_size=2, open=True)
        gevent.sleep(0.001)
        child = os.fork()
        if child == 0:
            for p in (pool, connecting):
                with p.connection(timeout=5) as c:
                    c.execute("SELECT 1")
            print("child works", flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert status == 0, status
        for _ in range(3):
            pool.putconn(conn)
            conn = waiters.pop(0).get(timeout=5)
            conn.execute("SELECT 1")
            conn.rollback()
        pool.putconn(conn)
        connecting.wait(timeout=5)
        print("parent works")
        pool.close()
        connecting.close()
    """
    result = run_script(body, dsn)
    assert (result.stdout, result.stderr) == ("child works\nparent works\n", "")
    wait_until(lambda: not backends())


def test_a_pool_closed_in_the_child_is_open_in_the_parent(dsn, backends):
    body = """
        pool = Pool(dsn, min_size=2, max_size=2, open=True)
        pool.wait()
        child = os.fork()
        if child == 0:
            pool.close()
            os._exit(0)
        os.waitpid(child, 0)
        with pool.connection(timeout=5) as conn:
            print(conn.execute("SELECT 1").fetchone(), pool.get_stats()["connections_num"])
        pool.close()
    """
    result = run_script(body, dsn)
    assert (result.stdout, result.stderr) == ("(1,) 2\n", "")
