"""A statement of a pool gives what psycopg's ``execute`` gives: rows, types and errors."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import ipaddress
import re
import uuid
from dataclasses import dataclass

import psycopg
import pytest
from psycopg import sql
from psycopg.adapt import Dumper, Loader
from psycopg.rows import args_row, class_row, dict_row, namedtuple_row, scalar_row
from psycopg.types.enum import EnumInfo, register_enum
from psycopg.types.json import Jsonb

import geventpg
from tests.statements.helpers import stats

VALUES = [
    *(None, True, False, 0, -1, 32_768, 2**31, 2**62, 2**70, 1.5, float("inf")),
    *("", "x", "äöü€", "%s $1 'quoted' \"q\" \\", "x" * 20_000, b"", b"\x00\xff\\"),
    *(decimal.Decimal("1.230"), decimal.Decimal("NaN"), uuid.UUID(int=5)),
    dt.date(2024, 2, 29),
    dt.time(1, 2, 3, 4),
    dt.datetime(2024, 2, 29, 1, 2, 3),  # noqa: DTZ001
    dt.datetime(2024, 2, 29, tzinfo=dt.timezone.utc),
    dt.timedelta(days=-3, seconds=5),
    *([], [1, 2, None], [["a", "b"], ["c", "d"]], ["x,y", '"', None]),
    *(Jsonb({"a": [1, None]}), ipaddress.ip_address("10.0.0.1")),
]


def names_apart(error):
    """Return the text of an error without the number of a prepared statement."""
    return re.sub(r"_pg3_\d+", "_pg3_", str(error))


@dataclass
class Thing:
    id: int
    tag: str | None = None


@pytest.fixture
def plain(dsn):
    """Return a plain connection of psycopg's, for comparison."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        yield conn


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
@pytest.mark.parametrize("prepare", [False, True], ids=["", "prepared"])
def test_values_come_back_as_psycopg_brings_them(pool, plain, prepare, binary):
    query = "select %s as a, array[%s, null] as b"
    for value in VALUES:
        try:
            expected = plain.execute(query, (value, value), binary=binary).fetchall()
        except psycopg.Error as error:
            with pytest.raises(type(error)):
                pool.fetch_all(query, (value, value), binary=binary, prepare=prepare)
            continue
        got = pool.fetch_all(query, (value, value), binary=binary, prepare=prepare)
        assert repr(got) == repr(expected)
        assert [type(column) for column in got[0]] == [type(column) for column in expected[0]]
        assert repr(pool.fetch_val(query, (value, value), binary=binary)) == repr(got[0][0])


QUERIES = [
    ("select 1", None),
    ("select 1;", None),
    ("select 1 % 2", None),
    ("select 1 %% 2, 'a%%'", ()),
    ("select %(a)s::int, %(b)s::text, %(a)s::int", {"a": 1, "b": "x", "c": 2}),
    ("select %b::int, %t::int", [1, 2]),
    (b"select %s::int", [1]),
    (sql.SQL("select {}::int, {}").format(sql.Placeholder(), sql.Literal("x")), [1]),
    (sql.SQL("select 1"), None),
    (geventpg.Statement("select %s::int"), (3,)),
    ("/* a /* b */ */ -- c\n select 1 as a, 2 as a", None),
    ("select", None),
    ("select from generate_series(1, 2)", None),
    ("values (1, 'a'), (2, null)", None),
    ("with a as (select generate_series(1, 3) n) select * from a", None),
    ("select * from generate_series(1, 5000) n", None),
    ("table pg_am limit 2", None),
    ("show server_version", None),
    ("explain select 1", None),
    ("(select 1) union (select 1)", None),
    ("select 1; select 2", None),
    ("select '$1', ';'", None),
    ("select now() is not null", None),
]


def test_rows_are_those_of_psycopg(pool, plain):
    for query, params in QUERIES:
        cur = plain.execute(query, params)
        expected = cur.fetchall()
        assert pool.fetch_all(query, params) == expected
        assert pool.fetch_one(query, params) == (expected[0] if expected else None)
        assert pool.fetch_val(query, params) == (expected[0][0] if cur.description else None)
        result = pool.execute(query, params)
        assert (result.rowcount, result.statusmessage) == (cur.rowcount, cur.statusmessage)
        assert repr(result.description) == repr(cur.description)
        assert list(result) == expected
        assert result.fetchall() == []


FIVE = "truncate things; insert into things select g, 'a' from generate_series(1, 5) g"

COMMANDS = [
    ("insert into things values (%s, %s)", (1, "a")),
    ("insert into things select g, 'b' from generate_series(1, 5) g", None),
    ("update things set tag = 'c' where id > 2", None),
    ("delete from things where id = %s", (99,)),
    ("create table if not exists things (id int)", None),
    ("vacuum things", None),
    ("", None),
    ("do $$ begin null; end $$", None),
]


