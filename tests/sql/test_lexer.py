"""Where tokens begin and end: what is easy to get wrong, one by one.

`test_as_postgresql` compares the lexer with the server; this says what to look at when it fails.
"""

from __future__ import annotations

import pytest

from geventpg.sql.lexer import essence, first_difference, lex, split


def tokens(text, **options):
    return [text.encode()[start:end].decode() for _, start, end in lex(text.encode(), **options)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("select a, 1", ["select", "a", ",", "1"]),
        ("a/* b /* c */ */d", ["a", "/* b /* c */ */", "d"]),
        ("a /*/ b */ c", ["a", "/*/ b */", "c"]),
        ("a -- b\rc", ["a", "-- b", "c"]),
        ("a <--b\nc", ["a", "--b", "c"]),
        ("'it''s' 'two'", ["'it''s'", "'two'"]),
        ("'a'\n'b'", ["'a'\n'b'"]),
        ("'a' -- c\n -- d\n 'b'", ["'a' -- c\n -- d\n 'b'"]),
        ("E'\\'' 'a'", ["E'\\''", "'a'"]),
        ("E'a'\n'\\'b'", ["E'a'\n'\\'b'"]),
        ("'a\\' b", ["'a\\'", "b"]),
        ("U&'a' u&\"b\" u & 'c'", ["U&'a'", 'u&"b"', "u", "'c'"]),
        ("xe'a\\'", ["xe", "'a\\'"]),
        ("$$a$b$$ c", ["$$a$b$$", "c"]),
        ("$a$ $b$a$ c", ["$a$ $b$a$", "c"]),
        ("$é_1$ ' $é_1$", ["$é_1$ ' $é_1$"]),
        ("a$b$c$b$", ["a$b$c$b$"]),
        ("$1$2 $a", ["$1", "$2", "a"]),
        ("1$a$b$a$", ["1", "$a$b$a$"]),
        ('"a""b"."c', ['"a""b"', ".", '"c']),
        (".5 1.5e-3 1..2", [".5", "1.5e-3", "1..2"]),
        ("'never", ["'never"]),
        ("E'never\\", ["E'never\\"]),
        ("/* never /* */", ["/* never /* */"]),
        ("$a$never$a", ["$a$never$a"]),
    ],
)
def test_tokens_end_where_the_server_ends_them(text, expected):
    assert tokens(text) == expected


def test_a_backslash_escapes_where_the_session_says_so():
    assert tokens(r"'a\' b' c", standard_strings=False) == [r"'a\' b'", "c"]
    assert tokens(r"n'a\'b' x'a\'", standard_strings=False) == [r"n'a\'b'", r"x'a\'"]
    assert first_difference(rb"select 'a\' b'") == 7
    assert first_difference(rb"select 'a\b', E'\'', $$\$$") is None
    # In SJIS, this is one character and no backslash.
    assert first_difference(b"select '\x95\\'") == 9


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" ;/* a */-- b\n\n select 1 ; -- c", "select 1"),
        ("select 1 /* a /* b */ c */", "select 1"),
        ("select 1 /*key='it''s',b=\"c\"*/", "select 1"),
        ("select 1 -- it's", "select 1"),
        ("select 1 ---- a -- b", "select 1"),
        ("select 1 -- a /* b */", "select 1"),
        ("select '-- a'", "select '-- a'"),
        ("select '/* a */'", "select '/* a */'"),
        ("select $$ -- $$", "select $$ -- $$"),
        ("select 1 -- a\n+ 2", "select 1 -- a\n+ 2"),
        ("-- only", ""),
        ("/* only", ""),
        ("", ""),
    ],
)
def test_the_essence_is_without_what_is_around_it(text, expected):
    assert essence(text.encode()).decode() == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (";;", []),
        ("select ';'", ["select ';'"]),
        ("select 1; /* a; */ select 2;", ["select 1", "select 2"]),
        (
            "create procedure p() begin atomic select case when a then 1 end; end; select 1",
            [
                "create procedure p() begin atomic select case when a then 1 end; end",
                "select 1",
            ],
        ),
        (
            "create or replace function f() returns int begin atomic; select 1; end",
            ["create or replace function f() returns int begin atomic; select 1; end"],
        ),
        (
            "create rule r as on insert to t do (select 1; select 2); select 3",
            ["create rule r as on insert to t do (select 1; select 2)", "select 3"],
        ),
        ("begin; select 1; end", ["begin", "select 1", "end"]),
    ],
)
def test_a_text_has_as_many_statements_as_for_the_server(text, expected):
    assert [statement.decode() for statement in split(text.encode())] == expected
