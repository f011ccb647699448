"""Options sent when a connection starts (``options=-c …``), as poolers see them. Values only."""

from __future__ import annotations

import re

# PgBouncer and its kin, then Amazon's RDS Proxy.
_REFUSED = re.compile(
    r"unsupported (?:options )?startup parameter(?: in options)?: \"?(\w+(?:\.\w+)*)"
    r"|(doesn't support command-line options)",
    re.IGNORECASE,
)
# libpq: words are separated by spaces; a backslash takes a space into the word.
_WORD = re.compile(r"(?:\\.|[^\s\\])+", re.DOTALL)

# Base of one kind each; the server's own spelling, which is the only one it takes.
_MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1e3, "min": 6e4, "h": 36e5, "d": 864e5}
_KILOBYTES = {"B": 2**-10, "kB": 1.0, "8kB": 8.0, "MB": 2.0**10, "GB": 2.0**20, "TB": 2.0**30}
_UNITS = _MILLISECONDS | _KILOBYTES
_QUANTITY = re.compile(r"\s*([-+]?[\d.]+(?:e[-+]?\d+)?)\s*([a-zA-Z]*)\s*")
_TRUTH = {
    **dict.fromkeys(("on", "true", "yes", "1", "t", "y"), True),
    **dict.fromkeys(("off", "false", "no", "0", "f", "n"), False),
}


def refused(message: str) -> str | None:
    """Return the parameter that a pooler refused, by its error *message*; ``None``: none.

    It is ``options`` where the pooler takes no options at all.
    """
    match = _REFUSED.search(message)
    if match is None:
        return None
    return "options" if match[1] is None or match[1] in ("only", "options") else match[1]


def parse(options: str) -> dict[str, str]:
    """Return the settings in *options*, as in ``-c statement_timeout=5s --search_path=app``."""
    words = iter(re.sub(r"\\(.)", r"\1", word) for word in _WORD.findall(options))
    settings: dict[str, str] = {}
    for word in words:
        if word == "-c":
            setting = next(words, "")
        elif word.startswith(("-c", "--")):
            setting = word[2:]
        else:
            continue
        name, equals, value = setting.partition("=")
        if equals:
            settings[name.replace("-", "_").lower()] = value
    return settings


def is_in_force(wanted: str, setting: str, unit: str | None, kind: str | None) -> bool:
    """Tell whether *wanted* means the same as *setting*, which is in *unit* (``pg_settings``)."""
    if kind == "bool":
        return _TRUTH.get(wanted.strip().lower()) is _TRUTH.get(setting)
    if kind in ("integer", "real"):
        return _amount(wanted, unit) == _amount(setting, unit)
    return _words(wanted) == _words(setting)


def _words(text: str) -> list[str]:
    # search_path and the like are lists.
    return [word.strip().casefold() for word in text.split(",")]


def _amount(text: str, unit: str | None) -> float | None:
    match = _QUANTITY.fullmatch(text)
    if match is None:
        return None
    return round(float(match[1]) * _UNITS.get(match[2] or unit or "", 1.0), 6)
