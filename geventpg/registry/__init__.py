"""Named pools, and the connection that a greenlet has of each."""
