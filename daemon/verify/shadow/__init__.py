"""Compares two columns while both count: the application's own, and tallyd's beside it.

compare.py   the two columns of a table, summed and ranked by MySQL
history.py   the result of each day, kept in MongoDB, and the trend
"""
