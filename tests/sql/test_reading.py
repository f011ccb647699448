"""The one answer for each text: its kind, which way it may go, and how it is remembered."""

from __future__ import annotations

import tracemalloc

import pytest

from geventpg.sql import reading as module
from geventpg.sql.kinds import Kind
from geventpg.sql.reading import LONGEST, Reading, read, read_text
from geventpg.sql.recent import Recent

STATEMENT = b"SELECT id, total FROM orders WHERE customer = $1 AND state = 'open'"


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        (Kind.NOTHING, ["", " ; ", "-- nothing", "/* a /* b */ */"]),
        (
            Kind.QUERY,
            ["select 1", "VALUES (1)", "(select 1)", "( /* a */ select 1)", "with a as (b) c"],
        ),
        (Kind.QUERY, ["-- a\rselect 1", "select'a'", "table t", "merge into t", "select*from t"]),
        (Kind.TRANSACTION, ["begin", "start transaction", "commit", "end", "abort", "rollback"]),
        (Kind.TRANSACTION, ["rollback /* to */ work", "prepare/**/transaction 'a'"]),
        (
            Kind.SAVEPOINT,
            ["savepoint a", "release a", "rollback work -- b\n to a"],
        ),
        (
            Kind.COPY,
            ["copy t from stdin", "copy (select 1 from a) to stdout", "copy t(a) to stdout"],
        ),
        (Kind.SERVER_COPY, ["copy t from 'stdin'", "copy t(a) to program 'stdout'"]),
        (Kind.SESSION, ["set a = 1", "set local a = 1", "reset a", "listen a", "prepare a as b"]),
        (Kind.SESSION, ["discard all", "deallocate a", "declare a cursor for b", "unlisten *"]),
        (Kind.OTHER, ["commit prepared 'a'", "rollback prepared 'a'", "vacuum", "selects", "'a'"]),
        (Kind.OTHER, ['"select"', "\u017felect 1", "select1", "select_ 1", "begin$"]),
    ],
)
def test_a_text_is_of_one_kind(kind, texts):
    assert {text: read_text(text).kind for text in texts} == dict.fromkeys(texts, kind)


@pytest.mark.parametrize(
    "text",
    [
        "select 1",
        "/* trace=1 */ select ';' ; -- 2",
        "select $$a$$, '$1', 'a' /* $1; */ , b",
        "insert into t values (1)",
    ],
)
def test_what_may_go_in_pipeline_mode_with_and_without_parameters(text):
    reading = read_text(text)
    assert reading.pipelines(has_params=True)
    assert reading.pipelines(has_params=False)
    assert reading.may_share(has_params=False)


@pytest.mark.parametrize(
    "text", ["select 1; select 2", "select $1", r"select 'a\'; select 2 --'", "select 1; \\"]
)
def test_what_may_go_in_pipeline_mode_only_with_parameters(text):
    reading = read_text(text)
    assert reading.pipelines(has_params=True)
    assert not reading.pipelines(has_params=False)


@pytest.mark.parametrize("text", ["", "copy t from stdin", "set a = 1", "commit", "vacuum"])
def test_what_may_not_go_in_pipeline_mode(text):
    assert not read_text(text).pipelines(has_params=True)
    assert not read_text(text).pipelines(has_params=False)


def test_what_leaves_something_in_its_session_shares_no_connection():
    assert read(b"select pg_advisory_lock(1)").pipelines(has_params=False)
    assert not read(b"select pg_advisory_lock(1)").may_share(has_params=False)


def test_of_several_statements_each_kind_is_known():
    reading = read(b"select 1; /* a */ commit; listen a")
    assert reading.statements == [
        (Kind.QUERY, "SELECT"),
        (Kind.TRANSACTION, "COMMIT"),
        (Kind.SESSION, "LISTEN"),
    ]
    assert (reading.kind, reading.word) == (Kind.QUERY, "SELECT")


