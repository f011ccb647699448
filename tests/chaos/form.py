"""The short form of a scenario, for ``make test``, and the long one, for ``make soak``."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")

VARIABLE = "GEVENTPG_CHAOS"
LONG = os.environ.get(VARIABLE, "short") == "long"


def pick(short: T, long: T) -> T:
    """Return the value for the form that runs: how often, how long, how many."""
    return long if LONG else short
