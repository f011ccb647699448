"""What the tests of batches share."""

from __future__ import annotations

from typing import Any

import geventpg

INSERT = "insert into things values (%s, %s) returning id"


def batch_of(*statements: Any, **options: Any) -> geventpg.Batch:
    """Return a batch of statements, each a text or a text with its parameters."""
    batch = geventpg.Batch(**options)
    for statement in statements:
        batch.queue(*([statement] if isinstance(statement, str) else statement))
    return batch


def numbers(count: int) -> geventpg.Batch:
    """Return a batch whose n-th result is n."""
    return batch_of(*(("select %s::int", (number,)) for number in range(count)))


def inserts(tag: str, count: int = 50) -> geventpg.Batch:
    """Return a batch that puts the numbers up to *count* into the table, with *tag*."""
    return batch_of(*((INSERT, (number, tag)) for number in range(count)))


def rows(results: Any) -> list[Any]:
    """Return the rows of each result."""
    return [result.rows for result in results]


def check_pool(pool: Any) -> None:
    """Check that the next batch, and the next statement, get the right answers."""
    assert rows(pool.send_batch(numbers(7))) == [[(number,)] for number in range(7)]
    with pool.connection() as conn:
        assert conn.pgconn.pipeline_status == 0
        assert conn.execute("select 5").fetchone() == (5,)
