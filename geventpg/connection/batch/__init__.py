"""Several statements of one connection, sent together."""
