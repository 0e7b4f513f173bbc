"""The hot store: Redis and the Lua scripts. The only place that knows Lua exists.

Above it, everything speaks of requests, claims and acks (`counters.py`).
"""
