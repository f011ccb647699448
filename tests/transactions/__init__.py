"""Transactions, their commits and their repetition."""
