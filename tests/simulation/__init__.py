"""The protocol on 100 nodes, in pure Python: who may fail, and what each count must be in the end.

`model.py` has the scripts of `lua/` and MongoDB's floor and journal. `actors.py` has what runs against them: producers,
ingest hosts, flushers. `world.py` lets chance decide whose turn it is and what fails. No server takes part. So an hour
of 100 nodes takes seconds, and one seed always gives the same hour.

Each amount is kept as the events it is made of. So an event that counts twice cannot hide behind one that is lost.
"""
