"""Evidence that both stores agree, kept as files: an artifact for each day, an archive of them, and their verification.

artifact.py   the artifacts as structs and as JSON Schema: `analytics-artifact.v1`
day.py        what the rollups say of one day
routes.py     which routes answer
generate.py   writes all artifacts of a window of days
gate.py       whether each of the last days has one, in which nothing differs
archive.py    the manifest, and a zip of the artifacts
contents.py   reads the files of an untrusted folder or zip
validate.py   one artifact: its fields and its sums
verify.py     all artifacts, and all files against the manifest

A report reads the stores. It writes nothing but files.
"""
