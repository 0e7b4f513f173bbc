"""Giving up old days and weeks without losing a count: `tallyd expire`.

batch.py    one batch of documents, from its collection into the sums of what expired; exactly once, wherever it dies
expiring.py what a batch under way has taken out of the one and not yet put into the other: what `audit` adds
history.py  whose history has begun to go: what `backfill --daily` leaves alone
expire.py   which documents, and batch after batch
"""
