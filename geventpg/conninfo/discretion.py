"""Keep connection strings out of tracebacks. Values only: no I/O, no gevent.

Error reporters show the local variables of every frame that an exception came through, and
`traceback.TracebackException` can. Functions that handle connection strings must not leave them
there.
"""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import psycopg
from psycopg.errors import FinishedPGconn
from psycopg.pq.misc import ConninfoOption

P = ParamSpec("P")
R = TypeVar("R")


def discreet(function: Callable[P, R]) -> Callable[P, R]:
    """Make *function* leave no local variables in the traceback of an exception.

    That goes for everything below it too, callbacks included, and for the exceptions that were
    handled on the way (``__cause__``, ``__context__``). File, line and function stay.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        handled = sys.exc_info()[1]
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            del args, kwargs
            _clear_frames(error, handled)
            del handled
            raise

    return call


def hide_secrets(error: psycopg.Error) -> None:
    """Remove the secrets among the connection parameters that psycopg keeps with *error*."""
    pgconn = error.pgconn
    if isinstance(pgconn, FinishedPGconn):
        pgconn.password = b""
        pgconn.info = [
            option._replace(val=None) if _is_secret(option) else option for option in pgconn.info
        ]


def _is_secret(option: ConninfoOption) -> bool:
    # libpq marks passwords with "*", but calls these "debug options".
    return option.dispchar == b"*" or option.keyword.endswith((b"_key", b"_secret"))


def _clear_frames(error: BaseException, outer: BaseException | None) -> None:
    """Clear the frames of *error* and of what led to it; *outer* was there before."""
    remaining: list[BaseException | None] = [error]
    seen = {id(outer), id(None)}
    while remaining:
        current = remaining.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        traceback.clear_frames(current.__traceback__)
        remaining += [current.__cause__, current.__context__]
