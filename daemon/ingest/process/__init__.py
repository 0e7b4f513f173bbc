"""The main process of the ingest daemon and its workers: sockets, signals, reloads, the watchdog."""
