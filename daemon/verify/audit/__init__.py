"""The audit: does every accepted amount lie where it should? It states the conservation law, and repairs only MySQL.

hot.py       what Redis holds, shard by shard
rollups.py   what the rollups hold
laws.py      the laws, pure: snapshots in, findings out
deep.py      each entity across the rollups
replica.py   each row of MySQL against its totals
audit.py     the order in which all of that is read and compared
"""
