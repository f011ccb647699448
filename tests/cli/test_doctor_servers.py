"""`geventpg doctor` names what is wrong with a server, and with what is in front of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from geventpg.cli.checks.pooler import observe_mode
from geventpg.cli.checks.reaching import Target
from geventpg.testing import EmbeddedPostgres, PgBouncer
from tests.cli.conftest import ROLE
from tests.support.waiting import wait_until


def test_more_planned_connections_than_the_server_gives_are_a_problem(doctor, app_dsn):
    diagnosis = doctor(app_dsn, "--processes", "30", "--max-size", "40")
    assert diagnosis.exit_code == 1
    assert diagnosis.troubles == {"max-connections"}
    assert diagnosis.findings["max-connections"]["facts"]["planned"] == 1200


def test_the_size_is_the_environment_s_unless_it_is_given(doctor, app_dsn):
    diagnosis = doctor(app_dsn, env={"GEVENTPG_MAX_SIZE": "1000"})
    assert diagnosis.troubles == {"max-connections"}


def test_a_superuser_is_named(doctor, dsn):
    assert "superuser" in doctor(dsn).troubles


@pytest.mark.parametrize(
    ("setting", "code"),
    [
        ("statement_timeout=0", "statement-timeout-off"),
        ("idle_in_transaction_session_timeout=0", "idle-timeout-off"),
        ("default_transaction_read_only=on", "read-only"),
    ],
)
def test_a_dangerous_setting_is_named(doctor, admin, app_dsn, setting, code):
    name, _, value = setting.partition("=")
    alter = sql.SQL("ALTER ROLE {} SET {} = {}")
    admin.execute(alter.format(sql.Identifier(ROLE), sql.Identifier(name), sql.Literal(value)))
    assert doctor(app_dsn).troubles == {code}


def test_who_sits_idle_in_a_transaction_is_named_without_his_data(
    doctor, dsn, app_dsn, admin, application_name
):
    admin.execute(sql.SQL("GRANT pg_monitor TO {}").format(sql.Identifier(ROLE)))
    with psycopg.connect(dsn) as forgotten:
        forgotten.execute(f"select 'their data', 42 -- {'and more ' * 20}\n, true as {'x' * 99}")
        diagnosis = doctor(app_dsn, "--idle-after", "0")
        (session,) = [
            session
            for session in diagnosis.findings["idle-in-transaction"]["facts"]["sessions"]
            if session["pid"] == forgotten.info.backend_pid
        ]
        assert diagnosis.level("idle-in-transaction") == "warning"
        assert session["application"] == application_name
        assert session["statement"] == f"select ?, ? , true as {'x' * 57}…"
        assert "their data" not in str(diagnosis.findings)
        # By default it has to last.
        assert doctor(app_dsn, "--idle-after", "3600").troubles == set()


def test_sessions_that_may_not_be_seen_are_said(doctor, dsn, app_dsn):
    with psycopg.connect(dsn):
        assert doctor(app_dsn).level("sessions-hidden") == "note"


# -- a server of its own: little room, and a standby ----------------------------------------------


@pytest.fixture(scope="module")
def narrow() -> Iterator[EmbeddedPostgres]:
    settings = {"superuser_reserved_connections": 0, "max_connections": 6, "wal_level": "replica"}
    with EmbeddedPostgres(settings={**settings, "max_wal_senders": 2}) as server:
        yield server


@pytest.fixture
def crowd(narrow) -> Iterator[Callable[[int], None]]:
    """Return a function that fills the server up until that number of connections is left."""
    conns: list[psycopg.Connection] = []

    def leave(free: int) -> None:
        def used():
            query = "select count(*) from pg_stat_activity where backend_type = 'client backend'"
            return conns[0].execute(query).fetchone()[0]

        conns.append(psycopg.connect(narrow.dsn, autocommit=True))
        wait_until(lambda: used() == 1)  # those of the test before are gone
        conns.extend(psycopg.connect(narrow.dsn) for _ in range(5 - free))

    yield leave
    for conn in conns:
        conn.close()


def test_a_server_that_reserves_nothing_for_its_keeper_is_named(doctor, narrow):
    assert {"nothing-reserved", "max-connections"} <= doctor(narrow.dsn).troubles
    assert "max-connections" not in doctor(narrow.dsn, "--max-size", "5").troubles


def test_a_server_that_is_full_says_so(doctor, narrow, crowd):
    crowd(0)
    assert doctor(narrow.dsn).troubles == {"too-many-clients"}


def test_a_server_that_is_nearly_full_is_named_with_the_programs_that_fill_it(
    doctor, narrow, crowd
):
    crowd(1)
    diagnosis = doctor(narrow.dsn, "--max-size", "1")
    assert "connections-nearly-used-up" in diagnosis.troubles
    (user,) = diagnosis.findings["connections"]["facts"]["users"]
    assert user["connections"] == 5


def test_a_standby_is_named(doctor, narrow):
    with EmbeddedPostgres.standby_of(narrow) as standby:
        diagnosis = doctor(standby.dsn)
    assert diagnosis.exit_code == 1
    assert "target_session_attrs" in diagnosis.findings["standby"]["advice"]


# -- poolers -------------------------------------------------------------------------------------


def pooler(server: EmbeddedPostgres, mode: str, **options: object) -> PgBouncer:
    return PgBouncer(server, mode, **options)


def test_transaction_mode_is_told_and_prepare_always_is_a_problem_there(doctor, embedded_pg):
    with pooler(embedded_pg, "transaction") as bouncer:
        cautious = doctor(bouncer.dsn)
        bold = doctor(bouncer.dsn, "--prepare", "always")
    facts = cautious.findings["pooler"]["facts"]
    assert facts["mode"] == "transaction"
    assert facts["default_pool_size"] == 5
    knows = bool(facts["max_prepared_statements"])  # PgBouncer 1.21 does, if it is told to
    assert cautious.level("prepare") == "ok"
    assert ("prepare-unsafe" in bold.troubles) is not knows


def test_session_mode_is_told_and_prepare_always_is_fine_there(doctor, embedded_pg):
    with pooler(embedded_pg, "session") as bouncer:
        diagnosis = doctor(bouncer.dsn, "--prepare", "always")
    assert diagnosis.findings["pooler-session-mode"]["facts"]["mode"] == "session"
    assert diagnosis.level("prepare") == "ok"


def test_statement_mode_is_a_problem_and_the_rest_is_looked_at_all_the_same(doctor, embedded_pg):
    with pooler(embedded_pg, "statement") as bouncer:
        diagnosis = doctor(bouncer.dsn)
    assert diagnosis.level("pooler-statement-mode") == "problem"
    assert diagnosis.level("primary") == "ok"


@pytest.mark.parametrize(
    ("mode", "size"), [("session", 5), ("session", 1), ("transaction", 5), ("statement", 5)]
)
def test_the_mode_shows_without_the_pooler_s_console(embedded_pg, mode, size):
    with pooler(embedded_pg, mode, pool_size=size) as bouncer:
        target = Target(bouncer.dsn, 5.0)
        with target.connect() as conn:
            assert observe_mode(conn, target) == mode


def test_a_start_up_option_that_the_pooler_refuses_is_named(doctor, embedded_pg):
    with pooler(embedded_pg, "transaction") as bouncer:
        diagnosis = doctor(make_conninfo(bouncer.dsn, options="-c statement_timeout=5s"))
    assert diagnosis.troubles == {"startup-option-refused"}
    assert "statement_timeout" in diagnosis.findings["startup-option-refused"]["found"]
