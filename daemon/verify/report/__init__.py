"""Evidence that both stores agree, kept as files: an artifact a day, an archive of them, and their verification.

artifact.py   the artifacts as structs: `analytics-artifact.v1`
schema.py     the same as JSON Schema
day.py        what the rollups say of one day
waiting.py    what is not in MongoDB or MySQL yet
routes.py     which routes answer
generate.py   all artifacts of a window, written
archive.py    the manifest, and a zip of them
contents.py   the files of a folder or of a zip nobody has vouched for
judge.py      one artifact: its fields and its sums
verify.py     all of it against the manifest

A report reads the stores; it writes nothing but files.
"""
