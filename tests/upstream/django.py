"""Run Django's own tests on its engine and on ours, and compare them outcome by outcome.

``make django-tests`` or ``python -m tests.upstream.django [folder …]``. Downloads the source of the
Django that is installed, with pip, and starts a PostgreSQL: the system's, because
``postgres_tests`` need its extensions. The ways:

- ``stock``, ``stock-pool``: Django's engine without and with its own pool, without gevent
- ``unpooled``, ``pooled``: ``geventpg.django`` without and with a pool, on gevent

``--postgis`` takes the engines of GeoDjango, and runs ``gis_tests``; it needs GDAL and the server's
extension (``apt-get install libgdal32 postgresql-15-postgis-3``).

``unpooled`` must give what ``stock`` gives, ``pooled`` what ``stock-pool`` gives. The exit status
says whether they do.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path

import django
from psycopg.conninfo import conninfo_to_dict

from geventpg.testing import EmbeddedPostgres
from tests.support.system_postgres import SystemPostgres, find_openssl_server

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "upstream"
FOLDERS = (
    *("backends", "basic", "transactions", "transaction_hooks", "select_for_update"),
    *("get_or_create", "queries", "aggregation", "bulk_create", "postgres_tests", "servers"),
    "test_utils",
)
STOCK, OURS = "django.db.backends.postgresql", "geventpg.django"
POSTGIS = {STOCK: "django.contrib.gis.db.backends.postgis", OURS: "geventpg.django.postgis"}
WAYS = {
    "stock": (STOCK, False),
    "stock-pool": (STOCK, True),
    "unpooled": (OURS, False),
    "pooled": (OURS, True),
}
# Skipped on ours, because they compare the engine's name with Django's.
KNOWN = {"gis_tests.inspectapp.tests.OGRInspectTest.test_time_field"}
REFERENCES = {"unpooled": "stock", "pooled": "stock-pool"}


def source(sdist: Path | None) -> Path:
    """Return the ``tests`` folder of the Django that is installed, downloaded if need be."""
    folder = WORK / f"django-{django.__version__}"
    if not folder.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        if sdist is None:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            wanted = f"django=={django.__version__}"
            subprocess.run(
                [*command, "--no-binary", "django", "--dest", str(WORK), wanted], check=True
            )
            (sdist,) = WORK.glob(f"[Dd]jango-{django.__version__}.tar.gz")
        with tarfile.open(sdist) as archive:
            archive.extractall(WORK, filter="data")
    return folder / "tests"


def run(
    way: str, tests: Path, server: EmbeddedPostgres, folders: list[str], *, postgis: bool
) -> dict[str, str]:
    """Run *folders* in one process; return the outcome of each test by its id."""
    engine, pool = WAYS[way]
    arguments = ["--gevent"] if engine == OURS else []
    engine = POSTGIS[engine] if postgis else engine
    login = conninfo_to_dict(server.dsn)
    database = {
        "ENGINE": engine,
        "USER": login["user"],
        "PASSWORD": login.get("password") or "",
        "HOST": login["host"],
        "PORT": str(login["port"]),
        "OPTIONS": {"pool": {"min_size": 0, "max_size": 10} if pool else False},
    }
    report = WORK / f"{way}.json"
    report.unlink(missing_ok=True)
    arguments += [str(tests / "runtests.py"), "--settings=tests.upstream.django_settings"]
    started = time.monotonic()
    with (WORK / f"{way}.log").open("w") as log:
        status = subprocess.run(
            [
                *(sys.executable, "-m", "tests.upstream.django_runner", *arguments),
                *("--parallel=1", "--noinput", *folders),
            ],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "DJANGO_TESTS_DATABASE": json.dumps(database),
                "DJANGO_TESTS_OUTCOMES": str(report),
            },
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    if not report.exists():
        sys.exit(f"{way}: ended with status {status} and no report; see {log.name}")
    outcomes: dict[str, str] = json.loads(report.read_text())
    words = Counter(outcome.partition(":")[0] for outcome in outcomes.values())
    seconds = time.monotonic() - started
    print(f"{way:>10}: {seconds:4.0f} s, {dict(words.most_common())}", flush=True)
    return outcomes


def differences(ours: dict[str, str], reference: dict[str, str]) -> list[str]:
    """Return a line for each test whose outcome is another one."""
    return [
        f"{test}\n    reference: {reference.get(test)}\n    geventpg:  {ours.get(test)}"
        for test in sorted({*ours, *reference} - KNOWN)
        if ours.get(test) != reference.get(test)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--postgis", action="store_true", help="GeoDjango's engines")
    parser.add_argument("--sdist", type=Path, help="Django's source, not to download it")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    options = parser.parse_args()
    options.folders = options.folders or (["gis_tests"] if options.postgis else list(FOLDERS))
    tests = source(options.sdist)
    programs = find_openssl_server()
    if programs is None:
        print("postgres_tests need the system's PostgreSQL: apt-get install postgresql")
        options.folders = [folder for folder in options.folders if folder != "postgres_tests"]
    print(f"Django {django.__version__}: {' '.join(options.folders)}", flush=True)
    with SystemPostgres(programs) if programs else EmbeddedPostgres() as server:
        found = {
            way: run(way, tests, server, options.folders, postgis=options.postgis)
            for way in options.ways
        }
    status = 0
    for ours, reference in REFERENCES.items():
        if ours in found and reference in found:
            lines = differences(found[ours], found[reference])
            print(f"{ours} and {reference}: {len(lines)} differences", *lines, sep="\n")
            status |= bool(lines)
    return status


if __name__ == "__main__":
    sys.exit(main())
