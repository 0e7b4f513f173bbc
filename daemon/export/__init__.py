"""Rollups as files for other programs: `tallyd export`. Reads only.

rows.py      the documents of a rollup as rows, streamed
formats.py   CSV, NDJSON and Parquet
"""
