"""The audit: does every accepted amount lie where it should? States the conservation law; repairs only the replica.

hot.py       what Redis holds, per shard
rollups.py   what the rollups hold
laws.py      the laws, pure: snapshots in, findings out
deep.py      each entity across all rollups
replica.py   each row of MySQL against its totals
audit.py     the order in which all of that is read and judged
"""