def test_outcomes_are_those_of_psycopg(pool, plain, done):
    for query, params in COMMANDS:
        plain.execute(FIVE)
        cur = plain.execute(query, params)
        plain.execute(FIVE)
        result = pool.execute(query, params)
        assert (result.rowcount, result.statusmessage) == (cur.rowcount, cur.statusmessage)
        assert result.description is cur.description is None
        assert result.rows == []
        with pytest.raises(psycopg.ProgrammingError, match="didn't produce records"):
            result.fetchall()
        for fetch in (pool.fetch_all, pool.fetch_one, pool.fetch_val):
            with pytest.raises(psycopg.ProgrammingError, match="didn't produce records") as caught:
                fetch(query, params)
            assert caught.value.sqlstate is None


MISTAKES = [
    ("select 1/0", None),
    ("select 1/%s", (0,)),
    ("selec 1", None),
    ("select nosuchcolumn", None),
    ("select * from nosuchtable", None),
    ("select %s::int", ("x",)),
    ("insert into things values ('x')", None),
    ("select 1; select 2", (1,)),
    ("select $1", None),
    ("select %s", ()),
    ("select %s", {"a": 1}),
    ("select %(a)s", (1,)),
    ("select %(a)s", {"b": 1}),
    ("select %x", (1,)),
    ("select %s", ("\0",)),
    ("select %s", (object(),)),
    ("select %s", "x"),
    ("select '\0'", None),
    ("select * from generate_series(1, 3) n where 6 / (2 - n) > 0", None),
]


@pytest.mark.parametrize("prepare", [None, True], ids=["", "prepared"])
def test_errors_are_those_of_psycopg(pool, plain, done, prepare):
    for query, params in MISTAKES:
        with pytest.raises((psycopg.Error, TypeError)) as expected:
            plain.execute(query, params, prepare=prepare)
        for _ in range(2):
            with pytest.raises(type(expected.value)) as caught:
                pool.fetch_all(query, params, prepare=prepare)
            assert type(caught.value) is type(expected.value)
            assert names_apart(caught.value) == names_apart(expected.value)
            if isinstance(caught.value, psycopg.Error):
                assert caught.value.sqlstate == expected.value.sqlstate
                for field in ("severity", "statement_position", "source_function"):
                    got, wanted = (getattr(e.diag, field) for e in (caught.value, expected.value))
                    assert got == wanted
        assert pool.fetch_val("select 5") == 5


@pytest.mark.parametrize(
    "factory",
    [dict_row, namedtuple_row, class_row(Thing), args_row(lambda i, t: f"{i}{t}"), scalar_row],
)
def test_rows_are_made_by_the_factory(pool, make_pool, plain, factory):
    query = "select g as id, 'x' as tag from generate_series(1, 3) g"
    with plain.cursor(row_factory=factory) as cur:
        expected = cur.execute(query).fetchall()
    assert pool.fetch_all(query, row_factory=factory) == expected
    assert pool.fetch_one(query, row_factory=factory) == expected[0]
    assert pool.execute(query, row_factory=factory).rows == expected
    of_pool = make_pool(kwargs={"row_factory": factory})
    assert of_pool.fetch_all(query) == expected
    assert of_pool.fetch_val(query) == 1
    assert of_pool.fetch_one("select 1 as id, 'x' as tag where false") is None


class Word(str):
    __slots__ = ()


def test_adapters_of_the_pools_connections_apply_also_when_they_change(make_pool, admin):
    class WordDumper(Dumper):
        def dump(self, obj):
            return f"<{obj}>".encode()

    class Shout(Loader):
        def load(self, data):
            return bytes(data).decode().upper()

    pool = make_pool(configure=lambda conn: conn.adapters.register_dumper(Word, WordDumper))
    assert pool.fetch_val("select %s::text", (Word("a"),)) == "<a>"
    for _ in range(3):
        with pool.connection() as conn:
            conn.adapters.register_loader("text", Shout)
        assert pool.fetch_val("select %s::text", (Word("a"),)) == "<A>"


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


def test_types_of_ones_own_come_back_as_such(make_pool, admin):
    admin.execute("drop type if exists mood")
    admin.execute("create type mood as enum ('good', 'bad')")

    def configure(conn):
        info = EnumInfo.fetch(conn, "mood")
        register_enum(info, conn, Mood, mapping={mood: mood.value for mood in Mood})
        conn.commit()

    pool = make_pool(configure=configure)
    assert pool.fetch_val("select %s", (Mood.BAD,)) is Mood.BAD
    assert pool.fetch_all("select unnest(enum_range(null::mood))") == [(Mood.GOOD,), (Mood.BAD,)]
    pool.close()
    admin.execute("drop type mood")


def test_settings_that_loaders_look_at_are_followed(pool):
    query = "select '2024-02-03 00:00+00'::timestamptz, '2024-02-03'::date"
    for zone, style in (("Asia/Tokyo", "ISO, DMY"), ("UTC", "German"), ("Asia/Tokyo", "SQL, MDY")):
        with pool.connection() as conn:
            conn.execute(f"set timezone to '{zone}'")
            conn.execute(f"set datestyle to '{style}'")
        try:
            moment, day = pool.fetch_one(query)
        except NotImplementedError:
            assert style != "ISO, DMY"  # psycopg does not read such timestamps
            continue
        assert str(moment.tzinfo) == zone
        assert day == dt.date(2024, 2, 3)


