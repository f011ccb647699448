"""The same program on psycopg's connection and on ours: everything that a user can see is equal.

Ours sends BEGIN along with a transaction's first statement; no caller must notice.
"""

from __future__ import annotations

import re

import psycopg
import pytest
from psycopg import rows

from tests.connection.comparison import assert_same, note_error, note_results, state
from tests.connection.helpers import Attempt

CURSORS = {
    "default": None,
    "client": psycopg.ClientCursor,
    "raw": psycopg.RawCursor,
}

# (statement, parameters); the first statement of a transaction, each time.
STATEMENTS = {
    "select": ("select 1 as one, 'text' as two, null as three", None),
    "select of nothing": ("select 1 where false", None),
    "select without columns": ("select", None),
    "select with parameters": ("select %s::int + 1, %s::text, %s::float8", (1, "two", 3.5)),
    "select with one parameter": ("select %s", ("x",)),
    "select with empty parameters": ("select 1", ()),
    "select with a percent sign": ("select 10 %% 4, %s::int", (1,)),
    "select with types": (
        "select %s::date, %s::jsonb, %s::int[], %s::bytea, %s::numeric, %s::uuid",
        (
            "2024-02-29",
            '{"a": 1}',
            [1, 2, 3],
            b"\0\1",
            "1.50",
            "8f14e45f-ceea-467f-a0e6-3f5cd2b4b1a5",
        ),
    ),
    "insert": ("insert into compared values (1, 'a'), (2, 'b')", None),
    "insert returning": ("insert into compared values (%s, %s) returning *", (3, "c")),
    "update": ("update compared set note = 'x'", None),
    "delete": ("delete from compared where id = %s", (99,)),
    "merge": (
        """
        merge into compared using (select 1 as i) s on id = s.i
         when not matched then insert values (s.i, 'm')
        """,
        None,
    ),
    "with": ("with w as (select 1 as i) select * from w", None),
    "values": ("values (1, 'a'), (2, 'b')", None),
    "lower and upper case": ("  SeLeCt 5", None),
    "comment first": ("-- a comment\nselect 6", None),
    "block comment first": ("/* a /* nested */ comment */ select 7", None),
    "comment that hides a statement": ("select 1 -- ; drop table compared", None),
    "semicolon at the end": ("select 8;", None),
    "semicolon and parameters": ("select %s::int;", (8,)),
    "semicolon in a literal": ("select 'a;b'", None),
    "two statements": ("select 1; select 2", None),
    "two statements and parameters": ("select %s::int; select 2", (1,)),
    "two statements, the second fails": ("insert into compared values (5, 'e'); select 1/0", None),
    "transaction control in one string": ("select 1; commit; select 2", None),
    "parentheses": ("(select 1) union (select 2) order by 1", None),
    "empty": ("", None),
    "only a semicolon": (";", None),
    "only a comment": ("-- nothing", None),
    "syntax error": ("select from where", None),
    "syntax error at the start": ("selec 1", None),
    "unknown table": ("select * from nowhere_to_be_found", None),
    "unknown column": ("select nope from compared", None),
    "unknown function": ("select no_such_function(%s)", (1,)),
    "division by zero": ("select 1/0", None),
    "division by a parameter": ("select 1/%s::int", (0,)),
    "error after rows": ("select 1/(5 - i) from generate_series(1, 10) as i", None),
    "constraint": ("insert into compared values (null, 'x')", None),
    "bad input": ("select %s::int", ("not a number",)),
    "undetermined type": ("select %s", (None,)),
    "a parameter of the server's": ("select $1", None),
    "set": ("set local work_mem = '5MB'", None),
    "show": ("show transaction_isolation", None),
    "set transaction": ("set transaction isolation level serializable", None),
    "vacuum": ("vacuum compared", None),
    "create and drop": ("create table created_here (i int); drop table created_here", None),
    "truncate": ("truncate compared", None),
    "call": ("call no_such_procedure()", None),
    "do": ("do $$ begin raise notice 'noticed'; end $$", None),
    "explain": ("explain (costs off) select 1", None),
    "lock": ("lock table compared", None),
    "prepare": ("prepare p as select 1", None),
    "begin": ("begin", None),
    "commit": ("commit", None),
    "rollback": ("rollback", None),
    "savepoint": ("savepoint s", None),
    "copy out": ("copy compared to stdout", None),
    "copy in": ("copy compared from stdin", None),
    "notify": ("notify compared, 'x'", None),
    "a function that raises a notice": ("select set_config('search_path', 'public', true)", None),
    "select into": ("select 1 as i into temporary into_here", None),
    "select for update": ("select * from compared for update", None),
    "explicit binary result": ("select 1::int4, 'x'::text", None),
    "unicode": ("select 'grüß' as \"naïve\", %s::text", ("日本",)),
    "a long text": ("select repeat('x', 100000)", None),
    "terminates itself": ("select pg_terminate_backend(pg_backend_pid())", None),
    "cancels itself": ("select pg_cancel_backend(pg_backend_pid()), pg_sleep(1)", None),
    "transaction state": ("select pg_current_xact_id_if_assigned() is null", None),
    "serial read": ("select current_setting('transaction_isolation'), txid_current() > 0", None),
}

