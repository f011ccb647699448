"""The app: system checks and ``manage.py geventpg`` in this process."""

from __future__ import annotations

import json

import gevent
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection, connections

from geventpg.django import checks
from geventpg.django.management.commands.geventpg import Command
from geventpg.testing import PgBouncer
from tests.django.conftest import settings_from
from tests.django.test_processes import START
from tests.support import wait_until
from tests.support.script import output_of


def ids(messages):
    return sorted(message.id for message in messages)


def test_good_settings_pass_all_checks(database):
    database()
    database("other", pool=False)
    assert checks.check_patching() == []
    assert checks.check_settings() == []
    assert checks.check_server(databases=["default", "other"]) == []


def test_settings_that_defeat_the_pool_are_found(database):
    database(CONN_MAX_AGE=60, CONN_HEALTH_CHECKS=True)
    database("other", pool=False, CONN_MAX_AGE=None)
    found = checks.check_settings()
    assert ids(found) == ["geventpg.E003", "geventpg.W001", "geventpg.W002"]
    assert all(message.hint for message in found)


def test_pools_larger_than_the_server_allows_are_found_taken_together(database, admin):
    (limit,) = admin.execute("show max_connections").fetchone()
    database(pool={"min_size": 0, "max_size": int(limit) - 20})
    assert checks.check_server(databases=["default"]) == []
    database("other", pool={"min_size": 0, "max_size": 50})
    (found,) = checks.check_server(databases=["default", "other"])
    assert found.id == "geventpg.W003"
    assert f"max_connections is {limit}" in found.msg


def test_a_role_behind_a_pooler_is_found(database, pg):
    pool = {"min_size": 0, "max_size": 1}
    with PgBouncer(pg.dsn, pool_mode="transaction") as bouncer:
        database(conninfo=bouncer.dsn, pool=pool, options={"assume_role": "postgres"})
        assert ids(checks.check_server(databases=["default"])) == ["geventpg.W004"]
        connection.close()
        connection.close_pool()


def test_what_gevent_patched_is_checked(dsn):
    printed = output_of(
        START
        + """
from geventpg.django.checks import check_patching
def found(): return [message.id for message in check_patching()]
print(found())
import gevent; gevent.sleep(0)
print(found())
import warnings; warnings.simplefilter("ignore")
from gevent import monkey; monkey.patch_all()
print(found())
""",
        json.dumps(settings_from(dsn)),
    )
    assert printed.splitlines() == ["[]", "['geventpg.E001']", "['geventpg.E002']"]


def run(capsys, *arguments):
    call_command(Command(), *arguments)
    return capsys.readouterr().out


def test_status_tells_sizes_limits_and_sessions(database, admin, capsys):
    database(pool={"min_size": 1, "max_size": 7}).ensure_connection()
    shown = run(capsys, "--database", "default")
    assert "gevent patched" in shown
    assert "default: in every process a pool with max_size=7 min_size=1" in shown
    (limit,) = admin.execute("show max_connections").fetchone()
    assert f"max_connections={limit}" in shown


def test_drain_replaces_idle_sessions_and_reports_busy_ones(database, backends, capsys):
    database(pool={"min_size": 2, "max_size": 4}).ensure_connection()
    name = connection.connection.info.parameter_status("application_name")
    drain = ["drain", "--application-name", name, "--rest", "0"]

    def asleep():
        with connection.cursor() as cursor:
            cursor.execute("select pg_sleep(60)")

    connection.close()
    busy = gevent.spawn(asleep)
    wait_until(lambda: any(backend.state == "active" for backend in backends()))
    before = {backend.pid for backend in backends()}
    with pytest.raises(CommandError, match="never rested"):
        run(capsys, *drain, "--timeout", "0.1")
    assert "1 still at work" in capsys.readouterr().out
    busy.kill()
    run(capsys, *drain)
    assert not before & {backend.pid for backend in backends()}
    with connections["default"].cursor() as cursor:
        cursor.execute("select 1")


def test_the_command_knows_which_databases_it_is_for(database):
    database(pool=False)
    with pytest.raises(CommandError, match="has no pool"):
        call_command(Command(), "drain")
    with pytest.raises(CommandError, match="there is no database 'nowhere'"):
        call_command(Command(), "--database", "nowhere")
