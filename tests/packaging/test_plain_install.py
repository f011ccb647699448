"""The package without any extra, on the system's libpq."""

from __future__ import annotations

import pytest

from geventpg.testing.programs import require_libpq
from tests.packaging.conftest import SERVED


@pytest.mark.hang_limit(400)  # packages are downloaded
def test_without_an_extra_the_system_s_libpq_serves(install, dsn):
    require_libpq()
    install().check(SERVED / "with_nothing.py", dsn)
