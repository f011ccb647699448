"""The same work four ways: a shared connection, stock psycopg_pool, and geventpg's two."""
