"""The command ``geventpg``, also ``python -m geventpg``: an edge, with the extra ``cli``.

A file for each command, which reads options and prints; what they find out is in modules of its own
that know no terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line *arguments*, or those of this process, and exit.

    The plain install has the command, which then says which extra it needs; the status is 2.
    """
    try:
        import click  # noqa: F401
        import rich  # noqa: F401
    except ImportError:
        sys.stderr.write(
            'geventpg: the command needs the extra "cli": pip install "geventpg[cli]"\n'
        )
        sys.exit(2)
    from .group import geventpg

    geventpg(args=arguments, prog_name="geventpg")
