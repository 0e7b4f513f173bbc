"""Gives up old days and weeks without losing a count: `tallyd expire`.

batch.py    moves one batch of documents into the sums of what expired, exactly once, wherever it dies
expiring.py what the current batch has taken out and not yet added to those sums: `audit` adds it
history.py  whose history has begun to expire: `backfill --daily` leaves those alone
expire.py   chooses the documents, batch after batch
"""
