"""Both count: the application in its own column, tallyd beside it in another. Do they agree, and go on agreeing?

compare.py   the two columns of a table, added up and ranked by MySQL
history.py   what each day's comparison found, kept in MongoDB, and the trend
"""
