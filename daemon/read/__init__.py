"""Reading what was counted. Writes nothing.

api.py      the read API of one ingest worker: keys, origins, tags, and the cache (cache.py) around
routes.py   what can be asked, out of parameters.py; each answered by
totals.py, exact.py, top.py, series.py, summary.py
openapi.py  the description of it all, with schemas.py
status.py   the state of the flow, for `tallyd status`
"""
