"""Where counts are written to: MongoDB's rollups, MySQL's replica columns. What became of each write is a value."""
