"""MySQL: the columns that repeat the totals.

sync.py      one shard's due entities: their columns are set to their totals
mysql.py     the connection, its lock and its statements
sql.py       the text of the statements
adopt.py     the base: what a column said before tallyd first wrote it
aliases.py   entities that wrote the row of another id, in former versions
columns.py   which columns the bases were read from
known.py     which entities have a row, asked before they are written
synced.py    how much of what was counted a row holds
"""
