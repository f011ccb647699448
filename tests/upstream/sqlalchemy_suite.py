"""``make compliance``: SQLAlchemy's tests on ``postgresql+geventpg``, under gevent.

They come from the sdist of the installed version, because its requirements file is not in the
wheel: the dialect compliance suite (`sqlalchemy.testing.suite`), PostgreSQL's own tests and those
of engine and session that use a database. The same tests run on ``postgresql+psycopg`` without
gevent, each dialect on a new server; every test must have the same outcome on both.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psycopg
import sqlalchemy
from psycopg import sql
from sqlalchemy.engine import URL

from tests.support.system_postgres import SystemPostgres, find_server_with
from tests.upstream.outcomes import Results, compare, run_pytest

ROOT = Path(__file__).parent.parent.parent
DIALECTS = {"psycopg": [], "geventpg": ["-p", "tests.upstream.sqlalchemy_plugin"]}
EXTENSIONS = ("hstore", "citext")

SUITE = ["test/dialect/test_suite.py"]
TESTS = [
    *SUITE,
    "test/dialect/postgresql",
    "test/engine/test_execute.py",
    "test/engine/test_reconnect.py",
    "test/engine/test_reflection.py",
    "test/engine/test_transaction.py",
    "test/orm/test_transaction.py",
    "test/orm/test_versioning.py",
    "test/sql/test_resultset.py",
    "test/sql/test_returning.py",
]

# What is about `QueuePool` or its DBAPI connections, not about the dialect.
EXPECTED = {
    "RealPrePingEventHandlerTest": "needs connections that only look like psycopg's",
    "test_pre_ping_db_stays_shutdown": "reads a private counter of QueuePool",
}


def unpack_sdist(folder: Path) -> Path:
    """Download the sdist of the installed SQLAlchemy with pip, and return where it is."""
    version = sqlalchemy.__version__
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
            *("--no-binary", "sqlalchemy", "--dest", str(folder), f"sqlalchemy=={version}"),
        ],
        check=True,
    )
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return next(path for path in folder.iterdir() if path.is_dir())


def prepare(conn: psycopg.Connection[tuple[object, ...]]) -> None:
    """Make what SQLAlchemy's README.unittests asks for."""
    for schema in ("test_schema", "test_schema_2"):
        conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
    for extension in EXTENSIONS:
        conn.execute(sql.SQL("CREATE EXTENSION {}").format(sql.Identifier(extension)))


def run(dialect: str, sources: Path, arguments: Sequence[str]) -> Results:
    """Run the tests on one dialect and return their outcomes."""
    settings = {"default_text_search_config": "pg_catalog.english"}
    # Some tests put the parts of a URL together by replacing capital letters in it.
    programs = find_server_with(EXTENSIONS)
    if programs is None:
        sys.exit(f"No PostgreSQL with {', '.join(EXTENSIONS)}: apt-get install postgresql")
    with SystemPostgres(programs, settings=settings, password="lower-case") as server:
        with server.connect() as conn:
            prepare(conn)
        url = URL.create(
            f"postgresql+{dialect}",
            server.user,
            server.password,
            "127.0.0.1",
            server.port,
            "postgres",
        )
        command = [
            *("-s", "-m", "pytest", *DIALECTS[dialect], "-q", "--no-header"),
            *("-p", "no:cacheprovider", "--maxfail=0", "-o", "addopts=", "--tb=short"),
            *("--backend-only", "--dburi", url.render_as_string(hide_password=False)),
            *arguments,
        ]
        return run_pytest(dialect, command, sources=sources, folder=sources.parent, path=ROOT)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", action="store_true", help="only the dialect compliance suite")
    parser.add_argument("--keep", type=Path, help="a folder for the sources, logs and reports")
    parser.add_argument("tests", nargs="*", help="files of the sdist, and arguments for pytest")
    options, more = parser.parse_known_args()
    arguments = [*(options.tests or (SUITE if options.suite else TESTS)), *more]
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found = [path for path in folder.glob("sqlalchemy-*") if path.is_dir()]
        sources = found[0] if found else unpack_sdist(folder)
        results = {dialect: run(dialect, sources, arguments) for dialect in DIALECTS}
    title = f"SQLAlchemy {sqlalchemy.__version__}"
    return 1 if compare(title, results["psycopg"], results["geventpg"], EXPECTED) else 0


if __name__ == "__main__":
    sys.exit(main())
