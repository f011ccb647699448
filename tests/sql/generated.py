"""Texts of statements made at random, full of what a reader of SQL can stumble over."""

from __future__ import annotations

import random
import re

SECRET = "hunter2"
NUMBER = "987654321"

# What the insides of comments, strings and names are made of.
_PIECES = [
    *("'", "''", '"', '""', "$$", "$a$", "$1", ";", "--", "-", "/", "*", "\\", "\\\\", "\\'", "%s"),
    *("E'", "U&'", "begin", "end", "commit", "copy", "é", "\u017fet", "(", ")", ","),
    *("set x", "a", "1", " ", "\n", "\r"),
]


_STATEMENTS = [
    "set local search_path to {}",
    "insert into generated values ({})",
    "update generated set a = {} where false",
    "show work_mem",
    "table generated",
    # Semicolons that do not end a statement.
    (
        "create or replace function pg_temp.f() returns text language sql begin atomic"
        " select case when true then 'x' end ; select 'y' ; end"
    ),
    "create or replace rule r as on insert to ruled do ( select 1 ; select {} )",
]


class Texts:
    """A source of texts; each call of its methods gives another one."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def text(self) -> str:
        """Return a text of no, one or a few statements."""
        rng = self._rng
        number = rng.choice([0, 1, 1, 1, 1, 1, 1, 2, 2, 3])
        statements = [self.statement() for _ in range(number)]
        if rng.random() < 0.1:
            statements.insert(rng.randrange(number + 1), "")
        return self.around(statements)

    def garbage(self) -> str:
        """Return a text that is hardly ever a valid statement."""
        pieces = [*_PIECES, "1", "1,", "'a'", " as b", ";select 2"]
        return "select " + "".join(self._rng.choices(pieces, k=self._rng.randrange(1, 9)))

    def around(self, statements: list[str]) -> str:
        """Return statements as one text, with blanks and comments around each of them."""
        separator = f"{self.gap(0.5)};{self.gap(0.5)}"
        text = self.gap(0.3) + separator.join(statements) + self.gap(0.3)
        return text + self._rng.choice(["", "", "", ";", " ; ;\n"]) + self.gap(0.2)

    def statement(self) -> str:
        """Return a statement that the server executes, unless its strings are broken."""
        rng = self._rng
        kind = rng.randrange(10)
        if kind < 5:
            return f"{self.spaced('select')}{self.gap()}{self._columns()}"
        if kind == 5:
            return f"{self.spaced('values')}{self.gap(0.3)}({self._columns(names=False)})"
        if kind == 6:
            before, behind = self.spaced("with x as ( select"), self.spaced(") select * from x")
            return f"{before}{self.gap()}{self._columns()}{self.gap()}{behind}"
        if kind == 7:
            return f"{self.spaced('( select')}{self.gap()}{self._columns()}{self.gap(0.2)})"
        return self.spaced(rng.choice(_STATEMENTS))

    def spaced(self, words: str) -> str:
        """Return words with something between each two, the first one in any case.

        A word that is ``{}`` becomes a string.
        """
        first, *rest = words.split()
        first = self._rng.choice([first, first.upper(), first.title()])
        rest = [self._string() if word == "{}" else word for word in rest]
        return "".join([first, *(self.gap() + word for word in rest)])

    def gap(self, comments: float = 0.1) -> str:
        """Return blanks and comments, at least one of them."""
        rng = self._rng
        gap = rng.choice([" ", "\n", "\t", "\r\n", "\f", "  "])
        while rng.random() < comments:
            gap += rng.choice([self._block_comment, self._line_comment])() + rng.choice(["", " "])
        return gap

    def _insides(self, most: int = 4) -> str:
        pieces = self._rng.choices(_PIECES, k=self._rng.randrange(most))
        return "".join([*pieces, SECRET, *self._rng.choices(_PIECES, k=self._rng.randrange(most))])

    def _block_comment(self, depth: int = 0) -> str:
        insides = [re.sub(r"\*+/|/\*+", " ", self._insides()).strip("*/")]
        if depth < 3 and self._rng.random() < 0.4:
            insides += [self._block_comment(depth + 1), self._insides(1)]
        return f"/*{' '.join(insides)}{self._rng.choice(['', '*', ' '])}*/"

    def _line_comment(self) -> str:
        return "--" + re.sub("[\n\r]", " ", self._insides()) + self._rng.choice("\n\r")

    def _columns(self, *, names: bool = True) -> str:
        rng = self._rng
        columns = []
        for _ in range(rng.randrange(1, 4)):
            column = self._expression()
            if names and rng.random() < 0.3:
                column += f"{self.gap()}as{self.gap(0.2)}{self._name()}"
            columns.append(column)
        return f"{self.gap(0.1)},".join(columns)

    def _expression(self) -> str:
        rng = self._rng
        left = rng.choice([self._string, self._number, self._string, self._null])()
        if rng.random() < 0.2:
            return f"{left}{self.gap(0.2)}is{self.gap()}null"
        return left

    def _null(self) -> str:
        return self._rng.choice(["null", "true", "current_user", "pg_catalog.pi()"])

    def _number(self) -> str:
        return self._rng.choice(["", "-", "+ ", "- "]) + self._rng.choice(
            [NUMBER, f"{NUMBER}.5", f".{NUMBER}", f"1.{NUMBER}e-3", f"{NUMBER}e+2"]
        )

    def _string(self) -> str:
        return self._rng.choice(
            [self._plain, self._plain, self._plain, self._escaped, self._dollar, self._other]
        )()

    def _plain(self) -> str:
        """Return a string in plain quotes; whether it ends there depends on its backslashes."""
        quoted = "'" + self._insides().replace("''", "'").replace("'", "''") + "'"
        if self._rng.random() < 0.3:  # right if backslashes escape
            quoted = "'" + re.sub(r"\\*'+", r"\\'", self._insides()) + "'"
        if self._rng.random() < 0.1:
            quoted += self._rng.choice(["\n", " \n -- it's\n", "\r\t"]) + "'" + SECRET + "'"
        return quoted

    def _escaped(self) -> str:
        insides = re.sub(r"\\*'+", lambda _: self._rng.choice(["''", r"\'"]), self._insides())
        quoted = f"{self._rng.choice('eE')}'{insides}'"
        if self._rng.random() < 0.2:
            quoted += (
                rf"{self._rng.choice([chr(10), '  -- it' + chr(39) + 's' + chr(10)])}'\'{SECRET}'"
            )
        return quoted

    def _dollar(self) -> str:
        tag = self._rng.choice(["", "a", "_b1", "é", "select"])
        insides = self._insides(6).replace(f"${tag}$", "").rstrip("$")
        return f"${tag}${insides}${tag}$"

    def _other(self) -> str:
        return self._rng.choice(
            [
                f"n'{SECRET}'",
                f"N'it''s {SECRET}'",
                f"u&'{SECRET}\\0061''--'",
                f"U&'{SECRET}'",
                "b'1010'",
                "X'1F'\n'2e'",
            ]
        )

    def _name(self) -> str:
        name = re.sub(f"{SECRET}|[\n\r]", "", self._insides()).replace('"', '""')
        return self._rng.choice(["a", "a$b$c", "é", 'U&"a\\0061"', f'"x{name}"', "aé1"])
