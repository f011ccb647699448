"""No secret in a repr, a log line, an error, a statistic, or in the locals of frames."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
import traceback
from typing import Any
from urllib.parse import quote

import gevent
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import ConnectionPool

import geventpg
from celery_integration.settings import read_settings
from geventpg import OptionError, Pool, PoolTimeout
from geventpg.conninfo.checks import check_conninfo
from tests.support.secrets import (
    HIDDEN,
    NOWHERE,
    SECRET,
    app_with,
    everything_about,
    has_no,
    refusal_of,
)


def test_this_way_of_looking_finds_a_secret_in_the_locals_of_our_frames(monkeypatch):
    def resolve(params, deadline):
        raise psycopg.OperationalError("no")

    monkeypatch.setattr("geventpg.connection.connect.resolve_hosts", resolve)
    connect = geventpg.Connection.connect.__func__.__wrapped__  # without its discretion
    error = refusal_of(lambda: connect(geventpg.Connection, f"password={SECRET}"))
    assert SECRET in everything_about(error)


# -- connecting ----------------------------------------------------------------------------------

# What is wrong with a conninfo; {secret} is a password.
UNREADABLE = [
    "host=127.0.0.1 password=start {secret}",
    "host=127.0.0.1 password=start {secret}=end",
    "host=127.0.0.1 password='{secret}",
    "password={secret} flavour=vanilla",
    "flavour=vanilla password={secret}",
    "password=start flavour{secret}=vanilla",
    "{secret}",
    "{secret}=",
    "postgres+psycopg://app:{secret}@db/app",
    "postgresql://app:{secret}@[127.0.0.1/db",
    "postgresql://app:start@{secret}@127.0.0.1/db",
    "postgresql://app:start/{secret}@127.0.0.1/db",
    "postgresql://app:{secret}/end@127.0.0.1/db",
    "postgresql://app:12/{secret}@127.0.0.1/db",
    "postgresql://app:start%zz{secret}@127.0.0.1/db",
    "postgresql://app:%ff{secret}@127.0.0.1/db",
    "postgresql://app:%00{secret}@127.0.0.1/db",
    "postgresql://app@127.0.0.1/db?password={secret}&flavour=vanilla",
    "postgresql://app@127.0.0.1/db?password=start&{secret}=1",
    "host=127.0.0.1 password={secret}\0 sslmode=verify-full",
    "host=127.0.0.1 password={secret}\udcff",
    "port=several password={secret}",
    "host=127.0.0.1 sslpassword=start {secret}",
]


@pytest.mark.parametrize("conninfo", UNREADABLE, ids=ascii)
def test_a_conninfo_that_cannot_be_read_is_quoted_nowhere(conninfo, log, open_pool):
    conninfo = conninfo.format(secret=SECRET)
    attempts = {
        "check_conninfo": lambda: check_conninfo(conninfo),
        "Pool": lambda: Pool(conninfo, open=False),
        "configure": lambda: geventpg.configure(conninfo, name="unreadable"),
        "Connection.connect": lambda: geventpg.Connection.connect(conninfo),
        "read_settings": lambda: geventpg.configure(
            read_settings(app_with({"conninfo": conninfo}), "gevent", 5).conninfo
        ),
        "a callable": lambda: open_pool(lambda: conninfo).getconn(timeout=0.1),
    }
    for name, attempt in attempts.items():
        error = refusal_of(attempt)
        assert isinstance(error, OptionError | PoolTimeout), name
        has_no(SECRET, everything_about(error))
    has_no(SECRET, log())


@pytest.mark.parametrize("conninfo", [text for text in UNREADABLE if "=" in text], ids=ascii)
def test_a_part_of_a_password_that_looks_like_a_name_is_not_quoted_as_one(conninfo):
    word = "opensesame"
    for read in (check_conninfo, geventpg.Connection.connect):
        error = refusal_of(lambda read=read: read(conninfo.format(secret=word)))
        has_no(word, everything_about(error))


def test_the_name_of_an_unknown_parameter_is_told_when_it_can_be_no_secret():
    with pytest.raises(OptionError, match='invalid connection option "flavour"'):
        check_conninfo("host=db.example flavour=vanilla")


def conninfos(dsn, secret):
    """Return the same server and a wrong password, written in several ways."""
    params = conninfo_to_dict(dsn)
    host = f"{params['host']}:{params['port']}"
    return {
        "keywords": make_conninfo(dsn, password=secret),
        "url": f"postgresql://postgres:{quote(secret, safe='')}@{host}/postgres",
        "url query": f"postgresql://postgres@{host}/postgres?password={quote(secret, safe='')}",
    }


@pytest.mark.parametrize("form", ["keywords", "url", "url query"])
@pytest.mark.parametrize("secret", [SECRET, "p@ss w/rd?&=#%'\\\"ü:"], ids=["plain", "hostile"])
def test_a_wrong_password_is_shown_nowhere(form, secret, dsn, log, open_pool):
    conninfo = conninfos(dsn, secret)[form]
    real = str(conninfo_to_dict(dsn)["password"])
    pool = open_pool(conninfo, min_size=2)
    errors = [
        refusal_of(lambda: geventpg.Connection.connect(conninfo)),
        refusal_of(lambda: pool.getconn(timeout=5)),
        refusal_of(lambda: pool.wait(timeout=5)),
    ]
    texts = [everything_about(error) for error in errors]
    assert "password authentication failed" in texts[0]
    for word in (secret, real):
        has_no(word, *texts, log(), repr(pool), str(pool), str(pool.get_stats()))


@pytest.mark.parametrize("name", ["password", "sslpassword"])
def test_secrets_among_the_keyword_arguments_are_shown_nowhere(name, dsn, log, open_pool):
    kwargs = {name: SECRET, "port": 1, "host": "127.0.0.1"}
    pool = open_pool(dsn, kwargs=kwargs)
    asking = open_pool(dsn, kwargs=lambda: kwargs)
    errors = [
        refusal_of(lambda: geventpg.Connection.connect(dsn, **kwargs)),
        refusal_of(lambda: geventpg.Connection.connect(dsn, **kwargs, flavour="vanilla")),
        refusal_of(lambda: pool.getconn(timeout=0.5)),
        refusal_of(lambda: asking.getconn(timeout=0.5)),
    ]
    has_no(SECRET, *map(everything_about, errors), log(), repr(pool), repr(asking))


@pytest.mark.parametrize(
    "change",
    [
        {"port": "1"},
        {"host": "no-such-host.invalid"},
        {"host": "bad..name"},
        {"host": "x" * 70 + ".example"},
        {"host": "127.0.0.1,127.0.0.1", "port": "1,1"},
        {"host": "127.0.0.1,127.0.0.1", "port": "1,1,1"},
        {"connect_timeout": "soon"},
        {"sslmode": "sometimes"},
        {"target_session_attrs": "any-old"},
        {"dbname": "no-such-database"},
        {"user": "no-such-user"},
        {"options": "-c nonsense=1"},
        {"sslmode": "require"},
        {"service": "no-such-service"},
    ],
    ids=str,
)
def test_whatever_is_wrong_the_password_is_shown_nowhere(change, dsn, log, open_pool):
    conninfo = make_conninfo(dsn, password=SECRET)
    real = str(conninfo_to_dict(dsn)["password"])
    right = make_conninfo(dsn, sslpassword=SECRET)
    for base in (conninfo, right):
        pool = open_pool(base, kwargs=change)
        errors = [
            refusal_of(lambda base=base: geventpg.Connection.connect(base, **change)),
            refusal_of(lambda pool=pool: pool.getconn(timeout=0.5)),
        ]
        texts = [everything_about(error) for error in errors]
        for word in (SECRET, real):
            has_no(word, *texts, log(), repr(pool))
        pool.close()


def test_a_greenlet_killed_while_it_connects_shows_no_secret(log, terminator):
    with terminator(pause=10) as conninfo:
        wrong = make_conninfo(conninfo, password=SECRET)
        for parting in (gevent.Timeout(1), KeyboardInterrupt(), gevent.GreenletExit()):
            seen = []

            def connect(seen=seen):
                try:
                    geventpg.Connection.connect(wrong)
                except BaseException as error:
                    seen.append(error)

            connecting = gevent.spawn(connect)
            gevent.sleep(0.1)
            connecting.kill(parting)
            assert seen == [parting]
            has_no(SECRET, everything_about(parting))
    has_no(SECRET, log())


def test_an_exception_that_was_there_before_keeps_its_locals():
    def fail():
        mine = "to be seen"
        raise LookupError(mine)

    try:
        fail()
    except LookupError as error:
        before = error
        after = refusal_of(lambda: geventpg.Connection.connect(NOWHERE))
    assert after.__context__ is before
    frames = [frame for frame, _ in traceback.walk_tb(before.__traceback__)]
    assert frames[-1].f_locals == {"mine": "to be seen"}


def test_a_traceback_still_tells_where_it_happened():
    try:
        geventpg.Connection.connect(NOWHERE, password=SECRET)
    except psycopg.OperationalError:
        text = traceback.format_exc()
        captured = traceback.TracebackException(*sys.exc_info(), capture_locals=True)
    assert "geventpg/connection/connect.py" in text
    assert "in connect" in text
    # This test's own frame has none either.
    has_no(SECRET, text, "".join(captured.format()).replace(f"password={SECRET}", ""))


# -- callables -----------------------------------------------------------------------------------


class TokenError(Exception):
    """What a user's own function raises."""


