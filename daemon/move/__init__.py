"""Take an application over, and give it back. Called by the commands `backfill` and `drill`."""
