"""Other projects' own test suites, run on geventpg; not part of ``make test``."""
