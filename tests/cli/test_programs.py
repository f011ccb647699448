"""The command as a whole, and the programs that it runs: from a wheel, too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from geventpg.cli import top
from geventpg.cli.bars import bars_of, draw
from geventpg.cli.group import geventpg
from tests.support.script import ROOT, clean_environment, run_script

COMMANDS = ("doctor", "plan", "top", "bench", "demo")


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Return a directory with what is in a wheel, and nothing of this checkout."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(folder / "lib")],
        cwd=ROOT, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return folder / "lib"


def run(
    installed: Path, folder: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "geventpg", *arguments],
        cwd=folder, env=clean_environment(PYTHONPATH=str(installed), **environment),
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_an_installed_benchmark_runs_on_a_server_of_the_user_s_and_draws_a_chart(
    installed, tmp_path, dsn, admin
):
    arguments = ["--rounds", "1", "--seconds", "0.05", "--peers", "geventpg"]
    done = run(installed, tmp_path, "bench", dsn, *arguments, "--json", "figures.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "queries per second, transactions, 100 greenlets" in done.stdout
    assert "geventpg █" in done.stdout
    record = json.loads((tmp_path / "figures.json").read_text())
    assert {result["cell"]["mode"] for result in record["results"]} == {
        "autocommit",
        "transactions",
    }
    assert record["failures"] == []
    assert admin.execute("select to_regclass('geventpg_bench')").fetchone() == (None,)


def test_an_installed_demo_knows_its_ways(installed, tmp_path):
    done = run(installed, tmp_path, "demo", "no-such-way", TMPDIR=str(tmp_path))
    assert done.returncode == 2
    assert "there are shared, stock, geventpg" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_table_of_the_benchmark_s_name_is_not_dropped(dsn, admin):
    admin.execute("create table geventpg_bench (precious text)")
    try:
        done = CliRunner().invoke(geventpg, ["bench", dsn])
        assert done.exit_code == 1
        assert "there is a table geventpg_bench already" in done.output
        assert admin.execute("select to_regclass('geventpg_bench')").fetchone() != (None,)
    finally:
        admin.execute("drop table geventpg_bench")


def test_a_server_that_is_away_is_said_in_a_line(dsn, proxy):
    proxy.stop()
    done = CliRunner().invoke(geventpg, ["bench", proxy.dsn(dsn)])
    assert done.exit_code == 1
    assert "geventpg doctor says more" in done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    done = CliRunner().invoke(geventpg, [command, "--help"], prog_name="geventpg")
    assert done.exit_code == 0
    assert f"geventpg {command} [OPTIONS]" in done.output
    assert "Usage" in done.output


def test_the_command_lists_the_commands_and_its_version():
    done = CliRunner().invoke(geventpg, ["--help"])
    assert all(f"  {command} " in done.output for command in COMMANDS)
    assert CliRunner().invoke(geventpg, ["--version"]).output.startswith("geventpg, version ")


def test_without_the_extra_it_says_what_to_install():
    done = run_script(
        "import sys; sys.modules['click'] = None; from geventpg.cli import main; main(['plan'])"
    )
    assert done.returncode == 2
    assert done.stderr == (
        'geventpg: the command needs the extra "cli": pip install "geventpg[cli]"\n'
    )


def test_bars_are_as_long_as_the_rates_and_fit_into_the_line():
    def result(peer, rate, ratio):
        figures = {"queries_per_second": {"median": rate, "ratio": ratio}}
        cell = {"mode": "autocommit", "count": 100}
        return {"cell": cell, "peer": peer, "figures": figures}

    record = {"results": [result("slow", 50.0, None), result("fast", 100.0, 2.0)]}
    (bars,) = bars_of(record).values()
    lines = draw(bars, {"fast": "Fast"}, 60)
    assert [line.split()[0] for line in lines] == ["Fast", "slow"]
    assert [line.count("█") for line in lines] == [36, 18]
    assert lines[0].endswith("100  2.00x")
    assert max(map(len, lines)) <= 60


def test_ctrl_c_ends_top_even_if_a_library_swallows_it(monkeypatch):
    class Deaf:
        def __init__(self, *_):
            pass

        def ask(self, _timeout):
            with suppress(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
                for _ in range(1000):
                    pass
            return {}

    monkeypatch.setattr(top, "Workers", Deaf)
    before = signal.getsignal(signal.SIGINT)
    done = CliRunner().invoke(top.top, ["-A", "app", "--count", "3"])
    assert done.exit_code == 0
    assert done.output == ""
    assert signal.getsignal(signal.SIGINT) is before
