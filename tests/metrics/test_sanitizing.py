"""Literals do not get into spans, whatever quotes they are in."""

from __future__ import annotations

import pytest

from geventpg.sql.sanitize import sanitized, summary_of

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("statement", "shown"),
    [
        ("select 1", "select ?"),
        ("select a1, $1, %s from t2 where b = -1.5e3", "select a1, $1, %s from t2 where b = -?"),
        ("select 'it''s', E'a\\'b', x'1f', U&'d'", "select ?, ?, ?, ?"),
        ('select "Mine""s" from "it\'s"', 'select "Mine""s" from "it\'s"'),
        ("do $$ begin 'x' end $$", "do ?"),
        ("select $tag$ $$ $tag$, 2", "select ?, ?"),
        ("select /* 1 */ a -- 'x\n, b", "select   a  \n, b"),
        ("select /* a /* 'b /**/ c */ hunter2 */ d", "select   d"),
        ("select /* a /* never ended */ hunter2", "select  "),
        ("select a /* ** / * **/, b / c * d", "select a  , b / c * d"),
        ("select 'never ended", "select ?"),
        ("select $$never ended", "select ?"),
        ("select t.a[3], 0x1F, 1_000, .5", "select t.a[?], ?, ?, ?"),
    ],
)
def test_literals_are_masked_and_nothing_else(statement, shown):
    assert sanitized(statement) == shown


@pytest.mark.parametrize(
    "quoted",
    [
        "'{}'",
        "E'\\'{}'",
        "E'\\\\'||'{}'",
        "$${}$$",
        "$a$ $b${}$b$ $a$",
        "'--{}'",
        "'/*{}'",
        "--{}",
        "/* ' {} */",
        "'\"{}'",
        "n'{}'",
    ],
)
def test_a_secret_does_not_survive_in_any_quotes(quoted):
    statement = f"select a from t where b = {quoted.format(SECRET)}"
    assert SECRET not in sanitized(statement)
    assert summary_of(statement) == "SELECT t"


@pytest.mark.parametrize(
    ("statement", "summary"),
    [
        ("select 1", "SELECT"),
        (" \n select * from only orders o where id = %s", "SELECT orders"),
        ("insert into shop.orders values (1)", "INSERT shop.orders"),
        ('update "Orders" set a = 1', 'UPDATE "Orders"'),
        ("delete from orders", "DELETE orders"),
        ("with x as (select 1) select * from x", "WITH"),
        ("-- why\nselect 'from secret'", "SELECT"),
        ("copy orders from stdin", "COPY orders"),
        ("", ""),
        ("select * from " + "x" * 500, "SELECT " + "x" * 248),
    ],
)
def test_a_summary_is_the_first_word_and_the_target(statement, summary):
    assert summary_of(statement) == summary
