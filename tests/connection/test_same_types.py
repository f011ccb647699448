"""Values of every type, both ways, in text and binary: psycopg's connection and ours agree.

The values are random: a failure prints the seed that repeats it.
"""

from __future__ import annotations

from functools import partial

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import geventpg
from tests.connection.comparison import describe, note_error
from tests.connection.values import SCHEMA, TYPES, ZONES, fetch_types, register

RANDOM_VALUES = 4
WELL = "it went well"


@pytest.fixture(scope="module", autouse=True)
def schema(pg):
    with pg.connect() as conn:
        conn.execute(SCHEMA)
        yield fetch_types(conn)
        conn.execute("drop schema values_of_types cascade")


@pytest.fixture(scope="module")
def both(pg, schema):
    """Return psycopg's connection and ours, for all tests: what one leaves is not to matter."""
    dsn = make_conninfo(pg.dsn, options="-c search_path=values_of_types,public")
    with psycopg.connect(dsn) as stock, geventpg.Connection.connect(dsn) as ours:
        for conn in (stock, ours):
            conn.execute("select 1")  # cursors made so far are not to decide for others
            conn.commit()
            register(conn, schema)
        yield stock, ours


@pytest.fixture
def assert_same(both, rng):
    """Return a function that compares what a program shows; it returns how often it went well."""
    zone = rng.choice(ZONES)

    def assert_same(program):
        shown = []
        for conn in both:
            conn.autocommit = True
            conn.execute("select set_config('timezone', %s, false)", (zone,))
            shown.append([])
            program(conn, shown[-1])
            conn.rollback()
        stock, ours = shown
        assert ours == stock
        return stock.count(WELL)

    return assert_same


@pytest.fixture
def values(name, rng):
    edges, make = TYPES[name]
    return [None, *edges, *(make(rng) for _ in range(RANDOM_VALUES))]


def shown(value):
    """Return what tells *value* from all others: NaN is not equal to itself, 1 is to True."""
    return type(value).__name__, repr(value)


def note_rows(cur, seen):
    formats = [cur.pgresult.fformat(i) for i in range(cur.pgresult.nfields)]
    seen.append((describe(cur), formats, cur.rowcount, cur.statusmessage))
    raw = [cur.pgresult.get_value(i, 0) for i in range(cur.pgresult.ntuples)]
    seen.append((raw, [shown(row) for row in cur.fetchall()]))


def attempt(conn, seen, action):
    """Do *action* and note its error, if any, whatever raised it; tell whether it went well."""
    try:
        action()
    except psycopg.Error as error:
        note_error(error, seen)
    except Exception as error:
        seen.append(shown(error))
    else:
        seen.append(WELL)
        return True
    conn.rollback()
    return False


@pytest.mark.parametrize("name", TYPES)
def test_values_are_adapted_the_same_way(assert_same, name, values):
    def program(conn, seen):
        for binary in (False, True):
            conn.autocommit = binary  # what either does with BEGIN is not to matter
            cur = conn.cursor(binary=binary)
            placeholder = "%b" if binary else "%t"
            for query in (f"select %s::{name} as v", f"select {placeholder}::{name}", "select %s"):
                for value in values:
                    attempt(conn, seen, partial(note, cur, query, value, seen))
            conn.commit()

    def note(cur, query, value, seen):
        cur.execute(query, (value,))
        note_rows(cur, seen)

    assert assert_same(program) > 2 * RANDOM_VALUES


