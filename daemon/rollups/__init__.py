"""MongoDB: the rollups, and what could not be written to them."""
