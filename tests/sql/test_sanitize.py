"""Literals do not get into spans, whatever quotes they are in."""

from __future__ import annotations

import pytest

from geventpg.sql.reading import read_text

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
        ("select /* a /* never ended */ hunter2", "select"),
        ("select a /* ** / * **/, b / c * d", "select a  , b / c * d"),
        ("select 'never ended", "select ?"),
        ("select $$never ended", "select ?"),
        ("select t.a[3], 0x1F, 1_000, .5", "select t.a[?], ?, ?, ?"),
        ("-- why\rselect 1", "select ?"),
        ("select E'a'\n'\\'b', 'a' -- c\n 'b'", "select ?, ?"),
        ("select a$1$b, a$b$, 1;", "select a$1$b, a$b$, ?"),
        ("select n'a', é'b', '\xe9'", "select ?, é?, ?"),
        ("select %(a)s, %(b c)s, 5 %% 3", "select %(a)s, %(b c)s, ? %% ?"),
        ("select 'C:\\dir', '\\\\', 1", "select ?, ?, ?"),
        # Where it ends depends on a setting, or on what else is a string.
        ("select 1, 'a\\', 2", "select ?,…"),
        ("select %(it's)s, 'a'", "select %…"),
    ],
)
def test_literals_are_masked_and_nothing_else(statement, shown):
    assert read_text(statement).without_literals == shown


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
    assert SECRET not in read_text(statement).without_literals
    assert read_text(statement).summary == "SELECT t"


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
        ("select (select max(a) from b) from c", "SELECT c"),
        ("select a is distinct from b from c", "SELECT c"),
        ("select extract(year from t.at) from t", "SELECT t"),
        ("select * from (select * from inner_one) x", "SELECT inner_one"),
        ("(select 1 from only a)", "SELECT a"),
        ('select 1 from a . "b c" /* d */ . e', 'SELECT a."b c".e'),
        ("insert into orders select * from older", "INSERT orders"),
        ("copy (select 1 from a) to stdout", "COPY"),
        ("table orders", "TABLE orders"),
        ("", ""),
        ("select * from " + "x" * 500, "SELECT " + "x" * 248),
    ],
)
def test_a_summary_is_the_first_word_and_the_target(statement, summary):
    assert read_text(statement).summary == summary


def test_a_long_text_is_shown_in_part():
    shown = read_text(
        "select a from t where b in (" + "1, " * 5000 + f"'{SECRET}')"
    ).without_literals
    assert shown.startswith("select a from t where b in (?, ?")
    assert shown.endswith("…")
    assert len(shown) < 5000
    cut = "select '" + "x" * 4090 + SECRET
    assert read_text(cut).without_literals == "select ?…"