@pytest.mark.parametrize("which", ["conninfo", "kwargs"])
@pytest.mark.parametrize("behaviour", ["wrong", "unreadable", "type", "raises", "raises later"])
def test_what_callables_return_is_shown_nowhere(which, behaviour, dsn, log, open_pool):
    secret = {"fetched": SECRET}

    def conninfo():
        if which == "kwargs":
            return make_conninfo(dsn, password=HIDDEN)
        return answer({"wrong": make_conninfo(dsn, password=SECRET)}, f"password=a {SECRET}")

    def kwargs():
        if which == "conninfo":
            return {"sslpassword": HIDDEN}
        return answer({"wrong": {"password": SECRET}}, {"password": SECRET, "flavour": SECRET})

    def answer(good, bad):
        token = secret["fetched"]
        if behaviour.startswith("raises"):
            raise TokenError(f"no token of {len(token)} characters today")
        if behaviour == "type":
            return token.encode()
        return good["wrong"] if behaviour == "wrong" else bad

    pool = open_pool(conninfo, kwargs=kwargs)
    error = refusal_of(lambda: pool.getconn(timeout=1))
    assert isinstance(error, PoolTimeout)
    if behaviour.startswith("raises"):
        assert "no token of 11 characters" in str(error)
    for word in (SECRET, HIDDEN):
        has_no(word, everything_about(error), log(), repr(pool))
    has_no(SECRET, "".join(traceback.format_exception(error)))


