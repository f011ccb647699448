"""The reader of SQL and PostgreSQL's own agree about texts that are made at random.

Each test prints its seed when it fails, see `rng`.
"""

from __future__ import annotations

import psycopg
import pytest
from psycopg import pq

from geventpg.sql.kinds import kind_of
from geventpg.sql.lexer import essence, split
from geventpg.sql.reading import read
from tests.sql.generated import NUMBER, SECRET, Texts

TEXTS = 1500
SYNTAX_ERROR = b"42601"
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
        text = texts.text().encode()
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
        if word in ("VALUES", "TABLE", "WITH"):
            word = "SELECT"
        assert word == tag, note
        assert (kind.value == "query") == (tag in ("SELECT", "INSERT", "UPDATE")), note


def assert_no_literals(pgconn, reading, note):
    shown = reading.without_literals
    assert SECRET not in shown, note
    assert NUMBER not in shown, note
    assert SECRET not in reading.summary
    if len(reading.statements) == 1 and not shown.endswith("…"):
        parsed = pgconn.prepare(b"", shown.replace("?", "'x'").encode())
        assert parsed.error_field(SQLSTATE) != SYNTAX_ERROR, f"{note}: {shown}"
