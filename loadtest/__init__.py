"""Load on a real tallyd, with Locust, and at the end a verdict: is every event that was answered 202 counted once?

    scenarios.py  the scenarios, a list one can read
    parcels.py    the requests: events, batches, events sent again, events that must be refused
    verdict.py    whether an answer is the documented one
    tally.py      the accepted amounts of each entity and day, as the producers know them
    swarm.py      Locust, in a process of its own, because gevent patches all of it
    system.py     the stores and daemons under load, fresh for each run (from tests/kit)
    faults.py     what happens to them meanwhile
    run.py        a run from its begin to its verdict
    compare.py    the tally against MongoDB, MySQL and the ledger
    report.py     the files of a run: JSON and a page

`python -m loadtest SCENARIO` (`just load SCENARIO`) runs one. See README.md.
"""