# What a statement's text cannot have under another cursor class.
PYFORMAT = re.compile(r"%[s%]")


@pytest.fixture(scope="module", autouse=True)
def compared_table(pg):
    with pg.connect() as conn:
        conn.execute("drop table if exists compared")
        conn.execute("create table compared (id int not null, note text)")
        conn.execute("insert into compared values (1, 'one')")
        yield
        conn.execute("drop table compared")


def attempt(conn, cur, seen, query, params, **options):
    """Execute and note everything; a COPY by execute() leaves psycopg's connection busy."""
    try:
        cur.execute(query, params, **options)
    except psycopg.Error as error:
        note_error(error, seen)
    else:
        note_results(cur, seen)
    seen.append(state(conn))
    if conn.info.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
        conn.close()
    if not conn.closed:
        seen.append(cur._query.query if cur._query else None)


def try_rollback(conn, seen):
    try:
        conn.rollback()
    except psycopg.Error as error:
        note_error(error, seen)
    seen.append(state(conn))


@pytest.mark.parametrize("cursor", CURSORS.values(), ids=CURSORS)
@pytest.mark.parametrize(("query", "params"), STATEMENTS.values(), ids=STATEMENTS)
def test_a_first_statement(dsn, query, params, cursor):
    if cursor is psycopg.RawCursor:
        number = iter(range(1, 100))
        query = PYFORMAT.sub(lambda m: "%" if m[0] == "%%" else f"${next(number)}", query)

    def program(conn, seen):
        if cursor is not None:
            conn.cursor_factory = cursor
        cur = conn.cursor()
        attempt(conn, cur, seen, query, params)
        if not conn.closed:
            # What the transaction is like now.
            attempt(conn, conn.cursor(), seen, "select count(*) from compared", None)
            try_rollback(conn, seen)
            # Once more, with the same cursor, and committed.
            attempt(conn, cur, seen, query, params)
        if not conn.closed:
            try_rollback(conn, seen)

    assert_same(dsn, program)


PLAIN = ["select", "select with parameters", "insert returning", "division by zero", "empty"]
PLAIN += ["constraint", "two statements", "values", "unknown table", "select with types"]


@pytest.mark.parametrize("name", PLAIN)
def test_a_first_statement_until_it_is_prepared_and_after(dsn, name):
    query, params = STATEMENTS[name]

    def program(conn, seen):
        conn.prepare_threshold = 2
        for number in range(6):
            attempt(conn, conn.cursor(), seen, query, params)
            if number % 2:
                conn.rollback()
            else:
                try_rollback(conn, seen)
            seen.append((len(conn._prepared._names), len(conn._prepared._counts)))
        prepared = conn.execute("select statement from pg_prepared_statements order by 1")
        seen.append(prepared.fetchall())

    assert_same(dsn, program)


