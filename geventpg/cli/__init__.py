"""The command ``geventpg``, also ``python -m geventpg``: an edge, with the extra ``cli``.

A file for each command, which reads options and prints; what they find out is in modules of its own
that know no terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line *arguments*, or those of this process, and exit."""
    try:
        import click  # noqa: F401
        import rich  # noqa: F401
    except ImportError as error:
        sys.exit(f"geventpg: {error.name} is not installed: pip install 'geventpg[cli]'")
    from .group import geventpg

    geventpg(args=arguments, prog_name="geventpg")
