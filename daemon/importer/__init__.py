"""`tallyd import`: web-server logs and NDJSON events, through the decoder and the Lua call of the ingest daemon.

A file's bytes flow one way: `source` (open, gunzip) → `lines` (split, running digest) → `classify` (`accesslog` and
`mapping`, or the JSON decoder) → `sender` and `store` (Redis, then the checkpoint). `reading` moves them along.
`resume` finds where a file starts, `session` imports all files of a command. `summary` shows the result.
"""
