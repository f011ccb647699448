"""A PostgreSQL that speaks TLS, with certificates of a real authority made for the test.

The wheel's server is built without OpenSSL, so this one is the system's.
"""

from __future__ import annotations

import datetime as dt
import os
import tempfile
from pathlib import Path
from typing import Any

import trustme
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.support.system_postgres import SystemPostgres

HBA = """\
local all all trust
hostssl all +by_certificate 127.0.0.1/32 cert
hostssl all all 127.0.0.1/32 scram-sha-256
"""


class TlsPostgres(SystemPostgres):
    """A `SystemPostgres` whose TCP is for TLS only.

    Members of the role ``by_certificate`` log in with a client certificate, others with SCRAM.
    """

    def __init__(self, programs: Path) -> None:
        super().__init__(programs)
        self.ca = trustme.CA(organization_name="geventpg tests")
        self.root = str(self.files / "root.crt")
        self.ca.cert_pem.write_to_path(self.root)

    def start(self) -> None:
        first = not self.running
        super().start()
        if first:
            self._in_data("pg_hba.conf").write_text(HBA)
            self._write("root.crt", self.ca.cert_pem)
            self.present(self.ca.issue_cert("localhost", "127.0.0.1"))
            with self.connect() as admin:
                admin.execute("ALTER SYSTEM SET ssl_ca_file = 'root.crt'")
                admin.execute("ALTER SYSTEM SET ssl = on")
                admin.execute("CREATE ROLE by_certificate")
            self._reload()

    def conninfo(self, **parameters: Any) -> str:
        """Return a conninfo that trusts the authority and verifies the name ``localhost``."""
        defaults = {"host": "localhost", "sslmode": "verify-full", "sslrootcert": self.root}
        return make_conninfo(self.dsn, **{**defaults, **parameters})

    def present(self, certificate: trustme.LeafCert) -> None:
        """Show *certificate* to clients that connect from now on."""
        chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
        self._write("server.crt", trustme.Blob(chain))
        self._write("server.key", certificate.private_key_pem)
        self._reload()

    def create_role(self, name: str, *, password: str | None = None) -> None:
        """Create a login role: with this password, or one that needs a certificate."""
        role = sql.Identifier(name)
        with self.connect() as admin:
            admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(role))
            if password is None:
                admin.execute(sql.SQL("CREATE ROLE {} LOGIN IN ROLE by_certificate").format(role))
            else:
                admin.execute(
                    sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(password))
                )

    def client_files(self, common_name: str, ca: trustme.CA | None = None) -> dict[str, str]:
        """Issue a client certificate; return it as connection parameters."""
        certificate = (ca or self.ca).issue_cert("client.invalid", common_name=common_name)
        folder = Path(tempfile.mkdtemp(dir=self.files))
        certificate.cert_chain_pems[0].write_to_path(str(folder / "client.crt"))
        certificate.private_key_pem.write_to_path(str(folder / "client.key"))
        (folder / "client.key").chmod(0o600)
        return {"sslcert": str(folder / "client.crt"), "sslkey": str(folder / "client.key")}

    def expired(self) -> trustme.LeafCert:
        """Return a certificate for ``localhost`` that was valid until yesterday."""
        yesterday = dt.datetime.now(dt.timezone.utc) - dt.timedelta(days=1)
        return self.ca.issue_cert("localhost", not_after=yesterday)

    def _reload(self) -> None:
        # Nothing tells when the postmaster has read its files, but its own log.
        before = self.log.count("received SIGHUP")
        with self.connect() as admin:
            loaded = "SELECT pg_conf_load_time()"
            earlier = admin.execute(loaded).fetchone()
            admin.execute("SELECT pg_reload_conf()")
        from tests.support.waiting import wait_until

        def read() -> bool:
            with self.connect() as admin:
                return bool(admin.execute(loaded).fetchone() != earlier)

        wait_until(lambda: self.log.count("received SIGHUP") > before)
        wait_until(read)

    def _in_data(self, name: str) -> Path:
        return self.directory / "data" / name

    def _write(self, name: str, content: trustme.Blob) -> None:
        path = self._in_data(name)
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(content.bytes())
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid)