OF_A_SESSION = [
    ("begin", "transaction of its own"),
    (" /* x */ COMMIT", "transaction of its own"),
    ("rollback to a", "transaction of its own"),
    ("savepoint a", "transaction of its own"),
    ("prepare transaction 'a'", "transaction of its own"),
    ("copy things from stdin", "COPY"),
    ("copy (select 1) to stdout", "COPY"),
    ("listen x", "LISTEN is about a session"),
    ("set timezone to 'UTC'", "SET is about a session"),
    ("discard all", "DISCARD is about a session"),
    ("prepare a as select 1", "PREPARE is about a session"),
    ("declare a cursor for select 1", "DECLARE is about a session"),
    ("select 1; /* x */ set a = 1", "SET is about a session"),
    ("select 1; commit", "transaction of its own"),
]


def test_what_needs_a_connection_of_its_own_is_a_clear_error(pool, make_pool):
    for query, match in OF_A_SESSION:
        not_shared = make_pool(kwargs={"cursor_factory": psycopg.ClientCursor})
        for one in (pool, not_shared):
            with pytest.raises(psycopg.ProgrammingError, match=match):
                one.execute(query)
            assert one.fetch_val("select 5") == 5


class ConnectionWithExecute(psycopg.Connection):
    def execute(self, *args, **kwargs):
        return super().execute(*args, **kwargs)


@pytest.mark.parametrize(
    "options",
    [
        {"kwargs": {"cursor_factory": psycopg.ClientCursor}},
        {"configure": lambda conn: conn.add_notice_handler(print)},
        {"connection_class": ConnectionWithExecute},
    ],
    ids=["cursor class", "notice handler", "execute of its own"],
)
def test_connections_that_have_ways_of_their_own_are_not_shared(make_pool, done, options):
    pool = make_pool(**options)
    for number in range(3):
        assert pool.fetch_val("select %s::int", (number,)) == number
    assert stats(pool).sent == 0
    pool.execute("insert into things values (1, 'a')")
    assert done("a") == [1]


def test_connections_for_reading_only_stay_so(make_pool, done):
    pool = make_pool(configure=read_only)
    assert pool.fetch_val("select 1") == 1
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        pool.execute("insert into things values (1, 'a')")
    assert done("a") == []


def read_only(conn):
    conn.read_only = True


def test_a_statement_is_a_transaction_of_its_own_whatever_the_connections_are(make_pool, done):
    for autocommit in (False, True):
        pool = make_pool(kwargs={"autocommit": autocommit})
        pool.execute("insert into things values (1, %s)", (str(autocommit),))
        with pytest.raises(psycopg.errors.DivisionByZero):
            pool.execute("insert into things select 1 / 0, %s", (str(autocommit),))
        assert done(str(autocommit)) == [1]


def test_an_error_at_the_commit_is_the_statements(pool, admin):
    admin.execute("drop table if exists deferred")
    admin.execute("create table deferred (id int unique deferrable initially deferred)")
    pool.execute("insert into deferred values (1)")
    with pytest.raises(psycopg.errors.UniqueViolation):
        pool.execute("insert into deferred values (1)")
    assert pool.fetch_val("select count(*) from deferred") == 1
    admin.execute("drop table deferred")


def test_a_time_out_of_nothing_is_a_pool_time_out(pool):
    with pytest.raises(geventpg.PoolTimeout):
        pool.fetch_val("select 1", timeout=0)


def test_prepare_modes_are_those_of_the_pool_and_of_the_call(make_pool):
    query = "select count(*) from pg_prepared_statements where statement like '%%' || %s || '%%'"
    for mode, prepare, expected in (
        ("auto", None, 1),
        ("auto", False, 0),
        ("always", None, 1),
        ("never", None, 0),
        ("never", True, 0),
    ):
        pool = make_pool(max_size=1, prepare=mode)
        token = f"{mode}-{prepare}"
        for _ in range(8):
            assert pool.fetch_val(f"select '{token}', %s::int", (1,), prepare=prepare) == token
        assert pool.fetch_val(query, (token,), prepare=False) == expected
        pool.close()
    pool = make_pool(max_size=1)
    pool.fetch_val("select 'now', %s::int", (1,), prepare=True)
    pool.fetch_val(geventpg.Statement("select 'declared', %s::int"), (1,))
    for token in ("now", "declared"):
        assert pool.fetch_val(query, (f"'{token}'",), prepare=False) == 1


def test_prepared_statements_beyond_psycopgs_limit_are_closed(make_pool):
    pool = make_pool(max_size=1)
    for number in range(150):
        assert pool.fetch_val(f"select {number} + %s::int", (1,), prepare=True) == number + 1
    held = pool.fetch_val("select count(*) from pg_prepared_statements", prepare=False)
    assert 90 <= held <= 102
