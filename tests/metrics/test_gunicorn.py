"""gunicorn's workers, set up as the documentation says: each serves its own metrics."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request

import pytest

from tests.metrics.exposition import scrape, value_of
from tests.support.script import ROOT, clean_environment
from tests.support.waiting import wait_until

pytest.importorskip("gunicorn")

APPLICATION = """
import geventpg

def app(environ, start_response):
    with geventpg.get_conn() as conn:
        body = str(conn.execute("select 1").fetchone()[0]).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.fixture
def log(tmp_path, dsn):
    """Run gunicorn with two gevent workers; return a function that reads what it logged."""
    page = (ROOT / "docs" / "metrics.md").read_text()
    documented = re.search(r"<!-- gunicorn\.conf\.py -->\n```python\n(.*?)^```", page, re.M | re.S)
    (tmp_path / "gunicorn.conf.py").write_text(documented[1])
    (tmp_path / "application.py").write_text(APPLICATION)
    path = tmp_path / "log"
    command = [sys.executable, "-m", "gunicorn", "-k", "gevent", "-w", "2", "-b", "127.0.0.1:0"]
    environment = clean_environment(GEVENTPG_CONNINFO=dsn, GEVENTPG_MIN_SIZE="1")
    with path.open("wb") as output:
        process = subprocess.Popen(
            [*command, "application:app"],
            cwd=tmp_path,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    yield path.read_text
    process.terminate()
    process.wait(20)
    print(path.read_text())


def test_each_worker_has_a_port_of_its_own(log):
    def ports():
        found = {int(port) for port in re.findall(r"metrics at port (\d+)", log())}
        return found if len(found) == 2 else None

    first, second = wait_until(ports, timeout=20)
    address = re.search(r"Listening at: (http://\S+)", log())[1]
    for _ in range(4):
        assert urllib.request.urlopen(address, timeout=10).read() == b"1"  # noqa: S310
    requests = 0.0
    for port in (first, second):
        text = scrape(port)
        if 'pool="default"' in text:
            requests += value_of(text, "geventpg_requests_total", pool="default")
    assert requests == 4
