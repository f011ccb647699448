"""Check connection strings before libpq reads them. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from geventpg.errors import OptionError

from .discretion import discreet


@discreet
def check_conninfo(conninfo: Any) -> None:
    """Raise `OptionError` unless *conninfo* is a callable or a string libpq understands.

    The string itself is never quoted: a malformed one may have a password at any place.
    """
    if callable(conninfo):
        return
    if not isinstance(conninfo, str):
        raise OptionError(f"conninfo must be a string or a callable, not {type_name(conninfo)}")
    _check_text("conninfo", conninfo)
    try:
        params = conninfo_to_dict(conninfo)
    except psycopg.Error as error:
        detail = _safe_conninfo_error(conninfo, str(error))
    except UnicodeError:
        detail = ": a percent-encoded value is not UTF-8"
    else:
        mistake = _misread(conninfo, params)
        if mistake is None:
            return
        # Parts of a password, most likely, that would be shown as host, port or dbname.
        raise OptionError(f"conninfo: {mistake}")
    raise OptionError(
        f"conninfo is not a valid PostgreSQL connection string{detail}; expected something like"
        " 'host=db.example dbname=app user=app' or 'postgresql://app@db.example/app'"
    )


@discreet
def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Raise `OptionError` naming the first connection parameter that libpq would not get whole.

    psycopg hands libpq one string, which ends at the first NUL: whatever comes after it, such as
    ``sslmode``, would silently not apply.
    """
    for name, value in parameters.items():
        if not name.isidentifier():
            # psycopg writes names as they are: "dbname=x host" would be two parameters.
            raise OptionError(f"{name!r} is not the name of a connection parameter")
        if isinstance(value, str):
            _check_text(name, value)


def _check_text(name: str, value: str) -> None:
    if "\0" in value:
        raise OptionError(f"{name} contains a NUL character")
    # Not by trying: Python's own error would hold the value.
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise OptionError(f"{name} contains characters that are not valid Unicode")


def type_name(value: Any) -> str:
    """Name the type of *value*, for an error that must not show the value itself."""
    # The value itself may be a connection string: only its type is safe to show.
    return "None" if value is None else type(value).__name__


def _safe_conninfo_error(conninfo: str, text: str) -> str:
    # The name of an unknown parameter helps, but it may be what follows a space in a password,
    # or all that there is: a token in place of a connection string.
    match = re.search(r'invalid (?:connection option|URI query parameter:?) "(\w+)"', text)
    if match is None:
        return ""
    before = conninfo.partition("://")[2] or conninfo
    before = before.partition(match[1])[0].lower()
    return f": {match[0]}" if "=" in before and not _MAY_PRECEDE_SECRETS.search(before) else ""


_MAY_PRECEDE_SECRETS = re.compile(r"pass|secret|key|[:@]")

# A name for the database with "@" in it would have to be written with %40.
_AT_IN_PATH = re.compile(r"postgres(?:ql)?://[^/?]*/[^?]*@")


def _misread(conninfo: str, params: Mapping[str, Any]) -> str | None:
    """Tell by what libpq seems to have taken a part of a password for something else."""
    if "@" in str(params.get("host") or "")[1:]:
        return "the host contains '@'; write '@' in a password as %40"
    ports = str(params.get("port") or "").split(",")
    if not all(port.strip().isdecimal() for port in ports if port):
        return "the port is not a number; write '/' in a password as %2F"
    if _AT_IN_PATH.match(conninfo):
        return "the database name contains '@'; write '/' in a password as %2F, '@' as %40"
    return None
