"""One module per peer, each set up as its own documentation recommends."""
