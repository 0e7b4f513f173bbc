"""What tests, load tests, chaos runs and benchmarks start a system with, send to it, and read from it.

    servers.py    one server of a run's own, one Redis of a version, and the stack of all three
    stores.py     the content of the stores, read with their plain clients
    system.py     clean stores on running servers, and the commands of tallyd that work on them
    commands.py   running a command to its end
    daemon.py     one daemon process: start, wait, stop, kill, freeze
    nginx.py      a real nginx with the file of ops/proxy
    proxy.py      the line between a process and a store: hold a request, lose a reply, cut it
    pair.py       a Redis that comes back older: cut back, or a replica that took over
    oracle.py     the expected counts, from the calendar alone
    events.py     a good event, and where events are sent
    load.py       clients that remember what became of each event
    wire.py       HTTP as bytes on a socket
    kill.py       a process killed at each step of a module's `STEPS`
    catalogue.py  movies with names and a past, and hostile ids: what a dashboard shows
    shard.py      the Lua scripts of one shard, called without tallyd's own code
    importing.py  `tallyd import` in a test
    takeover.py   `tallyd backfill` in a test
    certificates.py   an authority, and what it issues
    wait.py       waiting for something to become true

`python -m bench` and `python -m loadtest` run without pytest: only `kill.py` imports it.
"""
