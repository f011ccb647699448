"""The one workload every peer runs: a row by its primary key, from a table of 100,000."""

from __future__ import annotations

from collections.abc import Sequence
from random import random
from typing import Any

ROWS = 100_000
TABLE = "geventpg_bench"
SELECT = f"SELECT id, payload FROM {TABLE} WHERE id = %s"
SELECT_DOLLAR = f"SELECT id, payload FROM {TABLE} WHERE id = $1"
SELECT_PGBENCH = f"\\set id random(1, {ROWS})\nSELECT id, payload FROM {TABLE} WHERE id = :id;\n"

# psycopg prepares a statement at its sixth execution, and once per parameter type: it sends
# smallint up to 32,767 and integer above. Every connection sees both kinds before measuring.
WARM_KEYS = tuple(range(1, 9)) + tuple(range(ROWS - 7, ROWS + 1))


class WrongRowError(AssertionError):
    """A peer returned something other than the row that was asked for."""


def random_key() -> int:
    return int(random() * ROWS) + 1


def require(row: Sequence[Any] | None, key: int) -> None:
    if row is None or row[0] != key:
        raise WrongRowError(f"asked for the row with id {key}, got {row!r}")
