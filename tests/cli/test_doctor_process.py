"""`geventpg doctor` looks at the interpreter, the environment, and a program's imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from geventpg.cli.group import geventpg
from geventpg.testing.programs import require_libpq
from tests.support.script import clean_environment


def in_a_process(*arguments, cwd=None, **environment):
    """Run the command as a user does; return the findings, and the exit status."""
    done = subprocess.run(
        [sys.executable, "-m", "geventpg", "doctor", "--json", *arguments],
        capture_output=True, text=True, check=False, timeout=60, cwd=cwd,
        env=clean_environment(**environment),
    )  # fmt: skip
    assert done.stdout, done.stderr
    findings = {finding["code"]: finding for finding in json.loads(done.stdout)["findings"]}
    return findings, done.returncode


def test_a_misspelled_variable_is_named_with_the_one_that_was_meant(doctor):
    diagnosis = doctor(env={"GEVENTPG_MAXSIZE": "20", "GEVENTPG_TIMEOUT": "1"})
    assert diagnosis.exit_code == 1
    assert diagnosis.troubles == {"variable"}
    assert "GEVENTPG_MAXSIZE" in diagnosis.findings["variable"]["found"]
    assert "'GEVENTPG_MAX_SIZE'" in diagnosis.findings["variable"]["found"]


def test_a_variable_that_cannot_be_read_is_named_without_its_value(doctor):
    diagnosis = doctor(env={"GEVENTPG_TIMEOUT": "hunter2"})
    assert diagnosis.troubles == {"variable"}
    assert "hunter2" not in str(diagnosis.findings)


def test_without_a_server_the_process_is_looked_at(doctor):
    diagnosis = doctor()
    assert diagnosis.exit_code == 0
    assert diagnosis.level("versions") == "ok"
    assert diagnosis.level("no-server") == "note"


def test_a_resolver_that_blocks_and_a_slow_old_psycopg_are_named():
    require_libpq()
    findings, status = in_a_process(PSYCOPG_IMPL="python", GEVENT_RESOLVER="block")
    assert status == 1
    assert findings["resolver-blocks"]["level"] == "problem"
    assert findings["psycopg-in-python"]["level"] == "warning"
    assert ("libpq-old" in findings) == (findings["versions"]["facts"]["libpq"] < 170_000)


PROGRAMS = {
    "unpatched": ("import socket", "not-patched", 1),
    "late": (
        "import psycopg\nfrom gevent import monkey\nmonkey.patch_all()",
        "patched-too-late",
        1,
    ),
    "timely": ("from gevent import monkey\nmonkey.patch_all()\nimport psycopg", "patched", 0),
    "worker": (
        "print('noise')\nfrom celery import Celery\napp = Celery('worker')",
        "patched-by-celery",
        0,
    ),
    "broken": ("raise RuntimeError('no settings')", "app-fails", 1),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_that_patches_too_late_or_never_is_named(tmp_path, monkeypatch, doctor, name):
    source, code, status = PROGRAMS[name]
    (tmp_path / f"program_{name}.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    diagnosis = doctor("--app", f"program_{name}:app")
    assert code in diagnosis.findings
    assert diagnosis.exit_code == status
    if name == "late":
        assert "psycopg" in diagnosis.findings[code]["facts"]["early"]
    if name == "broken":
        assert "no settings" in diagnosis.findings[code]["found"]


def test_the_text_is_one_line_for_each_finding_and_one_for_its_advice():
    env = {name: "" for name in os.environ if name.startswith("GEVENTPG_")}
    done = CliRunner().invoke(geventpg, ["doctor"], env={**dict.fromkeys(env), "GEVENTPG_X": "1"})
    lines = done.stdout.splitlines()
    assert done.exit_code == 1
    assert any(line.startswith("problem variable: unknown environment variable") for line in lines)
    assert any(line.startswith("        → Correct it.") for line in lines)
    assert lines[-1].endswith("1 problem(s), 0 warning(s), 1 note(s)")
    quiet = CliRunner().invoke(geventpg, ["doctor", "-q"], env=dict.fromkeys(env))
    assert (quiet.exit_code, len(quiet.stdout.splitlines())) == (0, 1)
