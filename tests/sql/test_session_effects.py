"""Which statements leave something in their session, by their text."""

from __future__ import annotations

import time

import pytest

from geventpg.sql.lexer import essence
from geventpg.sql.reading import LONGEST, Reading, read


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("SET statement_timeout = '5s'", "SET statement_timeout"),
        ("set session work_mem to '1GB'", "SET work_mem"),
        ('SET "app.user" = 7', "SET app.user"),
        ("SET search_path TO a, b", "SET search_path"),
        ("SET ROLE reader", "SET role"),
        ("SET SESSION AUTHORIZATION reader", "SET session authorization"),
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
            "SET session characteristics",
        ),
        ("  /* by: me */ -- and why\n SET lock_timeout = 1", "SET lock_timeout"),
        ("SELECT 1; SET lock_timeout = 1", "SET lock_timeout"),
        ("SELECT set_config('app.user', $1, false)", "set_config(app.user, ..., false)"),
        ("select pg_catalog.set_config($1, $2, false)", "set_config($1, ..., false)"),
        ("select set_config('a' || 's3cr3t', 'x', false)", "set_config(..., ..., false)"),
        ("LISTEN jobs", "LISTEN jobs"),
        ('listen "My Jobs"', 'LISTEN "My Jobs"'),
        ("SELECT pg_advisory_lock(1)", "pg_advisory_lock(...)"),
        ("SELECT pg_try_advisory_lock($1, $2)", "pg_try_advisory_lock(...)"),
        ("WITH a AS (SELECT 1) SELECT pg_advisory_lock_shared(1)", "pg_advisory_lock_shared(...)"),
        ("(SELECT pg_catalog.pg_try_advisory_lock_shared (1))", "pg_try_advisory_lock_shared(...)"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "DECLARE c CURSOR WITH HOLD"),
        (
            'DECLARE "a b" BINARY NO SCROLL CURSOR WITH HOLD FOR SELECT 1',
            'DECLARE "a b" CURSOR WITH HOLD',
        ),
        ("CREATE TEMP TABLE t (a int)", "CREATE TEMPORARY TABLE t"),
        (
            "create local temporary table if not exists t as select 1",
            "CREATE TEMPORARY TABLE t",
        ),
        ("CREATE OR REPLACE TEMP VIEW v AS SELECT 1", "CREATE TEMPORARY VIEW v"),
        ("CREATE TEMP SEQUENCE s", "CREATE TEMPORARY SEQUENCE s"),
        ("CREATE TABLE pg_temp.t (a int)", "CREATE TEMPORARY TABLE pg_temp.t"),
        ("SELECT 1 AS a INTO TEMP t", "SELECT INTO TEMPORARY t"),
        ("/* a /* nested */ one */ LISTEN jobs", "LISTEN jobs"),
        ("-- why\rLISTEN jobs", "LISTEN jobs"),
        ("SET/* to */lock_timeout = 1", "SET lock_timeout"),
        ("(( /* x */ SELECT pg_advisory_lock(1)))", "pg_advisory_lock(...)"),
        ('SELECT "pg_advisory_lock"(1)', "pg_advisory_lock(...)"),
        ("INSERT INTO t SELECT pg_advisory_lock(1)", "pg_advisory_lock(...)"),
        ("SELECT set_config('a.b', $$x$$, 'off'::bool)", "set_config(a.b, ..., false)"),
        ("SELECT set_config(lower('a'), f(1, 2), false)", "set_config(..., ..., false)"),
        ("PREPARE p (int) AS SELECT $1", "PREPARE p"),
    ],
)
def test_it_is_found_and_named_without_values(statement, named):
    (effect,) = read(statement.encode()).effects
    assert effect.name == named
    assert effect.lasting.fate
    assert effect.lasting.remedy


