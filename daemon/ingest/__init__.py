"""The ingest daemon: HTTP in, one Lua call for everyone who waits, 202 out. Never imports `flush`."""
