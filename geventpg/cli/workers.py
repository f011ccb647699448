"""Asking Celery's workers for their pools, by remote control."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COMMAND = "geventpg"
"""The worker's side is in `celery_integration.remote`."""


class AskingFailed(Exception):
    """The app cannot be loaded, or the broker not be reached; the text says why."""


class Workers:
    """The workers of an app."""

    def __init__(self, app: str, destination: Sequence[str] = ()) -> None:
        """Load *app*, named as for ``celery -A``. Raise `AskingFailed`."""
        try:
            from celery.app.utils import find_app
        except ImportError as error:
            raise AskingFailed(f"{error}: pip install 'geventpg[celery]'") from error
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.insert(0, here)
        try:
            self._app = find_app(app)
        except Exception as error:
            raise AskingFailed(
                f"the app {app!r} cannot be loaded: {type(error).__name__}: {error}"
            ) from error
        self._destination = list(destination) or None

    def ask(self, timeout: float) -> dict[str, Any]:
        """Return each worker's answer by its name.

        Block for *timeout* seconds, unless the destinations are known and all have answered.
        Raise `AskingFailed` if the broker cannot be reached.
        """
        from kombu.exceptions import OperationalError

        expected = len(self._destination) if self._destination else None
        try:
            replies: list[Mapping[str, Any]] | None = self._app.control.broadcast(
                COMMAND,
                destination=self._destination,
                reply=True,
                timeout=timeout,
                limit=expected,
            )
        except (OperationalError, OSError) as error:
            raise AskingFailed(f"the broker cannot be reached: {error}") from error
        return {worker: answer for reply in replies or () for worker, answer in reply.items()}