def test_a_long_text_is_read_in_part_and_not_kept():
    long = b"select '" + b"x" * LONGEST + b"'"
    assert read(long).pipelines(has_params=False)
    assert read(long).kind is Kind.QUERY
    assert not read(long + b"; select 1").pipelines(has_params=False)
    assert not read(long + b", $1").pipelines(has_params=False)
    assert read(long + b", $1").pipelines(has_params=True)
    assert read(long) is not read(long)


# -- the cache -----------------------------------------------------------------------------------


@pytest.fixture
def caches(monkeypatch):
    """Give the test caches of its own, of the usual size; return them."""
    monkeypatch.setattr(module, "_readings", Recent(entries=512, size=1 << 20))
    monkeypatch.setattr(module, "_commented", Recent(entries=128, size=1 << 18))
    return module._readings, module._commented


def test_texts_that_differ_in_their_comments_have_one_reading(caches):
    readings, commented = caches
    reading = read(STATEMENT)
    for number in range(10_000):
        assert read(b"/* trace=%d */ %b" % (number, STATEMENT)) is reading
        assert read(b"%b -- trace=%d" % (STATEMENT, number)) is reading
        assert read(b"%b /*traceparent='00-%d-01'*/" % (STATEMENT, number)) is reading
    assert len(readings) == 1
    assert len(commented) <= 2 * 128


def test_the_same_comment_each_time_is_found_at_once(caches):
    _, commented = caches
    text = b"-- find orders\n" + STATEMENT
    reading = read(text)
    assert commented.get(text) is reading
    assert read(b"".join([b"-- find orders\n", STATEMENT])) is reading


@pytest.mark.parametrize(
    ("number", "make"),
    [
        (100_000, lambda number: b"/* trace=%032x */ %b" % (number, STATEMENT)),
        (100_000, lambda number: b"%b -- trace=%032x" % (STATEMENT, number)),
        (10_000, lambda number: b"%b -- trace='%032x'" % (STATEMENT, number)),
        (10_000, lambda number: b"SELECT /* trace=%032x */ 1" % number),
        (10_000, lambda number: b"/* %d */ SELECT 1, '%b'" % (number, b"x" * 4000)),
        (10_000, lambda number: b'SELECT %d, "%b"' % (number, b"x" * 4000)),
        (10_000, lambda number: b'SELECT %d, "%b"' % (number, b"x" * 5000)),
    ],
    ids=["in front", "behind", "behind, in quotes", "inside", "large", "large core", "too large"],
)
@pytest.mark.usefixtures("caches")
def test_however_many_texts_differ_the_memory_is_bounded(number, make):
    tracemalloc.start()
    try:
        for which in range(number):
            assert read(make(which)).without_literals
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Two generations of 1 MiB of texts and 256 KiB of commented ones, and each text twice more in
    # its reading: as it was, and without literals.
    assert peak < 8 << 20


def test_what_is_asked_for_again_survives_what_is_not(caches):
    readings, _ = caches
    hot = read(STATEMENT)
    for number in range(5000):
        read(b"SELECT %d" % number)
        assert read(STATEMENT) is hot
    assert len(readings) <= 2 * 512


def test_a_cache_has_a_bound_in_entries_and_in_bytes():
    recent = Recent[int](entries=3, size=100)
    for number in range(10):
        recent.put(b"%d" % number, number)
        assert len(recent) <= 6
        assert recent.get(b"%d" % number) == number
    assert recent.get(b"0") is None
    recent = Recent[int](entries=3, size=100)
    for number in range(10):
        recent.put(b"%d" % number * 60, number)
        assert len(recent) <= 2
    assert recent.get(b"9" * 60) == 9
    assert recent.get(b"8" * 60) == 8
    assert recent.get(b"7" * 60) is None


def test_a_reading_is_made_in_parts_that_are_kept():
    reading = Reading(STATEMENT)
    assert reading.without_literals is reading.without_literals
    assert reading.summary is reading.summary == "SELECT orders"
