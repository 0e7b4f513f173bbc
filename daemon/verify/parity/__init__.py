"""Parity: do the columns of MySQL equal the totals in MongoDB? Reads only.

check.py     all mapped entity types, counted up
compare.py   the rows of one, the highest counter first
absent.py    totals without a row
rows.py      a mismatch in the format of files
"""
