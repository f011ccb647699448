"""The examples do what they say, run as they say."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support import wait_until
from tests.support.script import ROOT, clean_environment

pytest.importorskip("celery")


def with_our_python(**changes: str) -> dict[str, str]:
    """Return an environment in which ``python`` and ``celery`` are this virtualenv's."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return clean_environment(PATH=path, **changes)


def test_the_minimal_worker_runs_exactly_as_its_comment_says(dsn, admin, redis_server, tmp_path):
    source = (ROOT / "examples" / "minimal_worker.py").read_text()
    assert len(source.splitlines()) <= 20
    comment = source.split('"""')[1]
    create = comment.split('"')[1]
    exported, start, send = (shlex.split(line) for line in comment.splitlines()[1:4])
    values = {"GEVENTPG_CONNINFO": dsn, "BROKER": redis_server.url.replace("/0", "/7")}
    assert [word.partition("=")[0] for word in exported[1:]] == list(values)
    admin.execute("drop table if exists notes")
    admin.execute(create)
    log = tmp_path / "log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            start, cwd=ROOT, env=with_our_python(**values), stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        subprocess.run(send, cwd=ROOT, env=with_our_python(**values), check=True, timeout=20)
        wait_until(
            lambda: admin.execute("select text from notes").fetchall() == [("hello",)],
            timeout=20,
            interval=0.05,
        )
    finally:
        worker.kill()
        worker.wait()
        print(log.read_text())
        admin.execute("drop table notes")


@pytest.mark.hang_limit(120)
def test_the_demo_runs_to_its_end_and_geventpg_loses_nothing(tmp_path):
    environment = with_our_python(GEVENTPG_DEMO_TASKS="200", GEVENTPG_DEMO_BROKER="filesystem")
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo", "shared", "geventpg", "statements"],
        cwd=tmp_path, env={**environment, "COLUMNS": "120"}, capture_output=True, text=True,
        timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    table = [line for line in done.stdout.splitlines() if "│" in line]
    rows = {
        cells[0]: cells[1:] for cells in ([c.strip() for c in r.split("│")[1:-1]] for r in table)
    }
    for column, way in ((1, "geventpg"), (2, "statements")):
        assert rows["failed tasks"][column] == "0"
        assert rows["tasks ended by time limit"][column] == "3 of 3"
        assert rows["statements left on the server"][column] == "0"
        assert rows["connections lost from the pool"][column] == "0 of 20"
        assert int(rows["backends used, at most"][column]) <= 20
        lines = (tmp_path / "build" / "demo" / f"{way}.jsonl").read_text().splitlines()
        outcomes = Counter(task.get("outcome") for task in map(json.loads, lines))
        assert outcomes["ok"] == 197
        assert outcomes["time limit"] == 3


def test_the_demo_knows_its_ways(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo", "no-such-way"],
        cwd=tmp_path, env=with_our_python(), capture_output=True, text=True,
        timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "no-such-way" in done.stderr
    assert "shared, stock, geventpg, statements" in done.stderr
