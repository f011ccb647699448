"""The commands together."""

from __future__ import annotations

import click

from geventpg import __version__

from .bench import bench
from .demo import demo
from .doctor import doctor
from .plan import plan
from .top import top


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="geventpg")
def geventpg() -> None:
    """PostgreSQL under gevent: look at it, plan it, measure it."""


for command in (doctor, plan, top, bench, demo):
    geventpg.add_command(command)
