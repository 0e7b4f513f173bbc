"""Parity: do the columns of MySQL say what the totals in MongoDB say? Reads only.

check.py     all mapped entity types, counted up
compare.py   the rows of one, the highest counter first
absent.py    totals no row shows
rows.py      a mismatch as it is written to a file
"""