@pytest.mark.parametrize("prepare", [True, False])
@pytest.mark.parametrize("name", PLAIN)
def test_a_first_statement_with_prepare_given(dsn, name, prepare):
    query, params = STATEMENTS[name]

    def program(conn, seen):
        for _ in range(3):
            attempt(conn, conn.cursor(), seen, query, params, prepare=prepare)
            try_rollback(conn, seen)
        count = "select count(*) from pg_prepared_statements"
        seen.append(conn.execute(count).fetchone())

    assert_same(dsn, program)


@pytest.mark.parametrize("name", PLAIN)
def test_a_first_statement_with_a_binary_result(dsn, name):
    query, params = STATEMENTS[name]

    def program(conn, seen):
        attempt(conn, conn.cursor(binary=True), seen, query, params)
        try_rollback(conn, seen)
        attempt(conn, conn.cursor(), seen, query, params, binary=True)

    assert_same(dsn, program)


@pytest.mark.parametrize(
    "factory",
    [rows.dict_row, rows.scalar_row, rows.namedtuple_row, rows.args_row(lambda *a: a)],
    ids=["dict", "scalar", "namedtuple", "args"],
)
def test_row_factories(dsn, factory):
    def program(conn, seen):
        conn.row_factory = factory
        seen.append(conn.execute("select 1 as a, 2 as b").fetchall())
        conn.commit()
        seen.append(conn.cursor(row_factory=factory).execute("select %s as c", ["x"]).fetchone())

    assert_same(dsn, program)


@pytest.mark.parametrize(
    "settings",
    [
        {"isolation_level": psycopg.IsolationLevel.SERIALIZABLE},
        {"isolation_level": psycopg.IsolationLevel.REPEATABLE_READ, "read_only": True},
        {"read_only": True},
        {"read_only": False},
        {
            "isolation_level": psycopg.IsolationLevel.SERIALIZABLE,
            "read_only": True,
            "deferrable": True,
        },
        {"deferrable": False},
    ],
    ids=" ".join,
)
def test_the_characteristics_of_transactions(dsn, settings):
    names = "transaction_isolation", "transaction_read_only", "transaction_deferrable"
    query = "select " + ", ".join(f"current_setting('{name}')" for name in names)

    def program(conn, seen):
        for name, value in settings.items():
            setattr(conn, name, value)
        attempt(conn, conn.cursor(), seen, query, None)
        conn.rollback()
        attempt(conn, conn.cursor(), seen, "insert into compared values (7, 'x')", None)
        try_rollback(conn, seen)
        with conn.transaction():
            attempt(conn, conn.cursor(), seen, query, None)
        for name in settings:
            setattr(conn, name, None)
        attempt(conn, conn.cursor(), seen, query, None)
        try:
            conn.read_only = True
        except psycopg.Error as error:
            note_error(error, seen)

    assert_same(dsn, program)


def test_autocommit_runs_what_a_transaction_block_forbids(dsn):
    def program(conn, seen):
        conn.autocommit = True
        attempt(conn, conn.cursor(), seen, "vacuum compared", None)
        attempt(conn, conn.cursor(), seen, "select 1", None)
        with conn.transaction():
            attempt(conn, conn.cursor(), seen, "select 2", None)
            attempt(conn, conn.cursor(), seen, "vacuum compared", None)
            raise psycopg.Rollback
        attempt(conn, conn.cursor(), seen, "select 1/0", None)

    assert_same(dsn, program)


