"""`geventpg plan` from its options to its answer."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from geventpg.cli.capacity import Demand, Server, make
from geventpg.cli.group import geventpg

SERVER = Server(max_connections=100, reserved=3, others=0, cores=None)


def demand(**changes):
    values = {
        "machines": 2,
        "processes": 1,
        "concurrency": 100,
        "held": 0.005,
        "elsewhere": 0.045,
        "rate": None,
        "accepted_wait": 0.005,
    }
    return Demand(**{**values, **changes})


def run(*arguments):
    return CliRunner().invoke(geventpg, ["plan", *arguments])


def test_the_pool_is_the_smallest_that_keeps_the_accepted_wait():
    plan = make(demand(), SERVER)
    size = plan.pool.connections
    assert plan.enough
    assert plan.pool.p95 <= 0.005
    smaller = demand().queue(size - 1)
    assert smaller.waits_longer(0.005) > 0.05
    assert plan.needed == 2 * size


def test_pgbouncer_is_due_when_the_fleet_outgrows_the_server_and_shares_better():
    fits = make(demand(machines=8), SERVER)
    assert (fits.pooler_is_due, fits.pooler, fits.squeezed) == (False, None, None)
    outgrown = make(demand(machines=fits.processes_that_fit + 1), SERVER)
    assert outgrown.pooler_is_due
    assert outgrown.pooler.connections < outgrown.needed
    assert outgrown.pooler.p95 <= 0.005
    assert outgrown.squeezed.connections * outgrown.demand.fleet <= 97
    assert outgrown.squeezed.mean > outgrown.pool.mean


def test_a_fleet_with_more_processes_than_connections_has_only_the_pooler():
    plan = make(demand(machines=200, rate=1_000.0, elsewhere=None), SERVER)
    assert plan.squeezed is None
    assert plan.pooler.connections < 97


def test_more_work_than_greenlets_is_said():
    plan = make(demand(concurrency=10, rate=10_000.0, elsewhere=None), SERVER)
    assert not plan.enough
    assert plan.pool.connections == 10
    assert plan.as_dict()["pool"]["mean"] is None  # JSON knows no infinity


def test_too_few_cores_are_said():
    assert make(demand(), Server(100, 3, 0, cores=2)).overloads_cores
    assert not make(demand(), Server(100, 3, 0, cores=16)).overloads_cores


def test_the_command_prints_sizes_and_advice_and_ends_well():
    done = run("--machines", "2")
    assert done.exit_code == 0, done.output
    assert "finite source (M/M/c//N)" in done.output
    assert "Set max_size=12" in done.output
    assert "PgBouncer is not due" in done.output


def test_the_command_says_by_its_status_that_a_pooler_is_due():
    done = run("--machines", "20", "--processes", "4", "--server-cores", "4")
    assert done.exit_code == 1
    assert "PgBouncer is due" in done.output
    assert "default_pool_size=" in done.output
    assert "4 cores work well on about 8" in done.output


def test_json_has_everything_in_seconds():
    done = run("--json", "--rate", "1000", "--statements", "2")
    answer = json.loads(done.output)
    assert answer["formula"] == "Erlang C (M/M/c)"
    assert answer["demand"]["held"] == 0.01
    assert answer["pool"]["connections"] == answer["needed"] > 10
    assert answer["pooler_is_due"] is False


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--rate", "5", "--other-ms", "3"), "exclude each other"),
        (("--machines", "0"), "x>=1"),
        (("--statement-ms", "soon"), "not a valid float"),
    ],
)
def test_wrong_options_are_named(arguments, said):
    done = run(*arguments)
    assert done.exit_code == 2
    assert said in done.output
