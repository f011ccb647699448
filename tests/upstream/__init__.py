"""Other projects' own test-suites on geventpg. They take minutes and are no part of `make test`."""