@pytest.mark.parametrize(
    "statement",
    [
        "",
        "SELECT 1",
        "SET LOCAL statement_timeout = '5s'",
        "SET TRANSACTION READ ONLY",
        "SET CONSTRAINTS ALL DEFERRED",
        "SET statement_timeout TO DEFAULT",
        "RESET ALL",
        "SET ROLE NONE",
        "SET SESSION AUTHORIZATION DEFAULT",
        "PREPARE TRANSACTION 'x'",
        "DEALLOCATE ALL",
        "DISCARD ALL",
        "SELECT 1 INTO temp FROM t",
        "SELECT 'pg_advisory_lock(1)', \"pg_advisory_lock (1)\"",
        "SELECT 1 /* pg_advisory_lock(1) */ + 1",
        "SELECT 1 -- set_config('a', 'b', false)\n + 1",
        "CREATE VIEW v AS SELECT pg_advisory_lock(1)",
        "EXPLAIN SELECT pg_advisory_lock(1)",
        # PgBouncer keeps these for each of its clients.
        "SET TIME ZONE 'UTC'",
        "SET timezone = 'UTC'",
        "SET client_encoding TO 'UTF8'",
        "SET SESSION application_name = 'x'",
        "SET NAMES 'UTF8'",
        "SELECT set_config('timezone', 'UTC', false)",
        "SELECT set_config('app.user', '7', true)",
        "SELECT set_config($1, $2, $3)",
        "UNLISTEN jobs",
        "NOTIFY jobs",
        "SELECT pg_advisory_xact_lock(1)",
        "SELECT pg_try_advisory_xact_lock(1)",
        "SELECT pg_advisory_unlock(1)",
        "DECLARE c CURSOR FOR SELECT 1",
        "DECLARE c CURSOR WITHOUT HOLD FOR SELECT 1",
        "CREATE TEMP TABLE t (a int) ON COMMIT DROP",
        "CREATE TEMP TABLE t ON COMMIT\n DROP AS SELECT 1",
        "CREATE TABLE temp (a int)",
        "CREATE TABLE temporary_things (a int)",
        "SELECT temperature INTO t FROM weather",
        "UPDATE settings SET statement_timeout = 1",
        "INSERT INTO notes VALUES ('stop; listen to me')",
        "SELECT 'a; set b = c'",
        "DO $$ BEGIN PERFORM 1; SET x = 1; END $$",
        "SELECT 1 -- ; set b = c",
        "SELECT 1 /* ; set b = c */ + 1",
    ],
)
def test_what_ends_with_its_transaction_is_not_found(statement):
    assert read(statement.encode()).effects == ()


@pytest.mark.parametrize(
    "query", [b"\xff\xfe SET", b"SET", b";;;", b"'", b"$$", b"/*", b"--", b"("]
)
def test_what_is_no_statement_is_nothing(query):
    assert read(query).effects == ()


@pytest.mark.parametrize("statement", ["SET a.b = 1; LISTEN c", "/* x */ SET a.b = 1;;LISTEN c;--"])
def test_each_statement_of_a_text_has_its_effects(statement):
    effects = read(statement.encode()).effects
    assert [effect.name for effect in effects] == ["SET a.b", "LISTEN c"]


@pytest.mark.parametrize(
    "unit",
    [
        *(
            "(",
            "/*",
            "--\n",
            "'",
            "$",
            "- ",
            "select ",
            ";",
            "set_config(",
            "\n",
            "\\",
            "E'\\",
            "$a",
        ),
        *("'\n", "/*/", "*/", "''", "%(", "1e", "into temp ", "--\r'", "' --\n", "e'\\'"),
    ],
)
def test_no_text_takes_long(unit):
    text = (unit * LONGEST).encode()[: 4 * LONGEST]
    started = time.process_time()
    for prefix in (b"select into temp set_config(", b"declare c ", b"set a; ", b"e'", b"$$", b""):
        for suffix in (b"", b" -- '", b"*/"):
            reading = Reading(essence(prefix + text[:LONGEST] + suffix))
            assert reading.without_literals is not None
            assert reading.summary is not None
            read(prefix + text + suffix)
    # Milliseconds each; a regular expression that backtracks would not come back at all.
    assert time.process_time() - started < 5
