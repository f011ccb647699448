"""The same work three ways: one shared connection, stock psycopg_pool, geventpg."""
