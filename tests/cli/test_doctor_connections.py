"""`geventpg doctor` says why it cannot connect, and what is wrong with the way to the server."""

from __future__ import annotations

import datetime as dt
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from psycopg.conninfo import make_conninfo

from geventpg.testing import Certificate, TlsProxy

PLAIN = {"sslmode": "disable"}


def test_a_sound_surrounding_has_no_findings_that_need_something_done(doctor, app_dsn):
    diagnosis = doctor(app_dsn)
    assert diagnosis.exit_code == 0
    assert diagnosis.troubles == set()
    assert diagnosis.level("direct") == diagnosis.level("primary") == "ok"
    assert diagnosis.findings["round-trip"]["facts"]["median_seconds"] > 0


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"password": "not-it"}, "wrong-password", "password authentication failed"),
        ({"dbname": "not_there"}, "database-missing", "does not exist"),
        ({"sslmode": "require"}, "tls-mismatch", "does not support SSL"),
        ({"host": "nobody.invalid"}, "name-not-resolved", "nobody.invalid"),
    ],
)
def test_a_refusal_is_named_with_the_reason(doctor, app_dsn, changes, code, said):
    diagnosis = doctor(make_conninfo(app_dsn, **changes), "--timeout", "2")
    assert diagnosis.exit_code == 1
    assert diagnosis.troubles == {code}
    assert said in diagnosis.findings[code]["found"]


def test_a_role_that_is_missing_looks_like_a_wrong_password(doctor, app_dsn):
    # The server does not tell which of the two it is.
    assert doctor(make_conninfo(app_dsn, user="nobody_here")).troubles == {"wrong-password"}


def test_a_port_at_which_no_server_listens_is_named(doctor, app_dsn, proxy):
    proxy.stop()
    assert doctor(proxy.dsn(app_dsn)).troubles == {"refused"}


def test_a_server_that_does_not_answer_is_named_in_bounded_time(doctor, app_dsn):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        diagnosis = doctor(make_conninfo(app_dsn, port=port), "--timeout", "2")
    assert diagnosis.troubles == {"unreachable"}


def test_a_connection_string_that_was_misread_is_named_and_not_shown(doctor):
    diagnosis = doctor("postgresql://app:pass@word@db.example/app")
    assert diagnosis.troubles == {"conninfo"}
    assert "%40" in diagnosis.findings["conninfo"]["found"]
    assert "word" not in diagnosis.findings["conninfo"]["found"].replace("password", "")


def test_no_tls_to_another_machine_is_a_problem(doctor, app_dsn):
    remote = make_conninfo(app_dsn, host="db.example", hostaddr="127.0.0.1")
    diagnosis = doctor(remote)
    assert diagnosis.exit_code == 1
    assert diagnosis.level("tls-off") == "problem"


def test_keepalives_and_probes_that_are_off_are_named(doctor, app_dsn):
    diagnosis = doctor(
        make_conninfo(app_dsn, keepalives=0), env={"GEVENTPG_KEEPALIVE_INTERVAL": "0"}
    )
    assert diagnosis.troubles == {"keepalives-off", "probes-off"}
    assert diagnosis.exit_code == 0  # warnings
    assert doctor(make_conninfo(app_dsn, keepalives=0), "--strict").exit_code == 1


# -- certificates --------------------------------------------------------------------------------


@pytest.fixture
def tls_proxy(pg, tmp_path: Path) -> Iterator[Callable[..., TlsProxy]]:
    """Return a function that starts a TLS proxy whose certificate is for a name, and valid."""
    ca = trustme.CA()
    authority = tmp_path / "authority.crt"
    ca.cert_pem.write_to_path(str(authority))
    proxies: list[TlsProxy] = []

    def start(name: str, not_after: dt.datetime | None = None) -> TlsProxy:
        leaf = ca.issue_cert(name, not_after=not_after)
        files = tmp_path / f"{len(proxies)}.crt", tmp_path / f"{len(proxies)}.key"
        leaf.cert_chain_pems[0].write_to_path(str(files[0]))
        leaf.private_key_pem.write_to_path(str(files[1]))
        proxies.append(TlsProxy(pg.host, pg.port, Certificate((name,), *files, authority)))
        proxies[-1].start()
        return proxies[-1]

    yield start
    for proxy in proxies:
        proxy.close()


def test_an_expired_certificate_is_named_as_expired(doctor, app_dsn, tls_proxy):
    yesterday = dt.datetime.now(dt.timezone.utc) - dt.timedelta(days=1)
    diagnosis = doctor(tls_proxy("db.example", yesterday).dsn(app_dsn))
    assert diagnosis.troubles == {"certificate"}
    assert "expired" in diagnosis.findings["certificate"]["found"]
    assert diagnosis.findings["certificate"]["advice"].startswith("Renew")


def test_a_certificate_for_another_name_is_named(doctor, app_dsn, tls_proxy):
    dsn = make_conninfo(tls_proxy("db.example").dsn(app_dsn), host="other.example")
    diagnosis = doctor(dsn)
    assert diagnosis.troubles == {"certificate"}
    assert diagnosis.findings["certificate"]["advice"].startswith("Use the name")


def test_a_certificate_of_a_stranger_is_named(doctor, app_dsn, tls_proxy, tmp_path):
    stranger = tmp_path / "stranger.crt"
    trustme.CA().cert_pem.write_to_path(str(stranger))
    dsn = make_conninfo(tls_proxy("db.example").dsn(app_dsn), sslrootcert=str(stranger))
    diagnosis = doctor(dsn)
    assert diagnosis.troubles == {"certificate"}
    assert "sslrootcert" in diagnosis.findings["certificate"]["advice"]


def test_tls_that_verifies_is_fine_and_tls_that_does_not_is_a_warning(doctor, app_dsn, tls_proxy):
    dsn = tls_proxy("db.example").dsn(app_dsn)
    assert doctor(dsn).troubles == set()
    assert doctor(make_conninfo(dsn, sslmode="require", sslrootcert="")).troubles == {
        "tls-unverified"
    }