# -- what is alive -------------------------------------------------------------------------------


def test_everything_that_works_shows_no_secret_either(dsn, log, open_pool):
    secret = str(conninfo_to_dict(dsn)["password"])
    pool = open_pool(dsn, kwargs={"sslpassword": SECRET}, leak_threshold=0.05)
    with pool.connection() as conn:
        gevent.sleep(0.2)
        things: list[Any] = [pool, conn, conn.pgconn, conn.info, conn.cursor(), conn.transaction()]
        things += [pool.get_stats(), pool.pop_stats()]
        parts = vars(pool)
        things += [vars(conn), *parts.values(), *vars(parts["_core"]).values()]
        things += [thing for thing in gc.get_objects() if issubclass(type(thing), gevent.Greenlet)]
        pool.drain()
    pool.check()
    pool.close()
    for word in (secret, SECRET):
        has_no(word, *map(repr, things), *map(str, things), log())


def test_copies_and_pickles_reveal_nothing(dsn, open_pool):
    secret = str(conninfo_to_dict(dsn)["password"])
    pool = open_pool(dsn, kwargs={"sslpassword": SECRET})
    with pool.connection() as conn:
        for thing in (pool, conn):
            for operation in (pickle.dumps, copy.copy, copy.deepcopy):
                with pytest.raises(TypeError) as caught:
                    operation(thing)
                for word in (secret, SECRET):
                    has_no(word, everything_about(caught.value))
    read = read_settings(app_with(dsn), "gevent", 5)
    has_no(secret, repr(copy.copy(read)), repr(copy.deepcopy(read)))


def test_pools_without_gevent_refuse_what_pools_on_it_refuse(dsn):
    # psycopg_pool's own, with the connection class that get_conn() gives it.
    with (
        ConnectionPool(
            lambda: f"{dsn} application_name='x\0'",
            connection_class=geventpg.connection.base.BindableConnection,
            min_size=0,
            max_size=1,
            timeout=0.2,
            open=True,
        ) as pool,
        pytest.raises(PoolTimeout),
    ):
        pool.getconn()
