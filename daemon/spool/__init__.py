"""Events that cannot reach Redis wait on the local disk. They are fsynced before the 202, and replayed later.

record.py    bytes ↔ events, checksummed
origin.py    a segment's first line: which Redis its events are for
segment.py   one append-only file: one worker writes it, the process that locks it replays it
spool.py     the worker's writing end: group commit, rotation, bounds
replay.py    the reading end: sends segments to Redis through `ingest.lua`
"""
