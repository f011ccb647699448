"""The pool: which greenlet has which connection, and what happens to the idle ones."""
