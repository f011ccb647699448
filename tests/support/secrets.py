"""Looking for secrets wherever an error reporter, a log or a repr would show them."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

SECRET = "0pen-sesame"
HIDDEN = "un-der-mat"
NOWHERE = "host=127.0.0.1 port=1 user=app dbname=db connect_timeout=2"
_OURS = ("/geventpg/", "/celery_integration/")


def everything_about(error: BaseException) -> str:
    """Return what an error reporter can see of *error*, and of everything that led to it.

    Of frames that are not ours only the code is seen: their locals are not ours to keep.
    """
    found: list[str] = []
    remaining: list[BaseException | None] = [error]
    seen: set[int] = set()
    while remaining:
        current = remaining.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        found += [str(current), repr(current), repr(current.args), repr(vars(current))]
        found.append(repr(pickle.dumps(current)) if isinstance(current, psycopg.Error) else "")
        found += traceback.format_exception(current, chain=False)
        for frame, _line in traceback.walk_tb(current.__traceback__):
            name = frame.f_code.co_filename
            if any(part in name for part in _OURS) or "/psycopg" in name:
                found += [f"{name} {key} {value!r}" for key, value in frame.f_locals.items()]
        remaining += [current.__cause__, current.__context__]
    return "\n".join(found)


def has_no(secret: str, *texts: str) -> None:
    """Fail if *secret* is in one of *texts*, as it is or as one of its usual encodings."""
    for form in {secret, quote(secret, safe=""), repr(secret)[1:-1]}:
        for text in texts:
            assert form not in text, f"{form!r} in: {text}"


def refusal_of(action: Callable[[], Any]) -> BaseException:
    """Return the error of psycopg's, or a subclass, that *action* raises."""
    with pytest.raises(psycopg.Error) as caught:
        action()
    return caught.value


def app_with(settings: Any) -> Any:
    """Return a Celery app whose config has *settings* for geventpg."""
    celery = pytest.importorskip("celery")
    app = celery.Celery("secrets", set_as_current=False)
    app.conf.geventpg = settings
    return app
