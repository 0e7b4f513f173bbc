"""The flush daemon: claims what was counted, writes it to MongoDB and MySQL, acknowledges. Never imports `ingest`."""
