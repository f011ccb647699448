"""Options sent when a connection starts: refused by poolers with an explanation, or dropped."""

from __future__ import annotations

import logging
import time

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import geventpg
from geventpg.connection import pooler as pooler_module
from geventpg.conninfo import startup_options
from geventpg.testing import PgBouncer

OPTIONS = "-c statement_timeout=5s -c search_path=app,public"


@pytest.fixture
def mode():
    return "transaction"


@pytest.fixture
def dropping(embedded_pg):
    """Return a PgBouncer that lets options pass, without effect."""
    with PgBouncer(embedded_pg, settings={"ignore_startup_parameters": "options"}) as running:
        yield running


@pytest.fixture
def said(caplog, monkeypatch):
    """Return a function that gives what was said of poolers so far."""
    monkeypatch.setattr(pooler_module.OF_ALL, "_said", set())
    caplog.set_level(logging.WARNING, "geventpg.pooler")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "geventpg.pooler"]


def test_a_refused_option_is_an_error_that_names_it_and_the_remedies(pooler):
    with pytest.raises(geventpg.StartupOptionRefused) as caught:
        geventpg.Connection.connect(pooler.dsn, options=OPTIONS)
    text = str(caught.value)
    assert "unsupported startup parameter: options" in text  # PgBouncer's own words
    for part in ("statement_timeout, search_path", "ALTER ROLE", "SET LOCAL", "directly"):
        assert part in text
    assert isinstance(caught.value, psycopg.OperationalError)
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)


def test_so_is_one_from_the_environment(pooler, monkeypatch):
    monkeypatch.setenv("PGOPTIONS", "-c work_mem=5MB")
    with pytest.raises(geventpg.StartupOptionRefused, match="work_mem"):
        geventpg.Connection.connect(pooler.dsn)


def test_so_is_a_parameter_of_another_kind(pooler, monkeypatch):
    monkeypatch.setenv("PGGEQO", "off")
    with pytest.raises(geventpg.StartupOptionRefused, match="start-up option geqo"):
        geventpg.Connection.connect(pooler.dsn)


def test_the_waiters_of_a_pool_are_told_at_once(make_pool, pooler):
    pool = make_pool(pooler.dsn, kwargs={"options": OPTIONS}, timeout=30)
    started = time.monotonic()
    with pytest.raises(geventpg.ConnectRejected, match="statement_timeout") as caught:
        pool.getconn()
    assert time.monotonic() - started < 15
    assert isinstance(caught.value.__cause__, geventpg.StartupOptionRefused)


def test_of_several_hosts_one_that_takes_the_option_is_used(pooler, pg):
    direct = psycopg.conninfo.conninfo_to_dict(pg.dsn)
    both = {"host": f"{pooler.host},{direct['host']}", "port": f"{pooler.port},{direct['port']}"}
    with geventpg.Connection.connect(make_conninfo(pg.dsn, **both), options=OPTIONS) as conn:
        assert conn.execute("show statement_timeout").fetchone() == ("5s",)


def test_nothing_that_is_sent_by_default_is_refused(pooler):
    with geventpg.Connection.connect(pooler.dsn, application_name="mine") as conn:
        assert conn.execute("show application_name").fetchone() == ("mine",)


@pytest.mark.parametrize("autocommit", [True, False])
def test_a_dropped_option_is_said_once(dropping, said, autocommit):
    for _ in range(2):
        options = {"options": OPTIONS, "autocommit": autocommit}
        with geventpg.Connection.connect(dropping.dsn, **options) as conn:
            for _ in range(8):
                assert conn.execute("show statement_timeout").fetchone() == ("0",)
    messages = sorted(said())
    assert len(messages) == 2
    assert "dropped the start-up option search_path" in messages[0]
    assert "dropped the start-up option statement_timeout" in messages[1]
    assert "5s" not in messages[1]


def test_an_option_that_is_in_force_by_other_means_is_not_complained_about(
    dropping, said, admin, pg
):
    user = psycopg.conninfo.conninfo_to_dict(pg.dsn)["user"]
    admin.execute(f'alter role "{user}" set statement_timeout = 300000')
    admin.execute(f"alter role \"{user}\" set app.kind = 'worker'")
    try:
        options = r"-c statement_timeout=5min --app.kind=worker -c app.other=a\ b"
        with geventpg.Connection.connect(dropping.dsn, options=options) as conn:
            conn.execute("listen nothing")
            conn.rollback()
        assert [m.split("option ")[1].split()[0] for m in said() if "dropped" in m] == ["app.other"]
    finally:
        admin.execute(f'alter role "{user}" reset all')


def test_direct_connections_have_their_options_and_are_asked_nothing(dsn, said):
    with geventpg.Connection.connect(dsn, options=OPTIONS) as conn:
        conn.execute("listen nothing")
        assert conn.execute("show statement_timeout").fetchone() == ("5s",)
        conn.rollback()
    assert said() == []


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ("FATAL:  unsupported startup parameter: options", "options"),
        ("FATAL:  unsupported startup parameter: extra_float_digits", "extra_float_digits"),
        # PgBouncer 1.20 and later, Neon.
        (
            "unsupported startup parameter in options: citus.use_secondary_nodes",
            "citus.use_secondary_nodes",
        ),
        (
            "ERROR:  Unsupported startup parameter in options: search_path. Please use",
            "search_path",
        ),
        ("unsupported options startup parameter: only '-c config=val' is allowed", "options"),
        # Amazon's RDS Proxy.
        (
            "Feature not supported: RDS Proxy currently doesn't support command-line options",
            "options",
        ),
        ('FATAL:  unrecognized configuration parameter "nonsense"', None),
        ('FATAL:  password authentication failed for user "options"', None),
    ],
)
def test_a_refusal_is_known_by_its_words(message, name):
    assert startup_options.refused(message) == name


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ("", {}),
        ("-c a=1 -cb=2 --c-d=3", {"a": "1", "b": "2", "c_d": "3"}),
        (
            r"-c application_name=two\ words\\ -c x.y=",
            {"application_name": "two words\\", "x.y": ""},
        ),
        ("-c TimeZone=UTC  -B 100 -c", {"timezone": "UTC"}),
        ("-c search_path=a,b", {"search_path": "a,b"}),
    ],
)
def test_options_are_read_as_the_server_reads_them(options, settings):
    assert startup_options.parse(options) == settings


@pytest.mark.parametrize(
    ("wanted", "setting", "unit", "kind", "same"),
    [
        ("5s", "5000", "ms", "integer", True),
        ("5000", "5000", "ms", "integer", True),
        ("0.5min", "30000", "ms", "integer", True),
        ("5s", "6000", "ms", "integer", False),
        ("64MB", "8192", "8kB", "integer", True),
        ("1GB", "1048576", "kB", "integer", True),
        ("64MB", "64", "MB", "integer", True),
        ("-1", "-1", "ms", "integer", True),
        ("1.5e2", "150", None, "real", True),
        ("yes", "on", None, "bool", True),
        ("off", "on", None, "bool", False),
        ("Serializable", "serializable", None, "enum", True),
        ("a,b", "A, b", None, "string", True),
        ("a,b", "a,c", None, "string", False),
        ("x", "x", None, None, True),
    ],
)
def test_values_are_compared_by_what_they_mean(wanted, setting, unit, kind, same):
    assert startup_options.is_in_force(wanted, setting, unit, kind) is same
