"""Pool options: one table of names, types and bounds. Values only: no I/O, no gevent.

The same names are used by ``Pool``, ``configure``, the Celery configuration and the
``GEVENTPG_*`` environment variables, and every one of them is checked here, when the pool
is configured.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psycopg

from geventpg.conninfo.checks import check_parameters, type_name
from geventpg.conninfo.discretion import discreet
from geventpg.errors import OptionError

ENVIRONMENT_PREFIX = "GEVENTPG_"

PREPARE_MODES = ("auto", "always", "never")


@dataclass(frozen=True)
class Option:
    """One option: how to check it and how to read it from an environment variable."""

    name: str
    check: Callable[[str, Any], None]
    parse: Callable[[str], Any] | None = None


def _number(*, minimum: float, exclusive: bool = False) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise OptionError(f"{name} must be a number of seconds, not {type_name(value)}")
        if math.isnan(value) or value < minimum or (exclusive and value == minimum):
            bound = "more than" if exclusive else "at least"
            raise OptionError(f"{name} must be {bound} {minimum:g} seconds, not {value!r}")

    return check


def _integer(*, minimum: int, optional: bool = False) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if value is None and optional:
            return
        if isinstance(value, bool) or not isinstance(value, int):
            raise OptionError(f"{name} must be an integer, not {type_name(value)}")
        if value < minimum:
            hint = "cannot be negative" if minimum == 0 else f"must be at least {minimum}"
            raise OptionError(f"{name} {hint}, not {value!r}")

    return check


def _boolean(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise OptionError(f"{name} must be True or False, not {type_name(value)}")


def _optional_boolean(name: str, value: Any) -> None:
    if value is not None:
        _boolean(name, value)


def _text(name: str, value: Any) -> None:
    if value is not None and not isinstance(value, str):
        raise OptionError(f"{name} must be a string, not {type_name(value)}")


def _callable(name: str, value: Any) -> None:
    if value is not None and not callable(value):
        raise OptionError(f"{name} must be callable, not {type_name(value)}")


def _connection_class(name: str, value: Any) -> None:
    # Generic aliases (Connection[MyRow]) are callable but not types.
    origin = getattr(value, "__origin__", value)
    if not (isinstance(origin, type) and issubclass(origin, psycopg.Connection)):
        shown = value.__name__ if isinstance(value, type) else type_name(value)
        raise OptionError(f"{name} must be a subclass of psycopg.Connection, not {shown}")


def _kwargs(name: str, value: Any) -> None:
    if value is not None and not callable(value) and not isinstance(value, Mapping):
        raise OptionError(f"{name} must be a dict or a callable, not {type_name(value)}")
    if isinstance(value, Mapping):
        check_parameters(value)


def _prepare(name: str, value: Any) -> None:
    if value not in PREPARE_MODES:
        raise OptionError(f"{name} must be one of {', '.join(PREPARE_MODES)}")


def _parse_bool(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("0", "false", "no", "off"):
        return False
    raise ValueError("neither true nor false")


_OPTIONS: tuple[Option, ...] = (
    Option("connection_class", _connection_class),
    Option("kwargs", _kwargs),
    Option("min_size", _integer(minimum=0), int),
    Option("max_size", _integer(minimum=0, optional=True), int),
    Option("open", _optional_boolean),
    Option("configure", _callable),
    Option("check", _callable),
    Option("reset", _callable),
    Option("name", _text),
    Option("close_returns", _boolean, _parse_bool),
    Option("timeout", _number(minimum=0), float),
    Option("max_waiting", _integer(minimum=0), int),
    Option("max_lifetime", _number(minimum=0, exclusive=True), float),
    Option("max_idle", _number(minimum=0, exclusive=True), float),
    Option("reconnect_timeout", _number(minimum=0), float),
    Option("reconnect_failed", _callable),
    Option("num_workers", _integer(minimum=1), int),
    Option("keepalive_interval", _number(minimum=0), float),
    Option("probe_timeout", _number(minimum=0, exclusive=True), float),
    Option("cancel_timeout", _number(minimum=0, exclusive=True), float),
    Option("leak_threshold", _number(minimum=0), float),
    Option("prepare", _prepare, str),
    Option("statement_connections", _integer(minimum=1), int),
    Option("use_lifo", _boolean, _parse_bool),
    Option("timings", _boolean, _parse_bool),
)

OPTIONS: Mapping[str, Option] = {option.name: option for option in _OPTIONS}

GEVENTPG_ONLY = frozenset(
    {
        "keepalive_interval",
        "probe_timeout",
        "cancel_timeout",
        "leak_threshold",
        "prepare",
        "statement_connections",
        "use_lifo",
        "timings",
    }
)
"""Options that stock psycopg_pool does not have."""


@discreet
def check_options(options: Mapping[str, Any], *, known: Iterable[str] = OPTIONS) -> None:
    """Raise `OptionError` naming the first option that is unknown, mistyped or impossible.

    Does not block. *known* limits the names that are accepted.
    """
    names = list(known)
    for name, value in options.items():
        if name not in names:
            raise OptionError(f"unknown pool option {name!r}{_suggest(name, names)}")
        OPTIONS[name].check(name, value)
    min_size = options.get("min_size", 4)
    max_size = options.get("max_size")
    try:
        check_sizes(min_size, max_size if max_size is not None else min_size)
    except OptionError as error:
        if "min_size" in options:
            raise
        raise OptionError(f"{error} (min_size is 4 unless given)") from None


def check_sizes(min_size: int, max_size: int) -> None:
    """Raise `OptionError` unless ``0 <= min_size <= max_size`` and ``max_size > 0``."""
    if max_size < min_size:
        raise OptionError(
            f"max_size must be greater or equal than min_size, but {max_size} < {min_size}"
        )
    if max_size == 0:
        raise OptionError("if min_size is 0 max_size must be greater than 0")


@discreet
def from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """Read pool options from ``GEVENTPG_*`` variables, ``GEVENTPG_CONNINFO`` excepted.

    ``GEVENTPG_MAX_SIZE=20`` is ``max_size=20``. Raise `OptionError` naming the variable for
    one that is unknown or cannot be read. Does not block.
    """
    readable = {name: option.parse for name, option in OPTIONS.items() if option.parse}
    options: dict[str, Any] = {}
    for variable, text in environ.items():
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        name = variable[len(ENVIRONMENT_PREFIX) :].lower()
        if name == "conninfo" or name.startswith(_NOT_OPTIONS):
            continue
        parse = readable.get(name)
        if parse is None:
            known = [*readable, "conninfo"]
            raise OptionError(
                f"unknown environment variable {variable}{_suggest(name, known, _variable)}"
            )
        with suppress(ValueError):
            options[name] = parse(text)
            continue
        # Not quoted, as it may be the value of another variable, and raised outside of an
        # exception handler, as Python's own error quotes it.
        raise OptionError(
            f"environment variable {variable}: bad value, expected {_EXPECTED[parse]}"
        )
    return options


_EXPECTED: Mapping[Callable[[str], Any], str] = {
    int: "an integer",
    float: "a number of seconds",
    str: "text",
    _parse_bool: "true or false",
}

# GEVENTPG_TEST_* and GEVENTPG_DEMO_* belong to the test-suite and the demo, GEVENTPG_METRICS_* to
# the Celery integration, GEVENTPG_HIDE_PROGRAMS to geventpg.testing.
_NOT_OPTIONS = ("test_", "demo_", "metrics_", "hide_programs")


def _variable(name: str) -> str:
    return f"{ENVIRONMENT_PREFIX}{name.upper()}"


def _suggest(name: str, names: Iterable[str], spell: Callable[[str], str] = str) -> str:
    known = sorted(names)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f" (did you mean {spell(close[0])!r}?)"
    return f" (known: {', '.join(map(spell, known))})"
