"""``make psycopg-tests``: psycopg's tests on `geventpg.Pool` and `geventpg.Connection`, on gevent.

They come from psycopg's repository, because they are in none of its sdists: those of the
synchronous pool and those of whatever executes something on a synchronous connection. The same
tests run on psycopg's own classes without gevent; every test must have the same outcome on both.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psycopg

from geventpg.testing.programs import find_program
from tests.support.system_postgres import SystemPostgres, find_server_with
from tests.upstream.outcomes import Results, compare, run_pytest

REPOSITORY = "https://github.com/psycopg/psycopg"
RUNNERS = {
    "stock": ["-m", "pytest"],
    "geventpg": [str(Path(__file__).with_name("psycopg_runner.py"))],
}
EXTENSIONS = ("hstore",)

POOL = ["tests/pool/test_pool.py", "tests/pool/test_pool_common.py"]
_NAMES = """
    adapt column concurrency connection connection_info copy cursor cursor_client cursor_common
    cursor_raw cursor_server errors notify pipeline prepared psycopg_dbapi20 query rows sql tpc
    transaction typeinfo xid
"""
CONNECTION = [*(f"tests/test_{name}.py" for name in _NAMES.split()), "tests/types"]
_REASONS = {
    "deliberate: see docs/differences.md": """
        test_connect_no_check test_reconnect test_reconnect_failure test_max_lifetime test_resize
    """,
    "passes with use_lifo=False": "test_uniform_use",
    "private attributes of psycopg_pool's engine": """
        test_shrink test_concurrent_filling test_close_no_tasks test_del_stops_threads
    """,
    "TCP keepalive settings have defaults": "test_get_connection_params",
    "the same, or it replaces psycopg's resolver": "test_connect_args",
    "it replaces psycopg's resolver": "test_resolve_hostaddr_conn",
    "connect_timeout covers all hosts together": "test_multi_hosts test_multi_hosts_timeout",
    "cursors are subclasses of psycopg's": """
        test_cursor_factory test_server_cursor_factory test_default_cursor test_str
    """,
    "BEGIN leaves with the first statement": "test_named_savepoints_successful_exit",
    "a connection lost inside a transaction is an error at its end": """
        test_transaction_status test_nested_transaction_status
    """,
    "numbers of prepared statements have gaps": "test_evict_lru",
}
# The names of those that differ, whole, and why: docs/differences.md says more.
EXPECTED = {rf"\b{name}\b": why for why, names in _REASONS.items() for name in names.split()}
# A greenlet that spins without ever waiting for anything: under gevent it never ends.
ENDLESS = "test_commit_concurrency"


def clone(folder: Path) -> Path:
    """Return psycopg's source at the version that is installed, from its repository."""
    source = folder / "psycopg"
    options = ("--quiet", "--depth=1", f"--branch={psycopg.__version__}")
    git = find_program("git")
    command = [git, "-c", "advice.detachedHead=false", "clone", *options, REPOSITORY, str(source)]
    if git is None or subprocess.run(command, check=False).returncode:
        sys.exit(f"{REPOSITORY} could not be cloned; --source takes a folder that has it")
    return source


def run(way: str, source: Path, folder: Path, dsn: str, arguments: Sequence[str]) -> Results:
    """Run the tests in one way and return their outcomes."""
    path = folder / "path"
    path.mkdir(exist_ok=True)
    # The proxy of their tests uses uvloop if there is one, and does not start with a recent one.
    (path / "uvloop.py").write_text("raise ModuleNotFoundError\n")
    command = [
        *(*RUNNERS[way], "-q", "--no-header", "--tb=short", f"--test-dsn={dsn}"),
        *("-o", f"cache_dir={folder / 'cache'}", "--cache-clear", "-p", "no:randomly"),
        *("-k", f"not Null and not {ENDLESS}", *arguments),
    ]
    return run_pytest(way, command, sources=source.resolve(), folder=folder, path=path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", action="store_true", help="only the pool's tests")
    parser.add_argument("--source", type=Path, help="psycopg's source, not to clone it")
    parser.add_argument("--keep", type=Path, help="a folder for the source, logs and reports")
    parser.add_argument("tests", nargs="*", help="files of the source, and arguments for pytest")
    options, more = parser.parse_known_args()
    if options.source is not None and not (options.source / "tests").is_dir():
        parser.error(f"{options.source} is not psycopg's source")
    arguments = [*(options.tests or ([] if options.pool else CONNECTION) + POOL), *more]
    programs = find_server_with(EXTENSIONS)
    if programs is None:
        sys.exit(f"No PostgreSQL with {', '.join(EXTENSIONS)}: apt-get install postgresql")
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / "psycopg"
        source = options.source or (kept if kept.exists() else clone(folder))
        results = {}
        for way in RUNNERS:
            with SystemPostgres(programs) as server:
                results[way] = run(way, source, folder, server.dsn, arguments)
    title = f"psycopg {psycopg.__version__}"
    return 1 if compare(title, results["stock"], results["geventpg"], EXPECTED) else 0


if __name__ == "__main__":
    sys.exit(main())
