"""The pool of a database alias: its settings in ``DATABASES``, checked, and its configuration.

The pool lives in geventpg's registry under the name of the alias.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.backends.postgresql.base import CursorMixin, ServerBindingCursor
from psycopg_pool import ConnectionPool

import geventpg
from geventpg import hub
from geventpg.connection.cursor import Cursor
from geventpg.connection.pooler import is_pooled
from geventpg.conninfo.discretion import discreet
from geventpg.pool.options import OPTIONS
from geventpg.pool.options import check_options as check_pool_options
from geventpg.registry import pools as registry

_NOT_FOR_USERS = {
    "kwargs": "give connection parameters in OPTIONS itself",
    "open": "the pool opens at its first use",
    "name": "the pool's name is the alias",
}
"""Pool options that a user cannot give here, and what to do instead."""

DEFAULT_SIZE = 4
"""``min_size`` and ``max_size`` unless given, as in psycopg_pool."""

_USABLE = sorted(set(OPTIONS) - set(_NOT_FOR_USERS))

# The options that were checked already: every greenlet has a wrapper, which asks for the check.
_checked: dict[str, object] = {}

_overrides: dict[str, dict[str, Any]] = {}


@dataclass(frozen=True)
class Session:
    """The description of an alias's connections; a call of it sets a new connection up.

    Wrappers whose descriptions are equal can share a pool.
    """

    params: Mapping[str, Any] = field(repr=False)
    timezone: str | None
    role: str | None
    set_up: Callable[[Any], object] = field(repr=False, compare=False)
    then: Callable[[Any], None] | None = field(repr=False, compare=False, default=None)
    """The user's own ``configure``."""

    def __call__(self, connection: Any) -> None:
        """Set the session's time zone and role, which may take a round trip each."""
        if connection.prepare_threshold is not None:
            is_pooled(connection)  # Django's own cursors do not ask before they prepare
        self.set_up(connection)
        if self.then is not None:
            self.then(connection)


def is_wanted(settings_dict: Mapping[str, Any]) -> bool:
    """Tell whether these settings ask for a pool. They do unless they say ``"pool": False``."""
    return settings_dict["OPTIONS"].get("pool", True) not in (False, None)


def introduce(alias: str, settings_dict: Mapping[str, Any]) -> None:
    """Check the options of *alias*, and let ``get_conn(alias)`` ask Django.

    Do nothing if that was done with the same options.
    """
    given = settings_dict["OPTIONS"].get("pool", True)
    if _checked.get(alias) is given:
        return
    check_options(alias, settings_dict)
    _checked[alias] = given
    if registry.options_of(alias) is None:
        registry.set_framework(alias, _Alias(alias))


@dataclass(frozen=True)
class _Alias:
    """The pool of one alias, as a `geventpg.registry.pools.Framework`."""

    alias: str

    def configure(self) -> None:
        wrapper = connections[self.alias]
        if wrapper.is_pooled:
            configure(wrapper)

    def check_out(self, timeout: float | None) -> None:
        connections[self.alias].check_out_within(timeout)

    def options(self) -> dict[str, Any]:
        return check_options(self.alias, connections[self.alias].settings_dict)

    def override(self, options: Mapping[str, Any]) -> None:
        for name in ("configure", *_NOT_FOR_USERS):
            if name in options:
                raise geventpg.OptionError(
                    f"{name!r} cannot be given here, but in DATABASES[{self.alias!r}]"
                )
        check_pool_options(options, known=_USABLE)
        _overrides[self.alias] = dict(options)


def check_options(alias: str, settings_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return the pool options in *settings_dict*; raise ``ImproperlyConfigured`` naming a bad one.

    Does not block.
    """
    given = settings_dict["OPTIONS"].get("pool", True)
    where = f"DATABASES[{alias!r}]['OPTIONS']['pool']"
    if given is True:
        return {}
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured(
            f"{where} must be True, False or a dict of pool options, not {type(given).__name__}"
        )
    for name, instead in _NOT_FOR_USERS.items():
        if name in given:
            raise ImproperlyConfigured(f"{where}: {name!r} cannot be given: {instead}")
    options = dict(given)
    try:
        check_pool_options(options, known=_USABLE)
    except geventpg.OptionError as error:
        raise ImproperlyConfigured(f"{where}: {error}") from None
    return options


def session_of(wrapper: Any, params: Mapping[str, Any]) -> Session:
    """Return the description of the connections that *wrapper* needs."""
    return Session(
        params=params,
        timezone=wrapper.timezone_name,
        role=wrapper.settings_dict["OPTIONS"].get("assume_role"),
        set_up=wrapper.set_up_session,
    )


def current_session(alias: str) -> Session | None:
    """Return the description of the connections of *alias*'s pool, ``None`` without a pool."""
    options = registry.options_of(alias)
    session = options.get("configure") if options is not None else None
    return session if isinstance(session, Session) else None


@discreet
def configure(wrapper: Any) -> None:
    """Configure the pool of *wrapper*'s alias; do nothing if that was done. Does not block.

    Raise ``ImproperlyConfigured`` for settings that are wrong.
    """
    alias, settings_dict = wrapper.alias, wrapper.settings_dict
    options = check_options(alias, settings_dict)
    if settings_dict.get("CONN_MAX_AGE", 0) != 0:
        raise ImproperlyConfigured(
            "Pooling doesn't support persistent connections."
            f" Remove CONN_MAX_AGE from DATABASES[{alias!r}]: the pool keeps connections open."
        )
    # A wrapper of its own, because the pool outlives the greenlet that made it.
    template = type(wrapper)({**settings_dict}, alias)
    template.timezone_name = wrapper.timezone_name
    template.timezone = wrapper.timezone
    params = template.get_connection_params()
    then = options.pop("configure", None)
    options["configure"] = replace(session_of(template, params), then=then)
    if settings_dict["CONN_HEALTH_CHECKS"]:
        options.setdefault("check", ConnectionPool.check_connection)
    # Django expects autocommit on a new connection, and turns it off where it needs that.
    options["kwargs"] = {**params, "cursor_factory": _cursor_factory(params), "autocommit": True}
    options.update(_overrides.get(alias, {}))
    try:
        geventpg.configure("", name=alias, **options)
    except geventpg.OptionError as error:
        raise ImproperlyConfigured(f"DATABASES[{alias!r}]: {error}") from None
    except psycopg.ProgrammingError:
        raise ImproperlyConfigured(
            f"the pool {alias!r} is open and is not the one of DATABASES[{alias!r}]: give one of"
            " them another name"
        ) from None
    registry.set_framework(alias, _Alias(alias))


def unpooled(wrapper: Any) -> Any:
    """Return a wrapper of the same database that opens one connection without the pool."""
    settings_dict = wrapper.settings_dict
    options = {**settings_dict["OPTIONS"], "pool": False}
    return type(wrapper)({**settings_dict, "OPTIONS": options}, wrapper.alias)


def _cursor_factory(params: Mapping[str, Any]) -> Any:
    """Return a cursor class that heals lost and stale statements if Django's would prepare them."""
    given = params["cursor_factory"]
    return HealingCursor if given is ServerBindingCursor and hub.in_use() else given


class HealingCursor(CursorMixin, Cursor[Any]):  # type: ignore[misc]  # ships no types
    """Django's ``ServerBindingCursor``, on geventpg's cursor in place of psycopg's."""