@pytest.mark.parametrize("name", TYPES)
def test_values_travel_the_same_way_in_bulk(assert_same, name, values):
    def program(conn, seen):
        conn.execute(f"create temp table kept (v {name}); create temp table copied (v {name})")
        conn.autocommit = False

        def insert(value, prepare=None):
            return conn.execute("insert into kept values (%s)", (value,), prepare=prepare)

        good = [v for v in values if attempt(conn, seen, lambda v=v: insert(v) and conn.commit())]
        conn.execute("truncate kept")
        conn.commit()
        for binary in (False, True):
            conn.autocommit = binary
            attempt(conn, seen, lambda b=binary: executemany(conn, b, good, seen))
            attempt(conn, seen, lambda b=binary: stream(conn, b, seen))
            attempt(conn, seen, lambda b=binary: copy_out(conn, b, seen))
            attempt(conn, seen, lambda b=binary: copy_in(conn, b, good, seen))
            attempt(conn, seen, lambda: note_rows(conn.execute("select v from copied"), seen))
            conn.commit()
        conn.execute("drop table kept, copied")

    def executemany(conn, binary, good, seen):
        cur = conn.cursor(binary=binary)
        cur.executemany(
            "insert into kept values (%s) returning v", [(v,) for v in good], returning=True
        )
        for _ in cur.results():
            note_rows(cur, seen)

    def stream(conn, binary, seen):
        rows = conn.cursor().stream("select v from kept where %s", (True,), binary=binary, size=4)
        seen.append([shown(row) for row in rows])

    def copy_out(conn, binary, seen):
        how = "binary" if binary else "text"
        with conn.cursor().copy(f"copy kept to stdout (format {how})") as copy:
            copy.set_types([name.partition("(")[0].strip('"')])
            seen.append([shown(row) for row in copy.rows()])

    def copy_in(conn, binary, good, seen):
        how = "binary" if binary else "text"
        cur = conn.cursor()
        with cur.copy(f"copy copied from stdin (format {how})") as copy:
            if binary:
                copy.set_types([name.partition("(")[0].strip('"')])
            for value in good:
                copy.write_row([value])
        seen.append((cur.rowcount, cur.statusmessage))

    assert assert_same(program) > RANDOM_VALUES


LITERALS = [
    *(
        "'infinity'::date",
        "'-infinity'::timestamp",
        "'infinity'::timestamptz",
        "'10000-01-01'::date",
    ),
    *("'0044-03-15 BC'::date", "'0001-01-01 BC'::timestamptz", "'294276-01-01'::timestamp"),
    *(
        "'24:00'::time",
        "'24:00+15:59'::timetz",
        "'1 day 2:3:4.5'::interval",
        "'1 year -2 mons'::interval",
    ),
    *("'178000000 years'::interval", "'NaN'::numeric", "'-Infinity'::numeric", "1e400::numeric"),
    *("0.0000000001::numeric", "'NaN'::float4", "'-Infinity'::float8", "1e-40::float4", "2::int2"),
    *(
        "array[[1,null],[3,4]]",
        "'[2:3]={7,8}'::int[]",
        "'{}'::text[]",
        "array['NULL', null, '', 'a\"b']",
    ),
    *("array[row(1, 'a'), row(null, '')]", "row(1, 'x', null, row(2, array[1]))", "row()"),
    *("row(1, 'a')::pair", "array[row(row(1, 'b'), array[row(2, 'c')::pair], 'sad')::nest]"),
    *(
        "'sad'::mood",
        "'{sad,\"so, so\"}'::mood[]",
        '\'"a"=>NULL, "b"=>"c"\'::hstore',
        "'a'::hstore",
    ),
    *(
        "'[1,5)'::int4range",
        "'empty'::daterange",
        "'{[1,2],[5,7)}'::int8multirange",
        "'[,]'::numrange",
    ),
    *(
        "'1.2.3.4/24'::inet",
        "'::/0'::cidr",
        "'08:00:2b:01:02:03'::macaddr",
        "B'101'",
        "'(1,2)'::point",
    ),
    *("'{\"a\": [1, null, 1e400]}'::jsonb", "'\"\\u0000\"'::json", "'<a/>'::text", "12.34::money"),
    *(
        "'pg_class'::regclass",
        "1234::oid",
        "'16/B374D848'::pg_lsn",
        "'a b'::tsvector",
        "'x'::\"char\"",
    ),
    *(
        "pg_sleep(0)",
        "null",
        "true",
        "'\\x00ff'::bytea",
        "'\u65e5'::text",
        "current_date = now()::date",
    ),
]


@pytest.mark.parametrize("style", ["ISO, MDY", "German, DMY", "SQL, MDY"])
def test_what_the_server_makes_is_loaded_the_same_way(assert_same, style):
    def program(conn, seen):
        conn.execute("select set_config('datestyle', %s, false)", (style,))
        for binary in (False, True):
            conn.autocommit = binary
            for literal in LITERALS:
                attempt(conn, seen, partial(note, conn, literal, binary, seen))
            conn.commit()
        conn.execute("reset datestyle")

    def note(conn, literal, binary, seen):
        cur = conn.cursor(binary=binary)
        for query in (f"select {literal} as v", f"select array[{literal}]"):
            for _ in range(2):
                cur.execute(query, prepare=binary)
                note_rows(cur, seen)

    assert assert_same(program) > len(LITERALS)
