"""The app ``geventpg.django``: system checks and ``manage.py geventpg``."""

from __future__ import annotations

from django.apps import AppConfig
from django.core.checks import Tags, register

from . import checks
from .wrapper import pooled_wrappers


class GeventpgConfig(AppConfig):  # type: ignore[misc]  # ships no types
    """Introduces every alias with a pool as soon as Django is set up. Nothing connects."""

    name = "geventpg.django"
    label = "geventpg"
    verbose_name = "geventpg"

    def ready(self) -> None:
        """Register the checks; raise ``ImproperlyConfigured`` for a bad pool option."""
        register(checks.check_patching, Tags.compatibility)
        register(checks.check_settings, Tags.compatibility)
        register(checks.check_server, Tags.database)
        pooled_wrappers()
