"""The field cases: stock parts fail as published, and geventpg does what is claimed."""

from __future__ import annotations

import json
import subprocess
import sys

from geventpg.testing.programs import HIDING, require_program
from tests.support.script import ROOT, clean_environment

STOCK, OURS = "psycopg_pool", "geventpg"
CASES = {path.stem[4]: path.stem for path in (ROOT / "examples" / "cases").glob("case[0-9]_*.py")}


def run_case(number, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", f"examples.cases.{CASES[number]}", "--short", *arguments],
        cwd=ROOT, env=clean_environment(**environment), capture_output=True, text=True,
        timeout=55, check=False,
    )  # fmt: skip


def figures_of(number):
    """Run a case; return a function that gives a way's figure by the beginning of its label."""
    done = run_case(number, "--json")
    print(done.stdout)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    rows = json.loads(done.stdout)["rows"]

    def figure(way, label):
        (found,) = [values for name, values in rows.items() if name.startswith(label)]
        return found[way]

    figure.labels = list(rows)
    return figure


def test_case_1_a_pool_ends_the_queue_and_tells_waiting_from_use():
    figure = figures_of("1")
    shared = "shared connection"
    slower = {way: figure(way, "times slower than alone") for way in (shared, OURS)}
    assert slower[shared] > 20
    assert slower[OURS] < slower[shared] / 5  # how fast, says `make cases`
    for label in ("waiting for a connection", "using it", "the pool's own count: use"):
        assert figure(OURS, label) >= 0
    assert figure(OURS, "waiting after resize") < figure(OURS, "waiting with max_size 5")
    assert figure(OURS, "connections 0.5 s after") <= 5
    for label in ("user errors after", "idle connections 1.5 times"):
        assert figure(STOCK, label) > 0
        assert figure(OURS, label) == 0


def test_case_2_every_mode_of_a_pooler_gives_only_right_results():
    require_program("pgbouncer")
    figure = figures_of("2")
    for mode in ("session", "transaction", "statement"):
        assert figure(OURS, f"{mode} mode: right") == 50 * 12
        assert figure(OURS, f"{mode} mode: errors") == 0
        assert figure(OURS, f"{mode} mode: wrong") == 0
    assert figure(STOCK, "transaction mode: errors") > 0
    assert figure(STOCK, "transaction mode: right") < 50 * 12
    assert figure(OURS, "without a pooler: statements") == 1
    assert figure(OURS, 'prepare="always"') == 1
    assert figure(OURS, 'prepare="never"') == 0


def test_case_3_statements_that_go_away_disturb_no_caller():
    figure = figures_of("3")
    checked = [label for label in figure.labels if "errors" in label or "wrong" in label]
    assert len(checked) == 13
    assert [figure(OURS, label) for label in checked] == [0] * 13
    assert figure(OURS, "healed") > 0
    for label in ("prepared on one", "DEALLOCATE ALL: e", "DISCARD ALL: e", "ALTER TABLE: e"):
        counts = [figure(STOCK, found) for found in checked if found.startswith(label)]
        assert all(counts), label


def test_case_4_a_batch_that_is_cut_ends_as_a_typed_error_and_costs_nothing_else():
    figure = figures_of("4")
    for label in figure.labels:
        if not label.endswith(("all results", "typed error")):
            assert figure(OURS, label) == 0, label
    assert figure(OURS, "cut in the answer: with a typed error") > 0
    assert figure(STOCK, "interrupted: statements left") > 0
    assert figure(STOCK, "interrupted: connections lost") > 0


def test_case_5_no_caller_meets_a_connection_that_died_idle():
    figure = figures_of("5")
    for label in ("ended by the server: errors", "forgotten by the network: errors"):
        assert figure(OURS, label) == 0
        assert figure(STOCK, label) == 20
        assert figure("SQLAlchemy", label) == 20
    for label in ("server restarted: errors", "server restarted: reported other"):
        assert figure(OURS, label) == 0
    assert figure(STOCK, "server restarted: errors") > 0


def test_without_pgbouncer_case_2_says_what_to_install_and_is_no_failure():
    done = run_case("2", **{HIDING: "pgbouncer"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "apt-get install pgbouncer" in done.stdout


def test_all_cases_are_run_by_their_command():
    done = subprocess.run(
        [sys.executable, "-m", "examples.cases", "9"],
        cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert all(name in done.stderr.replace("\n", " ") for name in CASES.values())
    assert sorted(CASES) == ["1", "2", "3", "4", "5"]
