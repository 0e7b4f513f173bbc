"""Reading what was counted. Writes nothing.

api.py         the read API of one ingest worker: keys, origins, tags, and the cache (cache.py) around all
credentials.py the key that a request has, and whether it is a good one
routes.py      the table of reads: path → the class that answers it
endpoints/     the reads: the type of each answer, its parameters, and how it is found; endpoint.py is their base
parameters.py  the kinds of parameters: parsing, and describing for OpenAPI
openapi.py     the description of the daemon, made from the table and the types
response.py    the answers that hold no counts
totals.py, exact.py, top.py, series.py, sums.py   how counts are read from the stores (stores.py)
names.py       the MySQL rows beside them
breaker.py     refuses reads while MongoDB does not answer
gate.py        how many reads of a kind are under way at once
slices.py      work in slices, between which the event loop serves others
days.py        a day's documents, for `tallyd report`
status.py      how far along the flow everything is; trouble.py: what of it is wrong, in sentences
"""
