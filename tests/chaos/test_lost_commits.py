"""Connections cut anywhere in a transaction: what is reported happened, and happened once."""

from __future__ import annotations

from collections import Counter

import psycopg
import pytest

import geventpg
from tests.chaos.form import pick
from tests.transactions.conftest import configure, notes

__all__ = ["configure", "notes"]

CUTS = pick(short=40, long=2500)  # of each of four kinds
INSERT = "insert into notes values (%s)"


@pytest.fixture
def cut_at_random(configure, proxy, dsn, rng):
    """Return a function that runs *work* again and again, cut at a random byte of each run.

    *work* gets the pool's name, the note to write, and what to call when its transaction begins.
    """
    name = configure(proxy.dsn(dsn), max_size=1)

    def cut_at_random(work, direction):
        before = proxy.forwarded(direction)
        for warm in range(3):  # the last is like those that follow
            before = proxy.forwarded(direction)
            work(name, f"warm {warm}", lambda: None)
        length = proxy.forwarded(direction) - before
        for number in range(CUTS):
            # Anywhere, and as often around COMMIT: in it, in its answer, and after that.
            anywhere, around_commit = rng.randrange(length), length + rng.randrange(-60, 30)
            offset = rng.choice([anywhere, around_commit])
            note = f"{number:05}"
            try:
                work(name, note, lambda at=offset: proxy.cut_next(at, direction))
            except psycopg.Error as error:
                yield note, error
            else:
                yield note, None

    return cut_at_random


@pytest.mark.slow
@pytest.mark.hang_limit(600)
@pytest.mark.parametrize("direction", ["from_server", "from_client"])
def test_a_transaction_cut_anywhere(cut_at_random, notes, direction, figures):
    def work(name, note, begin):
        with geventpg.transaction(name) as conn:
            begin()
            conn.execute(INSERT, (note,))
            conn.execute("select 1")

    outcomes = dict(cut_at_random(work, direction))
    there = Counter(note for note in notes() if not note.startswith("warm"))
    reported = {note for note, error in outcomes.items() if error is None}
    unknown = {n for n, error in outcomes.items() if isinstance(error, geventpg.CommitUnknown)}
    wrong = (reported ^ set(there)) - unknown
    figures.at_least("transactions", len(outcomes), CUTS)
    figures.at_least("of them reported as not committed", CUTS - len(reported), CUTS / 10)
    figures.at_least("of them reported as committed", len(reported), 1)
    figures.at_most("outcomes that could not be told", len(unknown), 0)
    figures.at_most("outcomes misreported", len(wrong), 0)
    figures.at_most("duplicate writes", sum(there.values()) - len(there), 0)


@pytest.mark.slow
@pytest.mark.hang_limit(600)
@pytest.mark.parametrize("direction", ["from_server", "from_client"])
def test_a_repeated_transaction_cut_anywhere(cut_at_random, notes, direction, figures):
    runs = Counter()

    def work(name, note, begin):
        def body(conn):
            if not runs[note]:
                begin()
            runs[note] += 1
            conn.execute(INSERT, (note,))
            conn.execute("select 1")

        geventpg.run_in_transaction(body, pool=name)

    outcomes = dict(cut_at_random(work, direction))
    failed = [error for error in outcomes.values() if error is not None]
    there = Counter(note for note in notes() if not note.startswith("warm"))
    repeated = sum(runs[note] > 1 for note in outcomes)
    figures.at_least("transactions", len(outcomes), CUTS)
    figures.at_least("of them run again", repeated, CUTS / 10)
    figures.at_most("that failed", len(failed), 0)
    figures.at_most("writes that are not there", len(set(outcomes) - set(there)), 0)
    figures.at_most("duplicate writes", sum(there.values()) - len(there), 0)
