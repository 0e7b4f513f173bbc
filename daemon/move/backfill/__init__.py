"""Taking over what was counted before tallyd: the columns of MySQL as the bases of totals, a file of days as the bases
of their history.

legacy.py     the rows of a mapped table, in the order of the key
changes.py    what a row changes, pure
run.py        all rows of all tables, a chunk at a time
progress.py   how far a run came, and where the next goes on
dailyfile.py  the lines of a file of days
history.py    the days, weeks, months and years
compare.py    the largest of MySQL beside the largest of MongoDB
session.py    all of that in order: one `tallyd backfill`
"""
