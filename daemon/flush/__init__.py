"""The flush daemon: claims what was counted, writes it to the sinks, acknowledges. Never imports `ingest`."""
