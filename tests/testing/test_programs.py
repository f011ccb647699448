"""Programs of the system: where they are looked for, how they are hidden, what is said then."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from geventpg.pool.options import from_environment
from geventpg.testing import CertificateAuthority, PgBouncer, ServerError, programs
from geventpg.testing.programs import (
    HIDING,
    PACKAGES,
    NotInstalled,
    find_every,
    find_program,
    require_libpq,
    require_program,
)
from tests.support.script import ROOT, output_of
from tests.support.system_postgres import find_openssl_server


@pytest.fixture
def hide(monkeypatch):
    """Return a function that hides these programs; none is hidden before it is called."""
    monkeypatch.delenv(HIDING, raising=False)
    return lambda names: monkeypatch.setenv(HIDING, names)


@pytest.fixture
def install(monkeypatch, hide, tmp_path):
    """Return a function that makes a program in a folder; no other folder is looked at."""
    monkeypatch.setattr(programs, "_BEFORE_PATH", (str(tmp_path / "before"),))
    monkeypatch.setattr(programs, "_AFTER_PATH", (str(tmp_path / "after"),))
    monkeypatch.setattr(programs, "_POSTGRESQL", tmp_path / "postgresql")
    monkeypatch.setenv("PATH", str(tmp_path / "path"))

    def make(folder, name, mode=0o755):
        program = tmp_path / folder / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.touch()
        program.chmod(mode)
        return str(program)

    return make


def test_a_program_is_found_on_the_path_and_where_servers_are(install):
    assert find_program("pgbouncer") is None
    after = install("after", "pgbouncer")
    assert find_program("pgbouncer") == require_program("pgbouncer") == after
    on_path = install("path", "pgbouncer")
    assert list(find_every("pgbouncer")) == [on_path, after]
    install("before", "pgbouncer", mode=0o644)  # no program
    assert find_program("pgbouncer") == on_path


def test_the_newest_postgresql_comes_first(install):
    found = [install(f"postgresql/{version}/bin", "initdb") for version in (9, 18, 17)]
    assert list(find_every("initdb")) == [found[1], found[2], found[0]]


def test_a_missing_program_is_an_error_that_says_what_to_install(install):
    with pytest.raises(NotInstalled) as caught:
        require_program("initdb")
    assert str(caught.value) == "initdb is not installed: apt-get install postgresql"
    assert isinstance(caught.value, ServerError)


def test_a_program_that_is_not_in_the_table_is_a_mistake():
    with pytest.raises(ValueError, match=r"unknown program 'pgbuoncer'.*PACKAGES"):
        find_program("pgbuoncer")


@pytest.mark.parametrize("hidden", ["initdb", "postgresql", "all", "pgbouncer, postgresql"])
def test_a_program_is_hidden_by_its_name_its_package_and_by_all(install, hide, hidden):
    there = install("path", "initdb"), install("path", "redis-server")
    assert (find_program("initdb"), find_program("redis-server")) == there
    hide(hidden)
    assert find_program("initdb") is None
    assert find_program("redis-server") == (None if hidden == "all" else there[1])
    with pytest.raises(NotInstalled, match=f"apt-get install postgresql .hidden by {HIDING}."):
        require_program("initdb")


def test_hiding_what_does_not_exist_is_a_mistake(hide):
    hide("redis")
    with pytest.raises(ValueError, match=rf"{HIDING} knows no redis, only .*redis-server"):
        find_program("pgbouncer")


def test_all_hides_everything_from_everything(hide, pg, tmp_path):
    hide("all")
    assert [name for name in PACKAGES if find_program(name)] == []
    assert programs.missing_packages() == sorted(set(PACKAGES.values()))
    assert find_openssl_server() is None
    with pytest.raises(NotInstalled):
        require_libpq()
    with pytest.raises(NotInstalled, match="pgbouncer"):
        PgBouncer(pg.dsn)
    with pytest.raises(NotInstalled, match="openssl"):
        CertificateAuthority(tmp_path)


def test_a_child_process_does_not_find_it_either(install, hide):
    install("path", "pgbouncer")
    source = """
    from geventpg.testing.programs import find_program
    print(find_program("pgbouncer"))
    """
    path = os.pathsep.join([os.environ["PATH"], str(Path(sys.executable).parent)])
    assert output_of(source, PATH=path) == f"{os.environ['PATH']}/pgbouncer\n"
    hide("pgbouncer")
    assert output_of(source, PATH=path) == "None\n"


def test_nothing_else_looks_for_programs():
    looking = re.compile(r"shutil\.which|/usr/s[b]in|/usr/lib/(postgresql|rabbitmq)\b")
    folders = ("geventpg", "celery_integration", "tests", "examples", "benchmarks")
    found = {
        path
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if looking.search(path.read_text())
    }
    assert found == {Path(programs.__file__)}


def test_the_pool_does_not_take_the_variable_for_an_option():
    assert from_environment({HIDING: "all"}) == {}
