"""Takes over what was counted before tallyd. MySQL's columns become the bases of totals; a file of days, of history.

legacy.py     the rows of a mapped table, in the order of the key
changes.py    how a row changes a document, pure
run.py        all rows of all tables, a chunk at a time
progress.py   how far a run has come, and where the next goes on
dailyfile.py  the lines of a file of days
history.py    the days, weeks, months and years
compare.py    the largest of MySQL beside the largest of MongoDB
session.py    one `tallyd backfill`: all of that in order
"""
