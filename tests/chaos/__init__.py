"""The system under faults: real servers and daemons, really killed, and every count compared with the oracle.

    load.py      a producer that knows of each event whether it was accepted, rejected, or is unknown
    world.py     a private stack, the daemons, a proxy between every two of them, and the counts in the end
    faults.py    the faults, a list one can read
    run.py       load and random faults for as long as wanted, checks in between, the report
    failover.py  Redis comes back older, again and again
    figures.py   how long recovering takes

`just chaos`, `just soak` and `just chaos-cluster` run it; `test_kill_matrix.py` and `test_failover.py` are the fixed
short part for every test run.
"""
