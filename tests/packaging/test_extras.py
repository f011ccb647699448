"""Each extra of the package alone brings what it serves: that is imported, and runs a statement."""

from __future__ import annotations

import configparser
import json

import pytest

from tests.packaging.conftest import SERVED, pip
from tests.support.script import ROOT

pytestmark = pytest.mark.hang_limit(400)  # packages are downloaded

LIBRARIES = {path.stem.removeprefix("with_"): path for path in sorted(SERVED.glob("with_*.py"))}
del LIBRARIES["nothing"]  # test_plain_install.py
# What the programs of a checkout need; the tests run in such an environment.
FOR_CHECKOUTS = {"all", "bench", "cases", "demo", "dev", "test", "upstream"}


def test_every_extra_for_users_is_tested():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = set(setup["options.extras_require"]) - FOR_CHECKOUTS
    assert extras == {*LIBRARIES, "cli", "docs"}


@pytest.mark.parametrize("extra", LIBRARIES)
def test_an_extra_alone_brings_what_it_serves(install, dsn, extra):
    extras = dict.fromkeys([extra, "binary"])
    install(*extras).check(LIBRARIES[extra], dsn)


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
