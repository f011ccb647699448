"""Each extra of the package alone brings what it serves: that is imported, and runs a statement."""

from __future__ import annotations

import configparser
import json
from pathlib import Path

import pytest

from geventpg.testing.programs import require_libpq
from tests.packaging.conftest import pip
from tests.support.script import ROOT

pytestmark = pytest.mark.hang_limit(240)  # packages are downloaded

SERVED = sorted(Path(__file__).with_name("served").glob("with_*.py"))
LIBRARIES = {path.stem.removeprefix("with_"): path for path in SERVED}
# What the programs of a checkout need; the tests run in such an environment.
FOR_CHECKOUTS = {"all", "bench", "cases", "demo", "dev", "test", "upstream"}
NO_CLI = 'geventpg: the command needs the extra "cli": pip install "geventpg[cli]"\n'


def test_every_extra_for_users_is_tested():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = set(setup["options.extras_require"]) - FOR_CHECKOUTS
    assert extras == {*LIBRARIES, "cli", "docs"} - {"nothing"}


@pytest.mark.parametrize("extra", LIBRARIES)
def test_an_extra_alone_brings_what_it_serves(install, dsn, extra):
    if extra == "nothing":
        require_libpq()
        environment = install()
    else:
        environment = install(*dict.fromkeys([extra, "binary"]))
    value, path = environment.python(LIBRARIES[extra].read_text(), DSN=dsn).split()
    assert value == "42"
    assert path.startswith(str(environment.folder))
    command = environment.run("geventpg", "--help")
    assert (command.returncode, command.stdout, command.stderr) == (2, "", NO_CLI)


def test_the_command_asks_a_server(install, dsn):
    environment = install("cli", "binary")
    done = environment.run("geventpg", "doctor", "--json", dsn)
    assert done.stderr == ""
    findings = {finding["code"] for finding in json.loads(done.stdout)["findings"]}
    assert "server" in findings


def test_the_documentation_is_built(install):
    environment = install("docs")
    options = ("--fail-on-warning", "--keep-going", "--quiet", "-b", "dummy", "-d", "doctrees")
    done = environment.run("python", "-m", "sphinx", *options, str(ROOT / "docs"), "site")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_index_that_is_out_of_reach_is_a_skip_and_no_failure(monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(pytest.skip.Exception, match="out of reach"):
        pip("download", "--no-cache-dir", "--dest", tmp_path, "geventpg-does-not-exist")
