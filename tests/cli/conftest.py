"""Running the command in this process, and servers that are set up badly."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from click.testing import CliRunner
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from geventpg.cli.group import geventpg
from tests.support.server import Server

ROLE, PASSWORD = "doctor_app", "s3cret-of-doctor"


@dataclass
class Diagnosis:
    """What `geventpg doctor --json` said."""

    exit_code: int
    findings: dict[str, dict[str, Any]]

    def level(self, code: str) -> str | None:
        return self.findings[code]["level"] if code in self.findings else None

    @property
    def troubles(self) -> set[str]:
        """The codes of all warnings and problems."""
        return {c for c, f in self.findings.items() if f["level"] in ("warning", "problem")}


@pytest.fixture
def doctor(monkeypatch) -> Callable[..., Diagnosis]:
    """Return a function that runs the doctor and reads its JSON; secrets in it fail the test."""
    monkeypatch.delenv("GEVENTPG_TEST_DSN", raising=False)

    def run(*arguments: str, env: dict[str, str] | None = None) -> Diagnosis:
        done = CliRunner().invoke(geventpg, ["doctor", "--json", *arguments], env=env)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.output
        secrets = [conninfo_to_dict(a).get("password") for a in arguments if "password=" in a]
        for secret in filter(None, secrets):
            assert str(secret) not in done.output
        findings = json.loads(done.stdout)["findings"]
        for finding in findings:
            assert finding["level"] in ("ok", "note") or finding["advice"], finding
        return Diagnosis(done.exit_code, {finding["code"]: finding for finding in findings})

    return run


@pytest.fixture
def app_dsn(pg: Server, dsn: str) -> Iterator[str]:
    """Return the conninfo of a role that has all that a doctor wishes for."""
    role = sql.Identifier(ROLE)
    with pg.connect() as admin:
        admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(role))
        create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}")
        admin.execute(create.format(role, sql.Literal(PASSWORD)))
        for setting, value in (
            ("statement_timeout", "30s"),
            ("idle_in_transaction_session_timeout", "1min"),
            ("client_connection_check_interval", "5s"),
        ):
            alter = sql.SQL("ALTER ROLE {} SET {} = {}")
            admin.execute(alter.format(role, sql.Identifier(setting), sql.Literal(value)))
    yield make_conninfo(dsn, user=ROLE, password=PASSWORD)
    with pg.connect() as admin:
        admin.execute(sql.SQL("DROP ROLE {}").format(role))
