"""The test kit itself: what it promises to catch, it catches."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from celery import Celery

from tests.support import wait_until

ROOT = Path(__file__).parent.parent


@pytest.fixture
def run_tests(tmp_path):
    """Return a function that runs pytest with this conftest on a source text."""

    def run(source: str, *more: str, **env: str) -> subprocess.CompletedProcess[str]:
        file = tmp_path / "test_inner.py"
        file.write_text("import pytest, gevent, gevent.event, time\n" + textwrap.dedent(source))
        options = ["-p", "tests.conftest", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
        environment = {k: v for k, v in os.environ.items() if k not in ("CI", "GEVENTPG_TEST_SEED")}
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-c", "pyproject.toml", *options, *more, str(file)],
            cwd=ROOT,
            env={**environment, **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_a_test_that_waits_for_ever_fails_with_all_stacks_and_the_next_one_runs(run_tests):
    result = run_tests(
        """
        @pytest.mark.hang_limit(0.5)
        def test_hangs():
            def a_greenlet_that_is_stuck():
                gevent.event.Event().wait(100)
            gevent.spawn(a_greenlet_that_is_stuck).join()

        def test_next():
            pass
        """
    )
    assert "1 failed, 1 passed" in result.stdout
    assert "HungTest" in result.stdout
    assert "a_greenlet_that_is_stuck" in result.stdout


def test_a_test_that_blocks_the_hub_ends_the_run_with_its_stack(run_tests):
    result = run_tests(
        """
        from gevent import monkey

        @pytest.mark.hang_limit(0.5)
        def test_blocks():
            monkey.get_original("time", "sleep")(100)
        """
    )
    assert result.returncode != 0
    assert "test_blocks" in result.stderr
    assert "Timeout" in result.stderr


def test_a_skip_is_a_failure_in_ci_only(run_tests):
    source = """
        def test_skips():
            pytest.skip("no such server: apt-get install it")
        """
    assert "1 skipped" in run_tests(source).stdout
    result = run_tests(source, CI="true")
    assert result.returncode == 1
    assert "which CI does not allow" in result.stdout
    assert "apt-get install it" in result.stdout


@pytest.mark.parametrize("options", [(), ("-n", "1")], ids=["one process", "xdist"])
def test_a_missing_program_is_a_skip_and_the_end_of_the_run_says_what_to_install(
    run_tests, options
):
    source = """
        from geventpg.testing.programs import require_program

        @pytest.fixture(scope="module")
        def pooler():
            return require_program("pgbouncer")

        @pytest.mark.parametrize("number", [1, 2])
        def test_needs_one_by_its_fixture(pooler, number):
            pass

        def test_needs_another():
            require_program("pg_config")
        """
    result = run_tests(source, *options, GEVENTPG_HIDE_PROGRAMS="all", CI="true")
    assert result.returncode == 0, result.stdout
    assert "3 skipped" in result.stdout
    lines = result.stdout.splitlines()
    assert "skipped, because this machine lacks a program" in lines[-4]
    assert lines[-3:-1] == [
        "pg_config: apt-get install postgresql (1 tests)",
        "pgbouncer: apt-get install pgbouncer (2 tests)",
    ]


def test_a_hidden_program_is_no_licence_to_skip_other_things_in_ci(run_tests):
    source = "def test_skips():\n    pytest.skip('there is no server')"
    result = run_tests(source, GEVENTPG_HIDE_PROGRAMS="all", CI="true")
    assert result.returncode == 1
    assert "which CI does not allow" in result.stdout


def test_a_skipped_module_is_a_failure_in_ci(run_tests):
    result = run_tests('pytest.importorskip("no_such_module")', CI="true")
    assert result.returncode != 0
    assert "which CI does not allow" in result.stdout


def test_the_seed_is_told_when_a_random_test_fails_and_repeats_it(run_tests):
    source = "def test_random(rng):\n    number = rng.random()\n    assert number < 0"
    first, second = (run_tests(source, GEVENTPG_TEST_SEED="7").stdout for _ in range(2))
    assert "GEVENTPG_TEST_SEED=7" in first
    numbers = [line for line in first.splitlines() if line.startswith("E")]
    assert numbers == [line for line in second.splitlines() if line.startswith("E")]


def test_a_broken_invariant_is_an_error_and_the_pool_is_closed(run_tests):
    result = run_tests(
        """
        import sys, types

        class Pool:
            closed = False
            max_size = 2
            def __repr__(self):
                return (
                    "<Pool size=3 idle=1 in_use=2 waiting=4 connecting=0 min_size=1 max_size=2>"
                )
            def get_stats(self):
                return {"pool_size": 3, "pool_available": 1, "requests_waiting": 4}
            def close(self, timeout):
                Pool.closed = True

        @pytest.fixture(scope="module", autouse=True)
        def fake():
            module = sys.modules["geventpg"]
            original = getattr(module, "Pool", None)
            module.Pool = Pool
            yield
            if original is None:
                del module.Pool
            else:
                module.Pool = original

        pools = []

        def test_breaks():
            pools.append(sys.modules["geventpg"].Pool())

        def test_closed():
            assert Pool.closed

        @pytest.mark.no_invariants
        def test_may():
            pools.append(sys.modules["geventpg"].Pool())
        """
    )
    assert "3 passed, 1 error" in result.stdout
    assert "size 3 is over max_size 2" in result.stdout
    assert "a greenlet still waits" in result.stdout


def test_a_backend_left_at_work_is_an_error(run_tests):
    result = run_tests(
        """
        import psycopg
        kept = []

        def test_leaves_a_statement_running(dsn):
            conn = psycopg.connect(dsn, autocommit=True)
            kept.append(conn)
            conn.pgconn.send_query(b"SELECT pg_sleep(4)")
        """
    )
    assert "1 passed, 1 error" in result.stdout
    assert "is still active with 'SELECT pg_sleep(4)'" in result.stdout


@pytest.mark.parametrize("pool", ["gevent", "prefork", "threads", "solo"])
def test_a_real_worker_runs_tasks_and_stops_warmly(celery_worker, redis_server, pool):
    env = {"BROKER_URL": redis_server.url}
    queue = f"queue-{pool}"
    worker = celery_worker(
        "tests.apps.plain", pool=pool, concurrency=2, env=env, args=["-Q", queue]
    )
    with Celery(broker=redis_server.url, backend=redis_server.url) as app:
        result = app.send_task("tests.apps.plain.add", [1, 2], queue=queue)
        assert result.get(timeout=10) == 3
    assert worker.stop("warm") == 0
    assert "succeeded" in worker.log


def test_a_worker_can_be_stopped_coldly_and_killed(celery_worker, redis_server):
    env = {"BROKER_URL": redis_server.url}
    workers = [
        celery_worker("tests.apps.plain", env=env, args=["-Q", f"queue-{how}"])
        for how in ("cold", "kill")
    ]
    with Celery(broker=redis_server.url, backend=redis_server.url) as app:
        for how in ("cold", "kill"):
            app.send_task("tests.apps.plain.doze", [100], queue=f"queue-{how}")
    for worker in workers:
        worker.wait_for_log("doze.* received")
    workers[0].stop("cold")
    assert workers[1].stop("kill") == -9
    wait_until(lambda: all(worker.returncode is not None for worker in workers))


def test_a_worker_that_does_not_start_fails_with_its_log(celery_worker):
    worker = celery_worker("tests.apps.no_such_app", start=False)
    with pytest.raises(AssertionError, match="no_such_app"):
        worker.start()