def test_other_ways_to_begin_a_transaction(dsn):
    def program(conn, seen):
        cur = conn.cursor()
        cur.executemany("insert into compared values (%s, 'm') returning id", [(1,), (2,)])
        seen.append((cur.rowcount, state(conn)))
        conn.rollback()
        cur.executemany("select %s::int", [(1,), (2,)], returning=True)
        note_results(cur, seen)
        conn.rollback()
        with cur.copy("copy compared to stdout") as copy:
            seen.append([bytes(data) for data in copy])
        seen.append((cur.rowcount, cur.statusmessage, state(conn)))
        conn.rollback()
        with cur.copy("copy compared from stdin") as copy:
            copy.write_row((8, "eight"))
        seen.append((cur.rowcount, cur.statusmessage, state(conn)))
        conn.rollback()
        seen.append((list(cur.stream("select generate_series(1, 3)")), state(conn)))
        conn.rollback()
        with conn.cursor("named") as named:
            named.execute("select generate_series(1, 3)")
            seen.append((named.fetchall(), state(conn)))
        conn.rollback()
        with conn.pipeline():
            pipelined = conn.execute("select 4")
            seen.append((pipelined.fetchone(), state(conn)))
        conn.rollback()
        with conn.transaction(), conn.transaction():
            attempt(conn, cur, seen, "select 5", None)
        seen.append(state(conn))

    assert_same(dsn, program)


def test_mistakes_of_the_caller(dsn):
    def program(conn, seen):
        def wrong(function, *args, **kwargs):
            try:
                function(*args, **kwargs)
            except Exception as error:
                text = re.sub(r"0x\w+", "", str(error)) if isinstance(error, psycopg.Error) else ""
                seen.append((type(error), text))
            # Whether BEGIN was sent before the mistake is found out does not matter.
            if not conn.closed:
                seen.append(conn.pgconn.pipeline_status)
                conn.rollback()
                seen.append(conn.execute("select 'usable'").fetchone())
                conn.rollback()

        wrong(conn.execute, "select %s", [1, 2])
        wrong(conn.execute, "select %s")
        wrong(conn.execute, "select %(a)s", [1])
        wrong(conn.execute, "select %x", [1])
        wrong(conn.execute, "select %s", [object()])
        wrong(conn.execute, "select %s", "text")
        wrong(conn.execute, "select %s::text", ["with a \0 in it"])
        wrong(conn.execute, "select \0")
        wrong(conn.execute, 42)
        wrong(conn.execute, "select 1 in (" + ",".join(["%s"] * 70_000) + ")", [1] * 70_000)
        cur = conn.cursor()
        wrong(cur.fetchone)
        cur.close()
        wrong(cur.execute, "select 1")
        conn.close()
        wrong(conn.execute, "select 1")
        wrong(conn.cursor)
        wrong(conn.commit)
        wrong(conn.rollback)
        wrong(conn.set_autocommit, True)
        wrong(conn.cancel)
        wrong(conn.close)

    assert_same(dsn, program)


def test_a_server_that_gives_up_the_session_between_statements(dsn):
    def program(conn, seen):
        conn.execute("set idle_in_transaction_session_timeout = '30ms'")
        with psycopg.connect(dsn, autocommit=True) as other:
            pid = conn.info.backend_pid
            gone = "select count(*) = 0 from pg_stat_activity where pid = %s"
            while not other.execute(gone, [pid]).fetchone()[0]:
                pass
        attempt(conn, cur := conn.cursor(), seen, "select 1", None)
        seen.append(cur.closed)

    assert_same(dsn, program)


def test_a_connection_that_is_lost_before_the_first_statement(dsn):
    def program(conn, seen):
        cur = conn.cursor()
        with psycopg.connect(dsn, autocommit=True) as other:
            other.execute("select pg_terminate_backend(%s, 5000)", [conn.info.backend_pid])
        attempt(conn, cur, seen, "select 1", None)

    assert_same(dsn, program)


def test_the_first_statement_costs_one_round_trip_and_not_two(connect, proxy, dsn):
    conn = connect(proxy.dsn(dsn))
    with psycopg.connect(proxy.dsn(dsn)) as stock:
        proxy.delay(0.05)
        for query in ("select 1", "insert into compared values (1, 'x')"):
            ours = Attempt(conn.execute, query).join()
            theirs = Attempt(stock.execute, query).join()
            assert ours.error is None
            assert theirs.error is None
            # 0.1 s a round trip.
            assert ours.took < 0.19
            assert theirs.took > 0.19
            proxy.delay(0)
            conn.rollback()
            stock.rollback()
            proxy.delay(0.05)
        proxy.delay(0)
