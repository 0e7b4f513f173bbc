"""What cannot reach Redis waits on the local disk, fsynced before the 202, and is replayed when Redis is back.

record.py    bytes ↔ events, checksummed
segment.py   one append-only file: written by one worker, replayed by whoever locks it
spool.py     the worker's writing end: group commit, rotation, bounds
replay.py    the reading end: segments back into Redis through the same `ingest.lua`
"""
