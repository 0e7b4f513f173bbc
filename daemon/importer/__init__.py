"""`tallyd import`: files of web-server logs and NDJSON events, through the decoder and the Lua call of the daemon.

A file's bytes flow one way: `source` (open, gunzip) → `lines` (split, running digest) → `judge` (`accesslog` and `mapping`,
or the JSON decoder) → `sender` (Redis, then the checkpoint). `resume` decides where a file starts; `run` goes through
the files.
"""
