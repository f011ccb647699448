"""The reader of SQL and PostgreSQL's own agree about texts that are made at random.

Each test prints its seed when it fails, see `rng`.
"""

from __future__ import annotations

import psycopg
import pytest
from psycopg import pq

from geventpg.sql.kinds import kind_of
from geventpg.sql.lexer import essence, first_difference, split
from geventpg.sql.reading import read
from geventpg.sql.session_effects import (
    ADVISORY_LOCK,
    HELD_CURSOR,
    LISTENING,
    PREPARED_STATEMENT,
    SETTING,
    TEMPORARY_TABLE,
)
from tests.sql.generated import NUMBER, SECRET, Texts

TEXTS = 1500
SYNTAX_ERROR = b"42601"
TAGS = {"VALUES": "SELECT", "TABLE": "SELECT", "WITH": "SELECT", "END": "COMMIT"}
"""What the server calls statements that it does not call by their first word."""
SQLSTATE = pq.DiagnosticField.SQLSTATE


@pytest.fixture(params=["on", "off"])
def standard_strings(request):
    return request.param == "on"


@pytest.fixture
def pgconn(dsn, standard_strings):
    """Return a libpq connection inside a transaction, with a table to write into."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"set standard_conforming_strings = {'on' if standard_strings else 'off'}")
        conn.execute("set escape_string_warning = off; set client_min_messages = error")
        conn.execute("create temp table generated (a text); create temp table ruled (a text)")
        yield conn.pgconn


def collected(pgconn):
    results = []
    while (result := pgconn.get_result()) is not None:
        results.append(result)
        if result.status == pq.ExecStatus.PIPELINE_SYNC:
            break
    return results


def executed(pgconn, text):
    """Execute a text with the simple protocol, and undo it; return its results or its error."""
    pgconn.exec_(b"begin")
    pgconn.send_query(text)
    results = collected(pgconn)
    pgconn.exec_(b"rollback")
    return results


def piped(pgconn, text):
    """Execute a text in pipeline mode, and undo it; return its results or its error."""
    pgconn.enter_pipeline_mode()
    pgconn.send_query_params(b"begin", None)
    pgconn.send_query_params(text, None)
    pgconn.pipeline_sync()
    begun = collected(pgconn)
    assert begun[0].status == pq.ExecStatus.COMMAND_OK
    results = collected(pgconn)
    collected(pgconn)
    pgconn.exit_pipeline_mode()
    pgconn.exec_(b"rollback")
    return results


def seen(results):
    """Return what a user sees of results."""
    return [
        (
            result.status,
            result.command_status,
            result.error_field(SQLSTATE),
            [result.fname(column) for column in range(result.nfields)],
            [
                [result.get_value(row, column) for column in range(result.nfields)]
                for row in range(result.ntuples)
            ],
        )
        for result in results
    ]


def is_valid(results):
    return results[-1].error_field(SQLSTATE) is None


@pytest.mark.slow
@pytest.mark.hang_limit(180)
def test_random_texts_are_read_as_the_server_reads_them(pgconn, standard_strings, rng):
    texts = Texts(rng)
    valid = pipelined = 0
    for _ in range(TEXTS):
        text = (texts.garbage() if rng.random() < 0.2 else texts.text()).encode()
        results = executed(pgconn, text)
        reading = read(text)
        note = f"{text!r}: {seen(results)}"
        if reading.pipelines(has_params=False):
            pipelined += 1
            assert seen(piped(pgconn, text)) == seen(results), note
        if not is_valid(results):
            continue
        valid += 1
        assert_same_statements(text, results, standard_strings, note)
        core = essence(text)
        assert seen(executed(pgconn, core)) == seen(results), note
        assert read(core) is reading, note
        if not may_be_a_name(results):
            assert_no_literals(pgconn, reading, note)
    assert valid > TEXTS / 3
    assert pipelined > TEXTS / 5


def assert_same_statements(text, results, standard_strings, note):
    statements = split(text, standard_strings=standard_strings)
    tags = [
        result.command_status.split()[0].decode()
        for result in results
        if result.status != pq.ExecStatus.EMPTY_QUERY
    ]
    assert len(statements) == len(tags), note
    for statement, tag in zip(statements, tags, strict=True):
        kind, word = kind_of(statement)
        assert TAGS.get(word, word) == tag, note
        assert (kind.value == "query") == (tag in ("SELECT", "INSERT", "UPDATE")), note


def may_be_a_name(results):
    """Tell whether the secret may be a name: of a column, or of a schema in the search path.

    Now and then a string ends by chance before it was meant to end.
    """
    return any(
        result.command_status == b"SET"
        or any(SECRET.encode() in result.fname(column) for column in range(result.nfields))
        for result in results
    )


def assert_no_literals(pgconn, reading, note):
    shown = reading.without_literals
    assert SECRET not in shown, note
    assert NUMBER not in shown, note
    assert SECRET not in reading.summary
    if len(reading.statements) == 1 and not shown.endswith("…"):
        parsed = pgconn.prepare(b"", shown.replace("?", "'x'").encode())
        assert parsed.error_field(SQLSTATE) != SYNTAX_ERROR, f"{note}: {shown}"


# -- effects on the session ----------------------------------------------------------------------

# Statements, and what the server has for the session afterwards. `{}` is a string.
EFFECTS = {
    "set lock_timeout = '7s'": SETTING,
    "SET SESSION lock_timeout TO 7": SETTING,
    'set "lock_timeout" to 7': SETTING,
    "set search_path to a , {}": SETTING,
    "set local lock_timeout = 7": None,
    "set lock_timeout to default": None,
    "set timezone = 'UTC'": None,
    "set time zone 'UTC'": None,
    "reset lock_timeout": None,
    "select set_config( 'lock_timeout' , '7' , false )": SETTING,
    "values ( {} , pg_catalog . set_config( 'lock_timeout' , '7' , 'off' ) )": SETTING,
    "select set_config( 'lock_timeout' , '7' , true ) , {}": None,
    "listen jobs": LISTENING,
    'LISTEN "My-Jobs"': LISTENING,
    "notify jobs , {}": None,
    "unlisten *": None,
    "select pg_advisory_lock( 1 ) , {}": ADVISORY_LOCK,
    'with a as ( select 1 ) select "pg_try_advisory_lock" ( 1 , 2 )': ADVISORY_LOCK,
    "( select {} , pg_try_advisory_lock_shared( 1 ) )": ADVISORY_LOCK,
    "insert into generated select pg_try_advisory_lock( 3 ) :: text": ADVISORY_LOCK,
    "select pg_advisory_xact_lock( 1 ) , {}": None,
    "select {} , 'pg_advisory_lock(1)' as \"pg_advisory_lock(1)\"": None,
    "declare c cursor with hold for select {}": HELD_CURSOR,
    "declare c binary insensitive no scroll cursor with hold for select 1": HELD_CURSOR,
    "create temp table t ( a text default {} )": TEMPORARY_TABLE,
    "create local temporary table if not exists t as select {}": TEMPORARY_TABLE,
    "create or replace temp view v as select {} as a": TEMPORARY_TABLE,
    "create table pg_temp . t ( a int )": TEMPORARY_TABLE,
    "select {} as a into temp t": TEMPORARY_TABLE,
    "select 1 as a into local temporary table t": TEMPORARY_TABLE,
    "with a as ( select 1 ) select * into temp t from a": TEMPORARY_TABLE,
    "create temp table t ( a int ) on commit drop": None,
    "create temp table t on commit drop as select {}": None,
    "prepare p ( int ) as select $1 , {}": PREPARED_STATEMENT,
    "prepare p as select {}": PREPARED_STATEMENT,
    "deallocate all": None,
    "explain select pg_advisory_lock( 1 ) , {}": None,
    "do {}": None,
    "select {}": None,
}
STATE = {
    SETTING: "select 1 from pg_settings where source = 'session' and name in"
    " ('lock_timeout', 'search_path')",
    LISTENING: "select 1 from pg_listening_channels()",
    ADVISORY_LOCK: "select 1 from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
    HELD_CURSOR: "select 1 from pg_cursors where is_holdable",
    TEMPORARY_TABLE: "select 1 from pg_class where relnamespace = pg_my_temp_schema()"
    " and relname in ('t', 'v')",
    PREPARED_STATEMENT: "select 1 from pg_prepared_statements where from_sql",
}
_TO_THE_BEGINNING = (
    "deallocate all; close all; unlisten *; select pg_advisory_unlock_all();"
    " reset lock_timeout; reset search_path;"
    " drop table if exists pg_temp.t; drop view if exists pg_temp.v"
)


@pytest.mark.slow
@pytest.mark.hang_limit(180)
def test_random_texts_leave_in_the_session_what_the_reader_says(pgconn, standard_strings, rng):
    texts = Texts(rng)
    question = "; ".join(f"select exists ({query})" for query in STATE.values()).encode()
    tested = 0
    for _ in range(TEXTS // 3):
        statements = rng.choices(list(EFFECTS), k=rng.choice([1, 1, 1, 2]))
        text = texts.around([texts.spaced(statement) for statement in statements]).encode()
        pgconn.exec_(_TO_THE_BEGINNING.encode())
        pgconn.send_query(text)
        results = collected(pgconn)
        if not is_valid(results):
            continue
        if not standard_strings and first_difference(text) is not None:
            continue  # effects are read as if the setting was on, as it nearly always is
        tested += 1
        pgconn.send_query(question)
        answers = [result.get_value(0, 0) == b"t" for result in collected(pgconn)]
        left = {lasting for lasting, is_there in zip(STATE, answers, strict=True) if is_there}
        said = {effect.lasting for effect in read(text).effects}
        assert said == {EFFECTS[statement] for statement in statements} - {None}, text
        if len(statements) == 1:  # of two, one may undo what the other one does
            assert left == said, text
        assert SECRET not in "".join(effect.name for effect in read(text).effects)
    assert tested > TEXTS / 6
