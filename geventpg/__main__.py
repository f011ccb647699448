"""``python -m geventpg``: see `geventpg.cli`."""

from .cli import main

if __name__ == "__main__":
    main()
