"""Behind a real PgBouncer."""
