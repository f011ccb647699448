"""A hostile value stays the value of its own parameter, whichever way it comes to libpq."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import geventpg
from celery_integration.settings import read_settings
from geventpg import OptionError, Pool, PoolTimeout
from geventpg.connection.connect import KEEPALIVE_DEFAULTS
from geventpg.testing import TcpProxy

PIECES = [
    *("'", '"', "\\", " ", "=", "\n", "\t", "\r", "\v", "\f", ",", ";", "@", ":", "/", "?", "&"),
    *("#", "''", "\\'", "%27", "%00", "%", "$", "`", "--", "/*", "\x1f", "\x7f", "\xa0", "\u2028"),
    *("host=192.0.2.1", "hostaddr=192.0.2.1", "port=1", "sslmode=disable", "service=evil"),
    *("options=-csearch_path=evil", "user=postgres", "dbname=postgres", "passfile=/dev/null"),
    *("postgresql://192.0.2.1/db", "postgres://", "?sslmode=disable&host=192.0.2.1", "x", "ü"),
]
WHOLE = [
    "host=192.0.2.1 dbname=postgres",
    "dbname=postgres hostaddr=192.0.2.1",
    "postgresql://192.0.2.1:1/postgres?sslmode=disable",
    "x' host='192.0.2.1",
    "x\\' host=192.0.2.1",
    "x\\",
    "'",
    " ",
    "=",
]


def hostile_values(rng, count):
    """Return those known to be nasty, and *count* random ones; names have at most 63 bytes."""
    values = [*WHOLE]
    while len(values) < len(WHOLE) + count:
        value = "".join(rng.choices(PIECES, k=rng.randrange(1, 7)))
        if len(value.encode()) < 64:
            values.append(value)
    return values


class Plain(psycopg.Connection):
    """A connection class that was written without geventpg."""


def through_connect(conninfo, values):
    return geventpg.Connection.connect(conninfo, **values)


def through_a_conninfo(conninfo, values):
    return geventpg.Connection.connect(make_conninfo(conninfo, **values))


def through_a_pool(conninfo, values, timeout=5.0, **options):
    # Not given back but taken away: the pool is closed, its connection is the test's.
    sizes = {"min_size": 1, "max_size": 1}
    with Pool(conninfo, kwargs=values, timeout=timeout, **sizes, **options) as pool:
        return pool.getconn()


def through_callables(conninfo, values):
    # Refused, it asks them again for some seconds: no need to wait for the end of that.
    return through_a_pool(lambda: conninfo, lambda: values, timeout=2.0)


def through_another_class(conninfo, values):
    return through_a_pool(conninfo, values, connection_class=Plain)


def through_celery_settings(conninfo, values):
    celery = pytest.importorskip("celery")
    app = celery.Celery("smuggling", set_as_current=False)
    app.conf.geventpg = {"conninfo": make_conninfo(conninfo, **values), "max_size": 1}
    settings = read_settings(app, "gevent", 1)
    return through_a_pool(settings.conninfo, {})


def through_a_proxys_dsn(conninfo, values):
    params = conninfo_to_dict(conninfo)
    with TcpProxy(str(params["host"]), int(params["port"])) as proxy:
        moved = conninfo_to_dict(proxy.dsn(make_conninfo(conninfo, **values)))
        assert moved["port"] == str(proxy.port)
    return geventpg.Connection.connect(
        make_conninfo("", **{**moved, "host": params["host"], "port": params["port"]})
    )


WAYS = [
    through_connect,
    through_a_conninfo,
    through_a_pool,
    through_callables,
    through_another_class,
    through_celery_settings,
    through_a_proxys_dsn,
]


def parameters_of(conn):
    """Return everything that libpq was told, but for what geventpg adds on purpose."""
    added = {*KEEPALIVE_DEFAULTS, "hostaddr"}
    return {
        option.keyword.decode(): option.val
        for option in conn.pgconn.info
        if option.keyword.decode() not in added
    }


@pytest.fixture(params=["address", "name"])
def server(request, dsn):
    """Return the server's conninfo by its address, and by a name that geventpg resolves."""
    if request.param == "address":
        return dsn
    return make_conninfo(dsn, host="localhost")


