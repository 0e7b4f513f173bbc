"""What a browser gets: the tracker's files, the pixel and the badge.

`ingest/app.py` routes to it, `tallyd snippet` prints the tag. Nothing here counts or asks a store. See DESIGN.md.
"""