@pytest.mark.parametrize("way", WAYS)
def test_a_hostile_application_name_is_only_that(way, server, rng):
    for value in rng.sample(hostile_values(rng, 12), 8):
        values = {"application_name": value, "sslmode": "disable"}
        with psycopg.connect(server, **values) as plain, way(server, values) as conn:
            assert parameters_of(conn) == parameters_of(plain)
            show = "select current_setting('application_name'), current_database(), current_user"
            assert conn.execute(show).fetchone() == plain.execute(show).fetchone()
            assert conn.info.hostaddr == "127.0.0.1"


@pytest.mark.parametrize("way", WAYS)
def test_hostile_users_and_passwords_log_in_as_themselves(way, server, admin, rng):
    for value in rng.sample(hostile_values(rng, 8), 4):
        password = rng.choice([value, value[::-1], f"{value} sslmode=disable"])
        role = sql.Identifier(value)
        admin.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(password))
        )
        try:
            values = {"user": value, "password": password}
            with way(server, values) as conn, psycopg.connect(server, **values) as plain:
                assert conn.execute("select current_user").fetchone() == (value,)
                assert conn.info.password == password
                assert parameters_of(conn) == parameters_of(plain)
        finally:
            admin.execute(sql.SQL("DROP ROLE {}").format(role))


def test_hostile_databases_are_connected_to_by_their_names(server, pg, admin, rng):
    for value in rng.sample(hostile_values(rng, 3), 5):
        try:
            assert conninfo_to_dict(pg.create_database(value))["dbname"] == value
            for way in rng.sample(WAYS, 2):
                with way(server, {"dbname": value}) as conn:
                    assert conn.execute("select current_database()").fetchone() == (value,)
        finally:
            admin.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(value))
            )


@pytest.mark.parametrize("way", WAYS)
def test_a_dbname_that_looks_like_a_conninfo_is_not_expanded(way, server, rng):
    number = 1 if way is through_callables else 3
    for value in rng.sample(hostile_values(rng, 6), number):
        words = []
        for connect in (way, lambda conninfo, values: psycopg.connect(conninfo, **values)):
            with pytest.raises(psycopg.OperationalError) as caught:
                connect(server, {"dbname": value})
            error = caught.value.__cause__ or caught.value
            words.append(str(error).partition("FATAL:")[2])
        assert words[0] == words[1]
        assert f'database "{value}" does not exist' in words[0]


NAMES = ["dbname", "user", "password", "application_name", "host", "options", "sslrootcert"]


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_cut_off_at_a_nul(way, dsn, rng):
    if way in (through_a_conninfo, through_celery_settings, through_a_proxys_dsn):
        # psycopg's make_conninfo would cut it off itself; what we get has it inside.
        def way(conninfo, values):
            text = " ".join(f"{key}='{value}'" for key, value in values.items())
            return through_a_pool(f"{conninfo} {text}", {})

    for name in rng.sample(NAMES, 1 if way is through_callables else 3):
        # psycopg alone would not send what follows: here, that TLS is demanded.
        with pytest.raises((OptionError, PoolTimeout), match="NUL character"):
            way(dsn, {name: "x\0", "sslmode": "require"})


@pytest.mark.parametrize("name", ["application_name=x sslmode", "dbname ", "", "a'b"])
@pytest.mark.parametrize("way", [through_connect, through_a_pool, through_another_class])
def test_nothing_is_smuggled_in_by_the_name_of_a_parameter(way, name, dsn):
    with pytest.raises((OptionError, PoolTimeout), match="not the name of a connection parameter"):
        way(dsn, {name: "disable"})


def test_a_hostile_host_is_an_error_of_psycopgs_and_no_other_host_is_asked(dsn, rng):
    values = [value for value in hostile_values(rng, 10) if "," not in value and "/" not in value]
    for value in [*values, "a..b", "x" * 300, "127.0.0.1 sslmode=disable"]:
        with pytest.raises(psycopg.Error) as caught:
            geventpg.Connection.connect(dsn, host=f"x{value}.invalid", connect_timeout=2)
        assert '192.0.2.1"' not in str(caught.value)
